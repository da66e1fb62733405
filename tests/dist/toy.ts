/**
 * A small problem for protocol tests, in which every mistake shows: the reductions depend on the order of their inputs, the
 * update is not linear, a loop ends early on data, and workers hold both replicated and private durable registers.
 */

import type { Script } from "../../dist/protocol/script.ts";
import { type Config, protocolDefaults } from "../../dist/protocol/types.ts";
import type { Jobs } from "../../dist/runtime/driver.ts";
import type { RunSetup } from "../../dist/runtime/sequential.ts";

/** Two shapes of round: a loop of gradient steps, and a sharded loop that a note may end, with a scatter. */
export function toyScript(round: number): Script {
  if (round % 2 === 0) {
    return [
      {
        repeat: 2,
        body: [
          {
            name: "gradient",
            worker: { fn: "gradient", ins: ["x", "own"], outs: ["g"] },
            reply: ["g"],
            hub: { fn: "mean", ins: ["g@*"], outs: ["mean"] },
          },
          {
            name: "apply",
            send: ["mean"],
            worker: { fn: "apply", ins: ["x", "mean", "own"], outs: ["x", "own"] },
          },
        ],
      },
      { name: "report", reply: ["x"], hub: { fn: "adopt", ins: ["z", "x@*"], outs: ["z"] } },
    ];
  }
  return [
    { name: "split", reply: ["own"], hub: { fn: "split", ins: ["own@*"], outs: ["w@*", "norm"] } },
    {
      repeat: 5,
      until: 1,
      body: [
        {
          name: "shard",
          send: ["w@*"],
          worker: { fn: "shard", ins: ["w", "own"], outs: ["part"] },
          reply: ["part", "w"],
        },
        { name: "join", hub: { fn: "join", ins: ["norm"], outs: ["norm", "w@*"] } },
      ],
    },
    { name: "install", send: ["norm"], worker: { fn: "install", ins: ["x", "norm"], outs: ["x"] } },
  ];
}

/** Bounded and not linear, made of exactly rounded operations: the same bits on every machine. */
const squash = (u: number): number => u / (1 + u * u);
const numbers = (ins: readonly unknown[]): readonly number[] => ins as readonly number[];
const sum = (xs: readonly number[]): number => xs.reduce((total, x) => total + x, 0);
/** A weighted mean in which every place counts differently. */
const mean = (xs: readonly number[]): number => xs.reduce((total, x) => 0.9 * total + x, 0) / xs.length;

export const toyHub: Jobs = {
  mean: (ins, { notes }) => ({
    outs: [mean(numbers(ins))],
    notes: [sum(notes.map((own) => own[0]!))],
  }),
  adopt: (ins) => {
    const [z, ...xs] = numbers(ins);
    return { outs: [0.3 * z! + xs[0]!] };
  },
  split: (ins, { workers }) => ({
    outs: [
      ...Array.from({ length: workers }, (_, rank) => numbers(ins)[rank]! / (rank + 3)),
      sum(numbers(ins)),
    ],
  }),
  join: (ins, { workers, iteration, round }) => {
    const norm = Math.sqrt(1 + numbers(ins)[0]! ** 2) / 1.3;
    const shards = Array.from({ length: workers }, (_, rank) => norm / (rank + 1.7));
    return { outs: [norm, ...shards], notes: [norm, iteration + 1 === (round % 3) + 2 ? 1 : 0] };
  },
};

export const toyWorker = (rank: number): Jobs => ({
  gradient: (ins, { iteration }) => {
    const [x, own] = numbers(ins);
    return { outs: [squash(x! * (rank + 1)) + 0.1 * own! + iteration / 7], notes: [x! * x!, rank] };
  },
  apply: (ins) => {
    const [x, mean, own] = numbers(ins);
    return { outs: [x! - 0.37 * mean! * (1 + x! * x!), own! * 0.9 + mean! / (rank + 2)] };
  },
  shard: (ins) => {
    const [w, own] = numbers(ins);
    return { outs: [squash(w! + 0.3) * own!], notes: [w!] };
  },
  install: (ins) => {
    const [x, norm] = numbers(ins);
    return { outs: [squash(x! + norm! / 3)] };
  },
});

/** The toy run with any number of workers and rounds. */
export function toySetup(workers: number, rounds: number, changes: Partial<Config> = {}): RunSetup {
  return {
    config: {
      ...protocolDefaults,
      workers,
      rounds,
      script: toyScript,
      durable: { hub: ["z"], worker: ["x", "own"] },
      retryTicks: 15,
      deadTicks: 90,
      maxRestarts: 100,
      maxQueue: 64,
      ...changes,
    },
    jobs: { hub: toyHub, worker: toyWorker },
    initial: { hub: { z: 0.1 }, worker: (rank) => ({ x: 0.7, own: 0.1 * (rank + 1) }) },
  };
}
