/** A real use of scripts: Lanczos with the basis sharded by columns, and a loop that ends when the space is complete. */

import { expect, test } from "bun:test";
import { checkScript, type Script } from "../../dist/protocol/script.ts";
import { protocolDefaults } from "../../dist/protocol/types.ts";
import type { Jobs } from "../../dist/runtime/driver.ts";
import { type RunSetup, runSequential } from "../../dist/runtime/sequential.ts";
import { report, simulate } from "../../dist/sim.ts";

type Vector = readonly number[];
type Rows = readonly Vector[];

const size = 11;
const workers = 3;
const width = Math.ceil(size / workers);
/** Three distinct eigenvalues, so the Krylov space has dimension 3. */
const eigenvalues: Vector = Array.from({ length: size }, (_, i) => [1, 2.5, 7][i % 3]!);

const dot = (x: Vector, y: Vector): number => x.reduce((sum, xi, i) => sum + xi * y[i]!, 0);
const shard = (x: Vector, rank: number): Vector => x.slice(rank * width, (rank + 1) * width);
const add = (xs: Rows): Vector => xs.reduce((a, b) => a.map((ai, i) => ai + b[i]!));
const normalised = (x: Vector): Vector => x.map((xi) => xi / Math.sqrt(dot(x, x)));
/** w - Qᵀ h */
const subtract = (q: Rows, w: Vector, h: Vector): Vector =>
  w.map(
    (wi, i) =>
      wi -
      dot(
        q.map((row) => row[i]!),
        h,
      ),
  );

const script: Script = [
  { name: "start", hub: { fn: "start", outs: ["v", "alphas", "betas"] } },
  {
    repeat: 8,
    until: 0,
    body: [
      {
        name: "hvp",
        send: ["v"],
        worker: { fn: "hvp", ins: ["Q", "v"], outs: ["Q", "hv"] },
        reply: ["hv"],
        hub: { fn: "mean", ins: ["v", "alphas", "hv@*"], outs: ["alphas", "w@*"] },
      },
      {
        name: "first pass",
        send: ["w@*"],
        worker: { fn: "project", ins: ["Q", "w"], outs: ["h"] },
        reply: ["h"],
        hub: { fn: "sum", ins: ["h@*"], outs: ["h"] },
      },
      {
        name: "second pass",
        send: ["h"],
        worker: { fn: "subtractAndProject", ins: ["Q", "w", "h"], outs: ["w", "h"] },
        reply: ["h"],
        hub: { fn: "sum", ins: ["h@*"], outs: ["h"] },
      },
      {
        name: "assemble",
        send: ["h"],
        worker: { fn: "subtract", ins: ["Q", "w", "h"], outs: ["w"] },
        reply: ["w"],
        hub: { fn: "next", ins: ["betas", "w@*"], outs: ["betas", "v"] },
      },
    ],
  },
  { name: "install", send: ["alphas", "betas"] },
];

const hub: Jobs = {
  start: () => ({ outs: [normalised(eigenvalues.map((_, i) => 1 + i / 7)), [], []] }),
  mean: (ins) => {
    const [v, alphas, ...hvs] = ins as [Vector, Vector, ...Vector[]];
    const w = add(hvs).map((wi) => wi / workers);
    return { outs: [[...alphas, dot(v, w)], ...hvs.map((_, rank) => shard(w, rank))] };
  },
  sum: (ins) => ({ outs: [add(ins as Rows)] }),
  next: (ins) => {
    const [betas, ...shards] = ins as [Vector, ...Vector[]];
    const w = shards.flat();
    const beta = Math.sqrt(dot(w, w));
    return { outs: [[...betas, beta], w.map((wi) => wi / beta)], notes: [beta < 1e-10 ? 1 : 0] };
  },
};

const worker = (rank: number): Jobs => ({
  // Every worker has a part of the loss, so its own Hessian; their mean is diag(eigenvalues).
  hvp: (ins) => {
    const [q, v] = ins as [Rows, Vector];
    return { outs: [[...q, shard(v, rank)], v.map((vi, i) => (eigenvalues[i]! + rank - 1) * vi)] };
  },
  project: (ins) => {
    const [q, w] = ins as [Rows, Vector];
    return { outs: [q.map((row) => dot(row, w))] };
  },
  subtractAndProject: (ins) => {
    const [q, w, h] = ins as [Rows, Vector, Vector];
    const next = subtract(q, w, h);
    return { outs: [next, q.map((row) => dot(row, next))] };
  },
  subtract: (ins) => {
    const [q, w, h] = ins as [Rows, Vector, Vector];
    return { outs: [subtract(q, w, h)] };
  },
});

const setup: RunSetup = {
  config: {
    ...protocolDefaults,
    workers,
    rounds: 1,
    script: () => script,
    durable: { hub: [], worker: ["Q", "alphas", "betas"] },
    maxRestarts: 100,
    deadTicks: 100,
  },
  jobs: { hub, worker },
  initial: { hub: {}, worker: () => ({ Q: [], alphas: [], betas: [] }) },
};

test("the sharded basis spans an invariant space, found in as many turns as there are eigenvalues", () => {
  expect(checkScript(script, workers, setup.config.durable)).toBeNull();
  const own = runSequential(setup).workers as unknown as { Q: Rows; alphas: Vector; betas: Vector }[];
  const { alphas, betas } = own[0]!;
  expect(alphas).toHaveLength(3);
  const q = alphas.map((_, j) => own.flatMap(({ Q }) => Q[j]!));
  for (let i = 0; i < 3; i++) {
    for (let j = 0; j < 3; j++) {
      // Q Qᵀ = I and Q H Qᵀ = T
      const t = i === j ? alphas[i]! : Math.abs(i - j) === 1 ? betas[Math.min(i, j)]! : 0;
      const hq = q[j]!.map((x, k) => x * eigenvalues[k]!);
      expect(dot(q[i]!, q[j]!)).toBeCloseTo(i === j ? 1 : 0, 12);
      expect(dot(q[i]!, hq)).toBeCloseTo(t, 12);
    }
  }
  // T has the three eigenvalues: their sum is its trace, their product its determinant.
  const [a, b, c] = alphas as [number, number, number];
  const [d, e] = betas as [number, number];
  expect(a + b + c).toBeCloseTo(10.5, 11);
  expect(a * (b * c - e * e) - d * d * c).toBeCloseTo(17.5, 11);
});

test("the same bits under faults", () => {
  for (let seed = 0; seed < 40; seed++) {
    const faults = {
      lossRate: 0.1,
      duplicateRate: 0.1,
      maxDelay: 8,
      maxWork: 5,
      crashRate: 0.005,
      horizon: 800,
    };
    const result = simulate({ ...setup, seed, faults, replicated: ["alphas", "betas"], checkReplay: false });
    if (result.violations.length > 0) throw new Error(report(result));
    expect(result.outcome).toBe("finished");
  }
});
