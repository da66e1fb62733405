/**
 * Closeness, in one place: one tolerance per element type. A test may give a tighter one; a looser one comes with a
 * reason. Every comparison also asserts that both sides are finite in the same places, so NaN never passes.
 */
import { type DType, isFloat } from "../../core/dtype.ts";
import { sameShape } from "../../core/shape.ts";
import { flatten, paths } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";

export interface Tolerance {
  /** Largest |actual - expected| relative to max(1, largest |expected|). */
  readonly relative: number;
  /** Why it is looser than the table says. */
  readonly reason?: string;
}

/** The distance from 1 to the next number. */
export const epsilon: Readonly<Record<"float32" | "float64" | "float16", number>> = {
  float32: 2 ** -23,
  float64: 2 ** -52,
  float16: 2 ** -10,
};

/** What two ways to compute one thing may differ by. */
export const table: Readonly<Record<DType, Tolerance>> = {
  float32: { relative: 2 ** -17 },
  float64: { relative: 2 ** -40 },
  int32: { relative: 0 },
  uint32: { relative: 0 },
  bool: { relative: 0 },
  float16: { relative: 2 ** -9 },
};

/** Central differences in float64 with step `differenceStep`: error h² f''' / 6 plus rounding eps f / h. */
export const differences: Tolerance = {
  relative: 2e-6,
  reason: "differences of functions of size about 10 lose seven digits",
};
export const differenceStep = 2e-5;

/** Throws unless two values have one shape and element type and agree within the tolerance of the type. */
export function assertClose(actual: Value, expected: Value, what: string, tolerance?: Tolerance): void {
  if (!actual.aval.equals(expected.aval)) {
    throw new Error(`${what}: the result is ${actual.aval}, ${expected.aval} is needed`);
  }
  const allowed = tolerance ?? table[expected.dtype];
  if (allowed.relative > table[expected.dtype].relative && allowed.reason === undefined) {
    throw new Error(
      `${what}: the tolerance ${allowed.relative} is looser than the table, a reason is needed`,
    );
  }
  assertNumbersClose(actual.dataSync(), expected.dataSync(), what, allowed);
}

/** The same for lists of numbers. */
export function assertNumbersClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  what: string,
  { relative }: Tolerance,
): void {
  if (actual.length !== expected.length) {
    throw new Error(`${what}: there are ${actual.length} elements, ${expected.length} are needed`);
  }
  let scale = 1;
  for (let i = 0; i < expected.length; i++) {
    if (Number.isFinite(expected[i])) scale = Math.max(scale, Math.abs(expected[i]!));
  }
  for (let i = 0; i < expected.length; i++) {
    const [x, y] = [actual[i]!, expected[i]!];
    const fits =
      Number.isFinite(x) && Number.isFinite(y) ? Math.abs(x - y) <= relative * scale : Object.is(x, y);
    if (!fits) throw new Error(`${what}: element ${i} is ${x}, ${y} is needed to ${relative} of ${scale}`);
  }
}

/** `assertClose` for the leaves of trees of one structure. */
export function assertTreesClose(
  actual: unknown,
  expected: unknown,
  what: string,
  tolerance?: Tolerance,
): void {
  const [xs, ys] = [flatten(actual)[0], flatten(expected)[0]];
  const names = paths(expected);
  if (String(paths(actual)) !== String(names)) {
    throw new Error(`${what}: the leaves are ${paths(actual)}, ${names} are needed`);
  }
  xs.forEach((x, i) => {
    assertClose(x, ys[i]!, `${what} at ${names[i] || "the root"}`, tolerance);
  });
}

/** Throws unless two values have the same bits; NaN equals NaN, and 0 differs from -0. */
export function assertSameBits(actual: Value, expected: Value, what: string): void {
  if (actual.dtype !== expected.dtype || !sameShape(actual.shape, expected.shape)) {
    throw new Error(`${what}: the result is ${actual.aval}, ${expected.aval} is needed`);
  }
  const [xs, ys] = [actual.dataSync(), expected.dataSync()];
  for (let i = 0; i < ys.length; i++) {
    if (!Object.is(xs[i], ys[i]))
      throw new Error(`${what}: element ${i} is ${xs[i]}, exactly ${ys[i]} is needed`);
  }
}

/** Throws unless every element of every float leaf is finite. */
export function assertFinite(xs: readonly Value[], what: string): void {
  for (const x of xs) {
    if (!isFloat(x.dtype)) continue;
    const at = x.dataSync().findIndex((v) => !Number.isFinite(v));
    if (at >= 0)
      throw new Error(
        `${what}: element ${at} of ${x.aval} is ${x.dataSync()[at]}, a finite number is needed`,
      );
  }
}
