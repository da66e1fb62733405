/**
 * Random bits from a counter-based generator, keys folded with data, and the inverse error function that turns uniform
 * numbers into normal ones. A key is u32[2]; axes before the last hold many keys.
 *
 * The bits are those of `jax.random` with its default generator: threefry2x32 of 20 rounds, counter i for element i.
 */
import type { Aval } from "../aval.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import * as functions from "../functions.ts";
import { definePrimitive, type Primitive } from "../primitive.ts";
import { checkShape, type Shape, sameShape, sizeOf } from "../shape.ts";
import { bind1 } from "../trace.ts";
import type { Value } from "../value.ts";
import { elementwise, erfScalar, exp, like, mul, single } from "./elementwise.ts";
import { batchFirst, moveAxis } from "./movement.ts";

/**
 * Threefry2x32 with 20 rounds: encrypts the counter (c0, c1) under the key (k0, k1) and writes two words to `out`.
 *
 * Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
 */
export function threefry2x32(
  k0: number,
  k1: number,
  c0: number,
  c1: number,
  out: Uint32Array,
  at: number,
): void {
  const k2 = k0 ^ k1 ^ 0x1bd11bda;
  let x = (c0 + k0) | 0;
  let y = (c1 + k1) | 0;
  // Before each group of four rounds `a` and `b` are the key words injected after it; the three words take turns.
  let a = k1;
  let b = k2;
  let next = k0;
  for (let group = 1; group <= 5; group++) {
    if (group % 2 === 1) {
      x = (x + y) | 0;
      y = ((y << 13) | (y >>> 19)) ^ x;
      x = (x + y) | 0;
      y = ((y << 15) | (y >>> 17)) ^ x;
      x = (x + y) | 0;
      y = ((y << 26) | (y >>> 6)) ^ x;
      x = (x + y) | 0;
      y = ((y << 6) | (y >>> 26)) ^ x;
    } else {
      x = (x + y) | 0;
      y = ((y << 17) | (y >>> 15)) ^ x;
      x = (x + y) | 0;
      y = ((y << 29) | (y >>> 3)) ^ x;
      x = (x + y) | 0;
      y = ((y << 16) | (y >>> 16)) ^ x;
      x = (x + y) | 0;
      y = ((y << 24) | (y >>> 8)) ^ x;
    }
    x = (x + a) | 0;
    y = (y + b + group) | 0;
    const used = a;
    a = b;
    b = next;
    next = used;
  }
  out[at] = x;
  out[at + 1] = y;
}

function checkKey(op: string, key: Aval): void {
  if (key.dtype !== "uint32") {
    throw new DTypeError(op, `Cannot ${op} with key ${key}: the element type is not uint32, a key is needed`);
  }
  if (key.shape.at(-1) !== 2) {
    throw new ShapeError(op, `Cannot ${op} with key ${key}: the last axis is not 2, a key u32[2] is needed`);
  }
}

// --- bits --------------------------------------------------------------------------------------------------------

export interface RandomBitsParams {
  /** Shape of the draw; the same for every key. */
  readonly shape: Shape;
  /** 1: the two words of an element joined by exclusive or. 2: both words, on a last axis of size 2. */
  readonly words: 1 | 2;
}

export const randomBitsP: Primitive<RandomBitsParams> = definePrimitive({
  name: "randomBits",
  doc: "Independent random uint32 for each key and each element of a shape: threefry2x32 of the element's row-major position.",
  traits: {},
  arity: 1,
  shape([key], { shape, words }) {
    checkKey("randomBits", key!);
    checkShape(shape, "randomBits");
    return [key!.withShape([...key!.shape.slice(0, -1), ...shape, ...(words === 2 ? [2] : [])])];
  },
  jvp: ([key], _dxs, params) => [[bind1(randomBitsP, [key!], params)], [null]],
  batch: ([key], [dim], _size, params) => [[bind1(randomBitsP, [moveAxis(key!, dim!, 0)], params)], [0]],
  kernel: { k: "named", name: "randomBits" },
  cpu([key], [out], { shape, words }) {
    const data = new Uint32Array(out!.size);
    const n = sizeOf(shape);
    const keys = n === 0 ? 0 : key!.data.length / 2;
    const pair = new Uint32Array(2);
    for (let k = 0, to = 0; k < keys; k++) {
      const k0 = key!.data[2 * k]!;
      const k1 = key!.data[2 * k + 1]!;
      for (let i = 0; i < n; i++, to += words) {
        if (words === 2) threefry2x32(k0, k1, i / 2 ** 32, i, data, to);
        else {
          threefry2x32(k0, k1, i / 2 ** 32, i, pair, 0);
          data[to] = pair[0]! ^ pair[1]!;
        }
      }
    }
    return [data];
  },
  domain: (draw) => ({
    args: [{ shape: [...draw.shape(0, 1), 2], dtype: "uint32", range: [0, 1000] }],
    params: { shape: draw.shape(0, 2), words: draw.pick([1, 2]) },
  }),
});

export function randomBits(key: Value, params: RandomBitsParams): Value {
  return bind1(randomBitsP, [key], params);
}

/** One new key per pair of a key and an integer: the key's words for the counter that the integer is. */
export const foldInP: Primitive<null> = definePrimitive({
  name: "foldIn",
  doc: "The key that threefry2x32 makes of a key and 32 bits of data, one for each leading position.",
  traits: {},
  arity: 2,
  shape([key, data]) {
    checkKey("foldIn", key!);
    if (data!.dtype !== "uint32" && data!.dtype !== "int32") {
      throw new DTypeError(
        "foldIn",
        `Cannot foldIn ${data}: it is not an integer type, int32 or uint32 is needed`,
      );
    }
    if (!sameShape(key!.shape.slice(0, -1), data!.shape)) {
      throw new ShapeError(
        "foldIn",
        `Cannot foldIn ${data} to key ${key}: the leading sizes differ, one integer per key is needed`,
      );
    }
    return [key!];
  },
  jvp: (xs) => [[bind1(foldInP, xs, null)], [null]],
  batch: (xs, dims, size) => [
    [
      bind1(
        foldInP,
        xs.map((x, i) => batchFirst(x, dims[i]!, size)),
        null,
      ),
    ],
    [0],
  ],
  kernel: { k: "named", name: "foldIn" },
  cpu([key, data], [out]) {
    const words = new Uint32Array(out!.size);
    for (let k = 0; k < words.length; k += 2)
      threefry2x32(key!.data[k]!, key!.data[k + 1]!, 0, data!.data[k / 2]!, words, k);
    return [words];
  },
  domain(draw) {
    const shape = draw.shape(0, 2);
    return {
      args: [
        { shape: [...shape, 2], dtype: "uint32", range: [0, 1000] },
        { shape, dtype: draw.pick(["int32", "uint32"]), range: [0, 1000] },
      ],
      params: null,
    };
  },
});

export function foldIn(key: Value, data: Value): Value {
  return bind1(foldInP, [key, data], null);
}

// --- inverse error function --------------------------------------------------------------------------------------

/**
 * Inverse error function in float64: Winitzki's closed form, right to 2e-3, then Halley's iteration. Where erf is close
 * to 1 the equation solved is erfc y = 1 - x, which keeps the relative accuracy.
 */
export function erfInvScalar(x: number): number {
  const a = Math.abs(x);
  if (!(a < 1)) return a === 1 ? x * Infinity : Number.NaN;
  // y² = sqrt(b² - l/c) - b with l = log(1 - x²), b = 2/(pi c) + l/2, c = 0.147
  const l = Math.log1p(-a) + Math.log1p(a);
  const b = 2 / (Math.PI * 0.147) + l / 2;
  let y = Math.sqrt(-l / 0.147 / (Math.sqrt(b * b - l / 0.147) + b));
  for (let step = 0; step < 5; step++) {
    // Newton's step u = (erf y - a) / erf' y, then Halley's u / (1 + y u) because erf'' = -2 y erf'
    const excess = y < 2.5 ? erfScalar(y) - a : 1 - a - erfcTail(y);
    const u = (excess * Math.sqrt(Math.PI) * Math.exp(y * y)) / 2;
    y -= u / (1 + y * u);
    if (Math.abs(u) <= 1e-6 * y) break;
  }
  return Math.sign(x) * y;
}

/** erfc y = exp(-y²)/sqrt(pi) · 1/(y + (1/2)/(y + (2/2)/(y + (3/2)/(y + ...)))) for y >= 2.5 (Abramowitz & Stegun 7.1.14). */
function erfcTail(y: number): number {
  let fraction = y;
  for (let n = 60; n >= 1; n--) fraction = y + n / 2 / fraction;
  return Math.exp(-y * y) / (Math.sqrt(Math.PI) * fraction);
}

export const erfInvP: Primitive<null> = elementwise({
  name: "erfInv",
  doc: "Inverse error function; infinite at -1 and 1, NaN beyond",
  accepts: ["float"],
  scalar: erfInvScalar,
  kernel: single(functions.erfInv),
  terms: [(dx, _xs, y) => mul(dx, mul(like(y, Math.sqrt(Math.PI) / 2), exp(mul(y, y))))], // d erfInv = sqrt(pi)/2 e^(y²) dx
  traits: { uses: "output" },
  draw: [{ range: [-0.9, 0.9] }],
});

export function erfInv(x: Value): Value {
  return bind1(erfInvP, [x], null);
}
