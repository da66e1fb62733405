/** DivAdam of all workers as one plain loop in float64, from its formulas: what the library is compared with. */
import { blockIndices } from "../../../dist/compress/block.ts";

export interface LoopOptions {
  readonly shapes: readonly (readonly number[])[];
  readonly learningRate: number | ((step: number) => number);
  readonly ratio: number;
  readonly period: number;
  readonly delay: number;
  readonly residualWeight: number;
  readonly warmup: number;
  readonly varianceEvery: number;
  readonly averageMomentum: boolean;
  readonly weightDecay: number;
  readonly compressor: "block" | "topk";
  readonly seed: number;
}

export type GradientOf = (rank: number, step: number, x: readonly number[]) => number[];

/** One worker's own vectors. */
export interface LoopWorker {
  m: number[];
  f: number[];
  b: number[];
  w: number[];
}

export interface LoopPoint {
  readonly anchor: readonly number[];
  readonly square: readonly number[];
  readonly workers: readonly Readonly<LoopWorker>[];
  /** The mean over the workers of A - (f + b). */
  readonly view: readonly number[];
  /** The mean of the updates of this step. */
  readonly update: readonly number[];
}

const [beta1, beta2, epsilon] = [0.9, 0.999, 1e-8];

function meanOf(rows: readonly (readonly number[])[]): number[] {
  return rows[0]!.map((_, i) => rows.reduce((total, row) => total + row[i]!, 0) / rows.length);
}

/** The places that a worker sends. */
function selected(options: LoopOptions, p: readonly number[], step: number): ReadonlySet<number> {
  const { shapes, ratio, seed } = options;
  if (options.compressor === "block") return new Set(blockIndices(shapes, ratio, seed, step));
  const chosen = new Set<number>();
  let start = 0;
  for (const shape of shapes) {
    const size = shape.reduce((a, b) => a * b, 1);
    const places = Array.from({ length: size }, (_, i) => start + i);
    places.sort((i, j) => Math.abs(p[j]!) - Math.abs(p[i]!));
    for (const i of places.slice(0, Math.max(1, Math.floor(size / ratio)))) chosen.add(i);
    start += size;
  }
  return chosen;
}

/** The state after every step. */
export function dividedAdamLoop(
  options: LoopOptions,
  theta: readonly number[],
  workerCount: number,
  steps: number,
  gradient: GradientOf,
): LoopPoint[] {
  const { ratio, period, delay, residualWeight, warmup, varianceEvery, weightDecay } = options;
  const zero = theta.map(() => 0);
  const workers: LoopWorker[] = Array.from({ length: workerCount }, () => ({
    m: zero,
    f: zero,
    b: zero,
    w: zero,
  }));
  let A = [...theta];
  let v = zero;
  let power = 1;
  let n = 0;
  let windowSlot: { start: number; mean: number[]; n: number } | null = null;
  let residualSlot: { start: number; mean: number[]; momenta: number[][] | null } | null = null;
  const points: LoopPoint[] = [];

  for (let t = 1; t <= steps; t++) {
    const rate = typeof options.learningRate === "number" ? options.learningRate : options.learningRate(t);
    const positions = workers.map(({ f, b }) => A.map((a, i) => a - residualWeight * (f[i]! + b[i]!)));
    const gradients = positions.map((x, k) => gradient(k, t, x));
    const updateOf = (m: readonly number[], x: readonly number[]): number[] =>
      m.map(
        (mi, i) =>
          rate * (mi / (1 - beta1 ** t) / (Math.sqrt(v[i]! / (1 - power)) + epsilon) + weightDecay * x[i]!),
      );
    const see = (mean: readonly number[], count: number): void => {
      const q = beta2 ** count;
      v = v.map((vi, i) => q * vi + (1 - q) * (mean[i]! / count) ** 2);
      power *= q;
    };
    const average = (momenta: number[][], age: number): void => {
      const mean = meanOf(momenta);
      for (const [k, worker] of workers.entries())
        worker.m = worker.m.map((mi, i) => mi + beta1 ** age * (mean[i]! - momenta[k]![i]!));
    };
    let updates: number[][];
    if (t <= warmup || ratio <= 1) {
      const g = meanOf(gradients);
      for (const worker of workers) worker.m = worker.m.map((mi, i) => beta1 * mi + (1 - beta1) * g[i]!);
      see(g, 1);
      updates = workers.map(({ m }, k) => updateOf(m, positions[k]!));
      const mean = meanOf(updates);
      A = A.map((a, i) => a - mean[i]!);
    } else {
      for (const [k, worker] of workers.entries()) worker.w = worker.w.map((wi, i) => wi + gradients[k]![i]!);
      n++;
      if (windowSlot && t - windowSlot.start >= delay) {
        see(windowSlot.mean, windowSlot.n);
        windowSlot = null;
      }
      if (!windowSlot && t % varianceEvery === 0) {
        windowSlot = { start: t, mean: meanOf(workers.map(({ w }) => w)), n };
        for (const worker of workers) worker.w = zero;
        n = 0;
        if (delay === 0) {
          see(windowSlot.mean, windowSlot.n);
          windowSlot = null;
        }
      }
      if (residualSlot?.momenta && t - residualSlot.start >= delay) average(residualSlot.momenta, delay - 1);
      for (const [k, worker] of workers.entries())
        worker.m = worker.m.map((mi, i) => beta1 * mi + (1 - beta1) * gradients[k]![i]!);
      updates = workers.map(({ m }, k) => updateOf(m, positions[k]!));
      const sent = workers.map((worker, k) => {
        const p = worker.f.map((fi, i) => fi + updates[k]![i]!);
        const chosen = selected(options, p, t);
        worker.f = p.map((pi, i) => (chosen.has(i) ? 0 : pi));
        return p.map((pi, i) => (chosen.has(i) ? pi : 0));
      });
      const foreground = meanOf(sent);
      A = A.map((a, i) => a - foreground[i]!);
      const land = (mean: readonly number[]): void => {
        A = A.map((a, i) => a - mean[i]!);
        for (const worker of workers) worker.b = zero;
        residualSlot = null;
      };
      if (residualSlot && t - residualSlot.start >= delay) land(residualSlot.mean);
      if (!residualSlot && t % period === 0) {
        for (const worker of workers) {
          worker.b = worker.f;
          worker.f = zero;
        }
        const momenta = options.averageMomentum ? workers.map(({ m }) => m) : null;
        residualSlot = { start: t, mean: meanOf(workers.map(({ b }) => b)), momenta };
        if (delay === 0) {
          if (momenta) average(momenta, 0);
          land(residualSlot.mean);
        }
      }
    }
    points.push({
      anchor: A,
      square: v,
      workers: workers.map((worker) => ({ ...worker })),
      view: A.map((a, i) => a - workers.reduce((total, { f, b }) => total + f[i]! + b[i]!, 0) / workerCount),
      update: meanOf(updates),
    });
  }
  return points;
}
