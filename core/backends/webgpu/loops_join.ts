/** What reductions keep while they join elements, and how two of these are joined. */
import type { Join, Reduction } from "../../passes/fuse.ts";
import type { Scope } from "./expressions.ts";

/**
 * A product of float32 with its exponent apart: what would overflow on the way may come back, and all orders of joining
 * agree. The mantissa is in [1, 2), or 0, infinite or NaN.
 */
const PRODUCTS = `struct Product { mantissa: f32, exponent: i32 }
fn productOf(x: f32) -> Product {
  let isSmall = (bitcast<u32>(x) & 0x7f800000u) == 0u;
  let bits = bitcast<u32>(select(x, x * 16777216.0f, isSmall));
  let exponent = (bits >> 23u) & 255u;
  if (exponent == 0u || exponent == 255u) { return Product(x, 0i); }
  let mantissa = bitcast<f32>((bits & 0x807fffffu) | 0x3f800000u);
  return Product(mantissa, i32(exponent) - select(127i, 151i, isSmall));
}
fn joinProducts(x: Product, y: Product) -> Product {
  let z = productOf(x.mantissa * y.mantissa);
  return Product(z.mantissa, x.exponent + y.exponent + z.exponent);
}
fn productValue(x: Product) -> f32 {
  let exponent = clamp(x.exponent, -200i, 200i);
  let half = exponent / 2i;
  let first = bitcast<f32>((half + 127i) << 23u);
  return x.mantissa * first * bitcast<f32>((exponent - half + 127i) << 23u);
}`;

/** How the values of one reduction are joined. Everything is text: expressions of WGSL. */
export interface Joining {
  /** The type of what is kept, and its declaration. */
  readonly type: string;
  readonly declaration: string;
  readonly identity: string;
  of(value: string): string;
  join(x: string, y: string): string;
  value(kept: string): string;
  /** As words of memory, and back. */
  readonly words: number;
  toWords(kept: string): readonly string[];
  fromWords(words: readonly string[]): string;
  /** What the invocation has whose number in the subgroup differs in the bits of a mask. */
  shuffled(kept: string, mask: number): string;
}

/** Whether many values are joined in parts: float32 loses less so. */
export function isFloatSum({ join, arg }: Reduction): boolean {
  return join === "sum" && arg.type === "f32";
}

const integers: Readonly<Record<"i32" | "u32", Readonly<Record<Join, number>>>> = {
  i32: { sum: 0, prod: 1, max: -(2 ** 31), min: 2 ** 31 - 1 },
  u32: { sum: 0, prod: 1, max: 0, min: 2 ** 32 - 1 },
};
const floats: Readonly<Record<Join, number>> = { sum: 0, prod: 1, max: -Infinity, min: Infinity };

const shuffled = (x: string, mask: number): string => `subgroupShuffleXor(${x}, ${mask}u)`;

export function joiningOf({ join, arg }: Reduction, scope: Scope): Joining {
  scope.checkType(arg.type);
  const type = arg.type as "f32" | "i32" | "u32";
  if (join === "prod" && type === "f32") {
    return {
      type: "Product",
      declaration: PRODUCTS,
      identity: "Product(1.0f, 0i)",
      of: (x) => `productOf(${x})`,
      join: (x, y) => `joinProducts(${x}, ${y})`,
      value: (x) => `productValue(${x})`,
      words: 2,
      toWords: (x) => [`bitcast<u32>(${x}.mantissa)`, `bitcast<u32>(${x}.exponent)`],
      fromWords: ([x, y]) => `Product(bitcast<f32>(${x}), bitcast<i32>(${y}))`,
      shuffled: (x, mask) =>
        `Product(${shuffled(`${x}.mantissa`, mask)}, ${shuffled(`${x}.exponent`, mask)})`,
    };
  }
  const same = (x: string): string => x;
  return {
    type,
    declaration: "",
    identity: scope.literal(type === "f32" ? floats[join] : integers[type][join], type),
    of: same,
    join: (x, y) => {
      if (join === "sum") return `(${x} + ${y})`;
      if (join === "prod") return `(${x} * ${y})`;
      if (type !== "f32") return `${join}(${x}, ${y})`;
      return `${scope.helper(join === "max" ? "maxOfF32" : "minOfF32")}(${x}, ${y})`;
    },
    value: same,
    words: 1,
    toWords: (x) => [type === "u32" ? x : `bitcast<u32>(${x})`],
    fromWords: ([x]) => (type === "u32" ? x! : `bitcast<${type}>(${x})`),
    shuffled,
  };
}

/** Joins a list in pairs, and these in pairs, and so on. */
export function joinedInPairs({ join }: Joining, list: readonly string[]): string {
  let rest = list;
  while (rest.length > 1) {
    const pairs: string[] = [];
    for (let i = 0; i < rest.length; i += 2) {
      const y = rest[i + 1];
      pairs.push(y === undefined ? rest[i]! : join(rest[i]!, y));
    }
    rest = pairs;
  }
  return rest[0]!;
}
