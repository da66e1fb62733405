/**
 * A small problem with exchanges in the background, in which every mistake shows: reductions depend on the order of their
 * inputs and on the version, what is received is read in every phase, whether a result is due or not, and what has been
 * taken changes what is sent next.
 */

import type { Script } from "../../dist/protocol/script.ts";
import { type Config, protocolDefaults } from "../../dist/protocol/types.ts";
import type { Jobs } from "../../dist/runtime/driver.ts";
import type { RunSetup } from "../../dist/runtime/sequential.ts";

/**
 * "near" is open within a round. "far" ends in the round after it was begun, in the phase that begins the next; in every
 * third round it is begun and left open for one more round.
 */
export function exchangeScript(round: number): Script {
  const isFarDue = round > 0 && round % 3 !== 0;
  return [
    {
      name: "turn",
      ...(isFarDue && { ends: { slot: "far", version: 5 * lastBegun(round) } }),
      worker: {
        fn: "turn",
        ins: ["x", "own", "far", "near"],
        outs: isFarDue || round === 0 ? ["x", "sent", "shadow"] : ["x"],
        numbers: [round, isFarDue || round === 0 ? 3 : 1],
      },
      ...((isFarDue || round === 0) && { begins: { slot: "far", version: 5 * round } }),
    },
    {
      name: "open",
      worker: { fn: "open", ins: ["x", "own", "far"], outs: ["own"], numbers: [round] },
      begins: { slot: "near", version: round + 1 },
      reply: ["x"],
      hub: { fn: "mean", ins: ["z", "x@*"], outs: ["z"], numbers: [round, 7] },
    },
    {
      repeat: 2,
      body: [
        {
          name: "between",
          send: ["z"],
          worker: { fn: "between", ins: ["x", "near", "far", "z"], outs: ["x"] },
        },
      ],
    },
    { name: "close", ends: { slot: "near", version: round + 1 } },
    { name: "use", worker: { fn: "use", ins: ["x", "own", "near"], outs: ["x", "own"] } },
  ];
}

/** The round in which the version of "far" that is open before `round` was begun. */
function lastBegun(round: number): number {
  const last = round - 1;
  return last > 0 && last % 3 === 0 ? last - 1 : last;
}

/** Bounded and not linear, made of exactly rounded operations: the same bits on every machine. */
const squash = (u: number): number => u / (1 + u * u);
const numbers = (ins: readonly unknown[]): readonly number[] => ins as readonly number[];
/** A weighted mean in which every place counts differently. */
const mean = (xs: readonly number[]): number => xs.reduce((total, x) => 0.9 * total + x, 0) / xs.length;

export const exchangeHub: Jobs = {
  mean: (ins, args) => ({ outs: [mean(numbers(ins)) + args.numbers[0]! / args.numbers[1]!] }),
  near: (ins, args) => ({ outs: [mean(numbers(ins)) + told(args)] }),
  far: (ins, args) => ({ outs: [mean(numbers(ins)) - told(args), mean([...numbers(ins)].reverse())] }),
};

/** All that an exchange is told, as one number: it may not depend on when the parts came. */
function told(args: Parameters<Jobs[string]>[1]): number {
  const text = JSON.stringify(args);
  let sum = 0;
  for (let i = 0; i < text.length; i++) sum = (31 * sum + text.charCodeAt(i)) % 9973;
  return sum / 9973;
}

export const exchangeWorker = (rank: number): Jobs => ({
  turn: (ins, args) => {
    const [x, own, far, near] = numbers(ins);
    const next = squash(x! + far! / (rank + 2) + near! / 5 + args.numbers[0]! / 11);
    const outs = [next, squash(next * (rank + 1) + own!), near! * 0.3 + rank];
    return { outs: outs.slice(0, args.numbers[1]) };
  },
  open: (ins, args) => {
    const [x, own, far] = numbers(ins);
    return { outs: [squash(own! * 1.3 + x! * far! + args.numbers[0]!)] };
  },
  between: (ins, args) => {
    const [x, near, far, z] = numbers(ins);
    return { outs: [squash(x! + 0.2 * near! - 0.3 * far! + 0.1 * z! + args.iteration / 3)] };
  },
  use: (ins) => {
    const [x, own, near] = numbers(ins);
    return { outs: [squash(x! - near! / 2), own! * 0.8 + near! / (rank + 2)] };
  },
});

/** The run with any number of workers and rounds. */
export function exchangeSetup(workers: number, rounds: number, changes: Partial<Config> = {}): RunSetup {
  return {
    config: {
      ...protocolDefaults,
      workers,
      rounds,
      script: exchangeScript,
      durable: { hub: ["z"], worker: ["x", "own", "sent", "shadow", "far", "extra", "near"] },
      background: {
        near: { send: ["own"], fn: "near", receive: ["near"] },
        far: { send: ["sent", "shadow"], fn: "far", receive: ["far", "extra"] },
      },
      retryTicks: 15,
      deadTicks: 90,
      maxRestarts: 100,
      maxQueue: 64,
      ...changes,
    },
    jobs: { hub: exchangeHub, worker: exchangeWorker },
    initial: {
      hub: { z: 0.1 },
      worker: (rank) => ({
        x: 0.7,
        own: 0.1 * (rank + 1),
        sent: 0,
        shadow: 0,
        far: 0.2,
        extra: 0,
        near: -0.4,
      }),
    },
  };
}
