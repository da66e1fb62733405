/** The float32 functions against the reference: float64 on the host, rounded once. */
import { expect, test } from "bun:test";
import { Aval } from "../../core/aval.ts";
import { type DType, makeArray, type TypedArray } from "../../core/dtype.ts";
import { type Expr, exprType, input } from "../../core/expr.ts";
import { type AnyPrimitive, primitives } from "../../core/primitive.ts";
import * as p from "../../core/prims/elementwise.ts";
import { erfInvP } from "../../core/prims/random.ts";
import { SeededDraw } from "../support/arbitrary_tensor.ts";
import { arrayFunction, hasRelaxed, type LoopOptions } from "../support/vector_kernel.ts";

/** Largest distance from the correctly rounded value, in units in the last place, over all of float32. */
const bounds: readonly (readonly [AnyPrimitive, number])[] = [
  [p.expP, 1],
  [p.expm1P, 2],
  [p.logP, 1],
  [p.log1pP, 1],
  [p.sinP, 2],
  [p.cosP, 2],
  [p.tanP, 1],
  [p.asinP, 2],
  [p.acosP, 1],
  [p.atanP, 2],
  [p.sinhP, 2],
  [p.coshP, 1],
  [p.tanhP, 2],
  [p.sigmoidP, 2],
  [p.softplusP, 2],
  [p.erfP, 2],
  [p.erfcP, 2],
  [erfInvP, 3],
  [p.rsqrtP, 1],
  [p.powP, 2],
  [p.atan2P, 2],
];

const ways: readonly LoopOptions[] = [false, ...(hasRelaxed() ? [true] : [])].map((relaxed) => ({
  relaxed,
  pool: true,
}));

/** The expressions without float64, for devices that have none: largest distance likewise. */
const narrowBounds: readonly (readonly [AnyPrimitive, number])[] = [
  [p.sinP, 2],
  [p.cosP, 2],
  [p.tanP, 3],
  [p.erfcP, 4],
  [p.powP, 4],
];

interface CompiledOptions extends LoopOptions {
  readonly isNarrow?: boolean;
}

/** The kernel of a primitive as a function of arrays. */
function compiled(
  primitive: AnyPrimitive,
  dtype: DType,
  arity: number,
  options: CompiledOptions,
  params: unknown = null,
): (...arrays: readonly TypedArray[]) => TypedArray {
  const { kernel } = primitive;
  if (kernel?.k !== "map") throw new Error(`${primitive.name} has no expression`);
  const type = exprType(dtype);
  const avals = Array.from(
    { length: arity },
    (_, i) => new Aval([1], primitive === p.whereP && i === 0 ? "bool" : dtype),
  );
  const [out] = primitive.shape(avals, params);
  const args = avals.map((aval, i) => input(i, i === 0 ? exprType(aval.dtype) : type));
  const e = kernel.expr(args, params, out!);
  return arrayFunction(
    options.isNarrow ? e.narrow!() : e,
    avals.map((aval) => aval.dtype),
    out!.dtype,
    options,
  );
}

/** The reference on whole arrays. */
function reference(
  primitive: AnyPrimitive,
  dtypes: readonly DType[],
  arrays: readonly TypedArray[],
  params: unknown = null,
): TypedArray {
  const n = arrays[0]!.length;
  const args = arrays.map((data, i) => ({ aval: new Aval([n], dtypes[i]!), data }));
  const outs = primitive.shape(
    args.map(({ aval }) => aval),
    params,
  );
  return primitive.cpu(args, outs, params)[0]!;
}

// --- distance ----------------------------------------------------------------------------------------------------

/** Numbers in order as integers: neighbours differ by 1, and the zeros are equal. */
function ranks(array: TypedArray): Int32Array {
  const bits = new Int32Array(Float32Array.from(array).buffer);
  return bits.map((b) => (b < 0 ? -(2 ** 31) - b : b));
}

interface Distance {
  readonly ulps: number;
  /** Arguments with the wrong kind of result: NaN instead of a number or the reverse, or zero of the wrong sign. */
  readonly wrong: readonly string[];
  readonly at: string;
}

function distance(got: TypedArray, want: TypedArray, arrays: readonly TypedArray[]): Distance {
  const [a, b] = [ranks(got), ranks(want)];
  const wrong: string[] = [];
  let [ulps, at] = [0, -1];
  const say = (i: number): string => `(${arrays.map((x) => x[i]).join(", ")}) is ${want[i]}, got ${got[i]}`;
  for (let i = 0; i < got.length; i++) {
    const [x, y] = [got[i]!, want[i]!];
    const isAlike = Number.isNaN(x) === Number.isNaN(y) && (x !== 0 || y !== 0 || Object.is(x, y));
    if (!isAlike) wrong.push(say(i));
    const far = Number.isNaN(y) ? 0 : Math.abs(a[i]! - b[i]!);
    if (far > ulps) [ulps, at] = [far, i];
  }
  return { ulps, wrong: wrong.slice(0, 5), at: at < 0 ? "" : say(at) };
}

// --- arguments ---------------------------------------------------------------------------------------------------

const edges: readonly number[] = [
  ...[0, 1, 2 ** -149, 2 ** -126, 3.4028234663852886e38, Infinity, Number.NaN, 0.5, Math.SQRT2, Math.PI],
  ...[Math.PI / 2, Math.PI / 4, 16777216, 16777217, 65536, 88.72, 88.73, 87.33, 87.34, 103.9, 104, 9, 10.06],
];

/** Every exponent with both signs, each with the ends of its interval and numbers between, and the edges. */
const sample: Float32Array = (() => {
  const draw = new SeededDraw({ seed: 1, size: 3 });
  const bits: number[] = [];
  for (let high = 0; high < 512; high++) {
    const within = [0, 1, 2, 2 ** 23 - 1, 2 ** 23 - 2, 2 ** 22, 2 ** 22 - 1];
    for (let i = 0; i < 220; i++) within.push(draw.int(0, 2 ** 23 - 1));
    for (const low of within) bits.push(high * 2 ** 23 + low);
  }
  const dense = [...new Float32Array(Uint32Array.from(bits).buffer)];
  // Arguments as they occur: more of them where the functions bend.
  for (let i = 0; i < 60000; i++) dense.push((draw.unit() - 0.5) * 2 ** draw.int(-3, 9));
  return Float32Array.from([...dense, ...edges, ...edges.map((x) => -x)]);
})();

/** Pairs for a function of two arguments: results of every size, and every pair of special numbers. */
function pairsFor(primitive: AnyPrimitive): [Float32Array, Float32Array] {
  const draw = new SeededDraw({ seed: 2, size: 3 });
  const special = [...edges, 2, 3, 1.5, 7, 1e10, 8388607.5].flatMap((x) => [x, -x]);
  const pairs = special.flatMap((x) => special.map((y): [number, number] => [x, y]));
  for (let i = 0; i < 100_000; i++) {
    const x = 2 ** ((draw.unit() - 0.5) * (i % 2 === 0 ? 4 : 250));
    // x^y = 2^t for t between the smallest and the largest exponent; y / x of any size
    const power = ((draw.unit() - 0.5) * 310) / Math.log2(x);
    const ratio = x * 2 ** ((draw.unit() - 0.5) * (i % 3 === 0 ? 60 : 6)) * (draw.bool() ? 1 : -1);
    pairs.push([primitive === p.powP || draw.bool() ? x : -x, primitive === p.powP ? power : ratio]);
  }
  for (let i = 0; i < 2000; i++) pairs.push([-draw.unit() * 20, draw.int(-30, 30)]);
  return [Float32Array.from(pairs, ([x]) => x), Float32Array.from(pairs, ([, y]) => y)];
}

// --- tests -------------------------------------------------------------------------------------------------------

for (const [primitive, bound] of bounds) {
  const arity = primitive.arity!;
  test(`${primitive.name} is within ${bound} ulp, and right for infinities, NaN, zeros and small numbers`, () => {
    const arrays = arity === 1 ? [sample] : pairsFor(primitive);
    const dtypes = arrays.map((): DType => "float32");
    const want = reference(primitive, dtypes, arrays);
    for (const options of ways) {
      const { ulps, wrong, at } = distance(
        compiled(primitive, "float32", arity, options)(...arrays),
        want,
        arrays,
      );
      expect(wrong).toEqual([]);
      expect(ulps, at).toBeLessThanOrEqual(bound);
    }
  });
}

for (const [primitive, bound] of narrowBounds) {
  test(`${primitive.name} without float64 is within ${bound} ulp, and right where it is special`, () => {
    const arity = primitive.arity!;
    const arrays = arity === 1 ? [sample] : pairsFor(primitive);
    const want = reference(
      primitive,
      arrays.map((): DType => "float32"),
      arrays,
    );
    for (const options of ways) {
      const run = compiled(primitive, "float32", arity, { ...options, isNarrow: true });
      const { ulps, wrong, at } = distance(run(...arrays), want, arrays);
      expect(wrong).toEqual([]);
      expect(ulps, at).toBeLessThanOrEqual(bound);
    }
  });
}

test("every function has an expression without float64", () => {
  const types = (root: Expr): Set<string> => {
    const found = new Set<string>();
    const seen = new Set<Expr>();
    const waiting = [root];
    for (let e = waiting.pop(); e !== undefined; e = waiting.pop()) {
      const node: Expr = e.narrow === null ? e : e.narrow();
      if (seen.has(node)) continue;
      seen.add(node);
      found.add(node.type);
      waiting.push(...node.args);
    }
    return found;
  };
  for (const [primitive] of bounds) {
    const { kernel } = primitive;
    if (kernel?.k !== "map") throw new Error(`${primitive.name} has no expression`);
    const args = Array.from({ length: primitive.arity! }, (_, i) => input(i, "f32"));
    const e = kernel.expr(args, null, new Aval([1], "float32"));
    expect([...types(e)], primitive.name).not.toContain("f64");
  }
});

test("results below the normal range are not flushed to zero", () => {
  const xs = Float32Array.of(-88, -95, -100, -103);
  for (const primitive of [p.expP, p.sigmoidP, p.softplusP]) {
    const got = compiled(primitive, "float32", 1, ways[0]!)(xs);
    for (const y of got) expect(y > 0 && y < 2 ** -126).toBe(true);
  }
  const tiny = Float32Array.of(2 ** -149, -(2 ** -149), 3 * 2 ** -140);
  for (const primitive of [p.sinP, p.tanP, p.tanhP, p.expm1P, p.log1pP, p.atanP, p.asinP, p.sinhP])
    expect([...compiled(primitive, "float32", 1, ways[0]!)(tiny)]).toEqual([...tiny]);
});

test("angles beyond the short reduction are right to the largest float32", () => {
  // The float32 nearest to a multiple of pi/2 (Muller et al. 2018, table 11.1), and its neighbours.
  const worst = 16367173 * 2 ** 72;
  const xs = Float32Array.of(
    worst,
    worst * (1 + 2 ** -23),
    -worst,
    3.4028234663852886e38,
    65536.01,
    1e15,
    1e22,
  );
  for (const primitive of [p.sinP, p.cosP, p.tanP]) {
    const want = reference(primitive, ["float32"], [xs]);
    for (const isNarrow of [false, true]) {
      const run = compiled(primitive, "float32", 1, { ...ways[0]!, isNarrow });
      const { ulps, wrong, at } = distance(run(xs), want, [xs]);
      expect(wrong).toEqual([]);
      expect(ulps, at).toBeLessThanOrEqual(2);
    }
  }
});

// --- every record ------------------------------------------------------------------------------------------------

const approximate = new Set<string>(bounds.map(([primitive]) => primitive.name));

/** Arguments of any element type, with the numbers at which integers and floats are special. */
function drawArgument(draw: SeededDraw, dtype: DType, n: number): TypedArray {
  const array = makeArray(dtype, n);
  const special = [0, -0, 1, -1, 2 ** 31 - 1, -(2 ** 31), Number.NaN, Infinity, -Infinity, 2.5, -0.5, 1e-42];
  for (let i = 0; i < n; i++) {
    const x = draw.int(0, 2) === 0 ? draw.pick(special) : draw.int(-12, 12) / (draw.bool() ? 4 : 1);
    array[i] = dtype === "bool" ? draw.int(0, 1) : x;
  }
  return array;
}

/** Zeros without their signs: which of two equal zeros a maximum or a rounding gives is not said. */
const unsigned = (array: TypedArray): number[] => [...array].map((x) => (x === 0 ? 0 : x));

const elementwise = primitives().filter(({ traits }) => traits.elementwise);

test("every elementwise primitive has an expression that agrees with its reference, for every element type", () => {
  const draw = new SeededDraw({ seed: 3, size: 3 });
  let compared = 0;
  for (const primitive of elementwise) {
    const arity = primitive.arity!;
    const targets: readonly unknown[] =
      primitive === p.castP
        ? (["float32", "float64", "int32", "uint32", "bool"] as const).map((dtype) => ({ dtype }))
        : [null];
    for (const dtype of ["float32", "float64", "int32", "uint32", "bool"] as const) {
      if (dtype === "float32" && approximate.has(primitive.name)) continue;
      const dtypes = Array.from(
        { length: arity },
        (_, i): DType => (primitive === p.whereP && i === 0 ? "bool" : dtype),
      );
      for (const params of targets) {
        if (!isAccepted(primitive, dtypes, params)) continue;
        const arrays = dtypes.map((one) => drawArgument(draw, one, 203));
        const want = reference(primitive, dtypes, arrays, params);
        const got = compiled(primitive, dtype, arity, ways[0]!, params)(...arrays);
        expect(unsigned(got), `${primitive.name} of ${dtype}`).toEqual(unsigned(want));
        compared++;
      }
    }
  }
  expect(elementwise.length).toBeGreaterThan(40);
  expect(compared).toBeGreaterThan(100);
});

/** Whether a primitive takes these element types. */
function isAccepted(primitive: AnyPrimitive, dtypes: readonly DType[], params: unknown): boolean {
  try {
    primitive.shape(
      dtypes.map((dtype) => new Aval([1], dtype)),
      params,
    );
    return true;
  } catch {
    return false;
  }
}
