/** A small problem for the baselines, and plain float64 arithmetic for their references. */
import { tensor } from "../../../core/create.ts";
import type { Value } from "../../../core/value.ts";
import { blockIndices } from "../../../dist/compress/block.ts";
import type { CommunicatingMethod } from "../../../dist/compress/method.ts";
import { type Together, together } from "../../../dist/compress/together.ts";
import { list, type Vector } from "../../optim/numbers.ts";

export const SHAPES: readonly (readonly number[])[] = [[5, 4], [3], [2, 2, 2]];
export const N = 31;
const SIZES = [20, 3, 8];
export const START: Vector = Array.from({ length: N }, (_, i) => Math.cos(3 * i));

/** The gradient of worker `rank` at a step, counted from 1: a quadratic of its own, and what stands for noise. */
export function gradientOf(rank: number, step: number, x: Vector): number[] {
  return x.map((xi, i) => {
    const curvature = 0.2 + 0.1 * (i % 7);
    const center = Math.sin(1 + 1.7 * i + 2.3 * rank);
    return curvature * (xi - center) + 0.3 * Math.sin(12.9898 * step + 78.233 * i + 37.719 * rank);
  });
}

/** A learning rate that changes while things are kept back. */
export const rateAt = (step: number): number => 0.05 * (1 + 0.5 * Math.cos(step));

export type DType = "float32" | "float64";

export function start(dtype: DType = "float64"): Value {
  return tensor(Float64Array.from(START), { dtype });
}

/** A run of all workers, with all gradients that it has asked for: by step, then by rank. */
export interface Recorded<S> {
  readonly run: Together<S>;
  readonly gradients: number[][][];
  step(): void;
}

export function recorded<S>(
  method: CommunicatingMethod<S>,
  workers: number,
  dtype: DType = "float64",
): Recorded<S> {
  const run = together(method, start(dtype), workers);
  const gradients: number[][][] = [];
  return {
    run,
    gradients,
    step() {
      const at = run.steps + 1;
      const all: number[][] = [];
      gradients.push(all);
      run.step((rank, position) => {
        all[rank] = gradientOf(rank, at, list(position));
        return tensor(Float64Array.from(all[rank]), { dtype });
      });
    },
  };
}

/** Where each worker is and what would be saved, after each step. */
export interface Track {
  readonly positions: number[][];
  readonly view: number[];
}

export function track<S>(method: CommunicatingMethod<S>, workers: number, steps: number): Track[] {
  const { run, step } = recorded(method, workers);
  return Array.from({ length: steps }, () => {
    step();
    return { positions: run.states.map((s) => list(method.position(s))), view: list(run.view()) };
  });
}

/** What a compressor makes of a vector. */
export type Reference = (v: Vector, step: number) => number[];

/** The max(1, floor(m / ratio)) largest of each tensor. */
export function largest(ratio: number): Reference {
  return (v) => {
    let begin = 0;
    return SIZES.flatMap((size) => {
      const part = v.slice(begin, begin + size);
      begin += size;
      const order = part.map((_, i) => i).sort((i, j) => Math.abs(part[j]!) - Math.abs(part[i]!));
      const kept = new Set(order.slice(0, Math.max(1, Math.floor(size / ratio))));
      return part.map((x, i) => (kept.has(i) ? x : 0));
    });
  };
}

/** Signs times the mean magnitude of each tensor. */
export const signs: Reference = (v) => {
  let begin = 0;
  return SIZES.flatMap((size) => {
    const part = v.slice(begin, begin + size);
    begin += size;
    const scale = part.reduce((sum, x) => sum + Math.abs(x), 0) / size;
    return part.map((x) => (x < 0 ? -scale : scale));
  });
};

/** The block that the library draws. */
export function blocks(ratio: number, seed: number): Reference {
  return (v, step) => {
    const kept = new Set(blockIndices(SHAPES, ratio, seed, step));
    return v.map((x, i) => (kept.has(i) ? x : 0));
  };
}

export const zero = (): number[] => new Array<number>(N).fill(0);
export const plus = (x: Vector, y: Vector): number[] => x.map((xi, i) => xi + y[i]!);
export const minus = (x: Vector, y: Vector): number[] => x.map((xi, i) => xi - y[i]!);
export const times = (a: number, x: Vector): number[] => x.map((xi) => a * xi);
export const sumOf = (xs: readonly Vector[]): number[] => xs.reduce<number[]>(plus, zero());
export const mean = (xs: readonly Vector[]): number[] => times(1 / xs.length, sumOf(xs));
export const ranks = (workers: number): number[] => Array.from({ length: workers }, (_, k) => k);
