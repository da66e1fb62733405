/** Decoupled momentum against a loop with cosine sums written out, and what its residual keeps. */
import { expect, test } from "bun:test";
import { cosineChunks } from "../../../dist/compress/cosine_chunks.ts";
import { decoupledMomentum } from "../../../dist/compress/decoupled_momentum.ts";
import { f64, list, maxDifference, type Vector } from "../../optim/numbers.ts";
import { gradientOf, ranks, rateAt, recorded, SHAPES, START, zero } from "./baseline_problem.ts";

const WORKERS = 3;
const CHUNK = 4;
const TOP = 2;

/** Chunks of the tensors [5, 4], [3] and [2, 4], written out: no divisor of 5 above 1 is at most 4. */
const CHUNKS: readonly {
  readonly at: (i: number, j: number) => number;
  readonly h: number;
  readonly w: number;
}[] = [
  ...[0, 1, 2, 3, 4].map((row) => ({ at: (_: number, j: number) => 4 * row + j, h: 1, w: 4 })),
  { at: (_, j) => 20 + j, h: 1, w: 3 },
  { at: (i, j) => 23 + 4 * i + j, h: 2, w: 4 },
];

const norm = (k: number, n: number): number => Math.sqrt((k === 0 ? 1 : 2) / n);
const wave = (k: number, i: number, n: number): number =>
  norm(k, n) * Math.cos((Math.PI * (2 * i + 1) * k) / (2 * n));

/** Coefficients of all chunks: the double sum. */
function forward(x: Vector): number[][] {
  return CHUNKS.map(({ at, h, w }) =>
    Array.from({ length: h * w }, (_, c) => {
      const [p, q] = [Math.floor(c / w), c % w];
      let sum = 0;
      for (let i = 0; i < h; i++)
        for (let j = 0; j < w; j++) sum += x[at(i, j)]! * wave(p, i, h) * wave(q, j, w);
      return sum;
    }),
  );
}

function backward(coefficients: readonly Vector[]): number[] {
  const x = zero();
  CHUNKS.forEach(({ at, h, w }, chunk) => {
    for (let i = 0; i < h; i++)
      for (let j = 0; j < w; j++) {
        let sum = 0;
        coefficients[chunk]!.forEach((y, c) => {
          sum += y * wave(Math.floor(c / w), i, h) * wave(c % w, j, w);
        });
        x[at(i, j)] = sum;
      }
  });
  return x;
}

function largestOf(y: Vector): number[] {
  const order = y.map((_, c) => c).sort((a, b) => Math.abs(y[b]!) - Math.abs(y[a]!));
  const kept = new Set(order.slice(0, TOP));
  return y.map((value, c) => (kept.has(c) ? value : 0));
}

test("the cosine transform of chunks is the double sum, keeps lengths, and is undone by its transpose", () => {
  const chunks = cosineChunks(SHAPES, CHUNK, "float64");
  const y = list(chunks.encode(f64(START)));
  expect(maxDifference(y, forward(START).flat())).toBeLessThan(1e-13);
  expect(maxDifference(list(chunks.decode(f64(y))), START)).toBeLessThan(1e-13);
});

test("a matrix larger than a chunk is cut along both axes", () => {
  const shape = [6, 12] as const;
  const chunks = cosineChunks([shape], 4, "float64");
  const [grid] = chunks.grids;
  expect([grid!.height, grid!.width]).toEqual([3, 4]);
  // A tile of ones is one coefficient, the first of its chunk: 3 rows of chunks by 3 make chunk number 3 * 1 + 2 of 12.
  const data = Array.from({ length: 72 }, (_, at) => {
    const [i, j] = [Math.floor(at / 12), at % 12];
    return i >= 3 && j >= 8 ? 1 : 0;
  });
  const y = list(chunks.encode(f64(data)));
  const expected = new Array<number>(72).fill(0);
  expected[5 * 12] = Math.sqrt(12);
  expect(maxDifference(y, expected)).toBeLessThan(1e-13);
});

test("decoupled momentum is the plain loop; what is sent is taken out of what is kept", () => {
  const DECAY = 0.9;
  const WEIGHTS = 0.05;
  const method = decoupledMomentum({
    shapes: SHAPES,
    dtype: "float64",
    learningRate: rateAt,
    decay: DECAY,
    chunk: CHUNK,
    topK: TOP,
    weightDecay: WEIGHTS,
  });
  const { run, step } = recorded(method, WORKERS);
  let x = [...START];
  let residuals = ranks(WORKERS).map(zero);
  for (let t = 1; t <= 20; t++) {
    const rate = rateAt(t);
    const momenta = residuals.map((e, k) => {
      const g = gradientOf(k, t, x);
      return e.map((ei, i) => DECAY * ei + rate * g[i]!);
    });
    const sent = momenta.map((e) => forward(e).map(largestOf));
    residuals = momenta.map((e, k) => {
      const out = backward(sent[k]!);
      return e.map((ei, i) => ei - out[i]!);
    });
    const mean = CHUNKS.map((_, chunk) =>
      sent[0]![chunk]!.map((_, c) => {
        const values = sent.map((y) => y[chunk]![c]!).filter((value) => value !== 0);
        return values.length === 0 ? 0 : values.reduce((a, b) => a + b) / values.length;
      }),
    );
    const q = backward(mean);
    x = x.map((xi, i) => (1 - rate * WEIGHTS) * xi - rate * Math.sign(q[i]!));
    step();
    expect(maxDifference(list(run.view()), x)).toBeLessThan(1e-12);
    run.states.forEach((s, k) => {
      expect(maxDifference(list(s.residual), residuals[k]!)).toBeLessThan(1e-12);
    });
  }
});

test("its payload has indices and values of so many coefficients of each chunk", () => {
  const method = decoupledMomentum({ shapes: [[128, 784], [128], [10]], learningRate: 0.1 });
  // 2 x 14 chunks of 64 x 56, two of 64, one of 10; 32 of each, 10 of the last.
  const entries = 32 * (2 * 14 + 2) + 10;
  expect(method.stepBytes(1, 4)).toEqual({ sent: 8 * entries, received: 32 * entries });
});
