/** What laws compare with: plain loops over host arrays that share no code with the library's kernels and rules. */
import { Aval } from "../../core/aval.ts";
import { isFloat, makeArray } from "../../core/dtype.ts";
import { sizeOf } from "../../core/shape.ts";
import { Tensor, type Value } from "../../core/value.ts";
import { differenceStep } from "./tolerance.ts";

/** x[..., i, ...] along an axis. */
export function take(x: Value, axis: number, i: number): Tensor {
  const shape = x.shape.filter((_, a) => a !== axis);
  const inner = sizeOf(x.shape.slice(axis + 1));
  const n = x.shape[axis]!;
  const source = x.dataSync();
  const data = makeArray(x.dtype, sizeOf(shape));
  for (let k = 0; k < data.length; k++) {
    data[k] = source[Math.floor(k / inner) * n * inner + i * inner + (k % inner)]!;
  }
  return new Tensor(new Aval(shape, x.dtype), data);
}

/** Values of one abstract value along a new axis. */
export function stack(xs: readonly Value[], aval: Aval, axis: number): Tensor {
  const inner = sizeOf(aval.shape.slice(axis));
  const data = makeArray(aval.dtype, xs.length * aval.size);
  xs.forEach((x, i) => {
    const source = x.dataSync();
    for (let k = 0; k < source.length; k++) {
      data[Math.floor(k / inner) * xs.length * inner + i * inner + (k % inner)] = source[k]!;
    }
  });
  return new Tensor(
    new Aval([...aval.shape.slice(0, axis), xs.length, ...aval.shape.slice(axis)], aval.dtype),
    data,
  );
}

/** a x + b y, element by element. */
export function combine(a: number, x: Value, b: number, y: Value): Tensor {
  const data = x.dataSync();
  const other = y.dataSync();
  for (let i = 0; i < data.length; i++) data[i] = a * data[i]! + b * other[i]!;
  return new Tensor(x.aval, data);
}

/** Zeros of an abstract value. */
export function zero(aval: Aval): Tensor {
  return new Tensor(aval, makeArray(aval.dtype, aval.size));
}

/** The sum of the products of the elements of lists of values; a `null` is zero. */
export function inner(xs: readonly (Value | null)[], ys: readonly (Value | null)[]): number {
  let sum = 0;
  xs.forEach((x, i) => {
    const y = ys[i];
    if (!x || !y) return;
    if (!x.aval.equals(y.aval))
      throw new Error(`a product of ${x.aval} and ${y.aval}, equal types are needed`);
    const [a, b] = [x.dataSync(), y.dataSync()];
    for (let k = 0; k < a.length; k++) sum += a[k]! * b[k]!;
  });
  return sum;
}

/** (f(x + h v) - f(x - h v)) / 2h for the float outputs; the others become `null`. */
export function centralDifference(
  f: (...xs: Value[]) => readonly Value[],
  xs: readonly Value[],
  vs: readonly (Value | null)[],
  step: number = differenceStep,
): (Tensor | null)[] {
  const at = (h: number): readonly Value[] => f(...xs.map((x, i) => (vs[i] ? combine(1, x, h, vs[i]) : x)));
  const [above, below] = [at(step), at(-step)];
  return above.map((y, i) => (isFloat(y.dtype) ? combine(0.5 / step, y, -0.5 / step, below[i]!) : null));
}
