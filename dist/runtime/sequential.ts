/**
 * A run without messages, saves or faults: plain loops over the script. It shares no code with the protocol's walk
 * over a script, so that the two can be compared.
 */

import type { Phase, Script, Turn } from "../protocol/script.ts";
import type { Config, JobArgs } from "../protocol/types.ts";
import { isSteps, type Job, type JobResult, type Jobs, runJob, type Values } from "./driver.ts";
import { onHostSync } from "./payload.ts";

/**
 * What a run needs beside its configuration.
 *
 * @since 0.1.0
 */
export interface RunSetup {
  readonly config: Config;
  readonly jobs: { readonly hub: Jobs; readonly worker: (rank: number) => Jobs };
  /** The durable registers before round 0. */
  readonly initial: { readonly hub: Values; readonly worker: (rank: number) => Values };
}

/**
 * The durable registers after the last round.
 *
 * @since 0.1.0
 */
export interface RunValues {
  readonly hub: Values;
  readonly workers: readonly Values[];
}

/**
 * The result that every schedule of messages and faults must reach, bit for bit. Jobs must be synchronous.
 *
 * @throws whatever a job throws
 * @example The same bits as a run with messages
 * ```ts
 * const plan = ct.dist.makePlan({
 *   version: 1, workers: 2, parameters: 1, rounds: 20, localSteps: 1, seed: 0,
 *   update: { name: "sgd", learningRate: 0.25 }, sync: { k: "gradient" },
 * });
 * const problem: ct.dist.Problem<number> = {
 *   initial: ct.zeros([1], { dtype: "float64" }),
 *   score: (theta, center) => ({ loss: theta.sub(center).pow(2).sum(), sums: [] }),
 *   batch: (rank) => 2 * rank,
 *   curvatureBatch: (rank) => 2 * rank,
 * };
 * const setup = ct.dist.trainingSetup(plan, problem);
 * const [a, b] = [ct.dist.runSequential(setup), await ct.dist.runLocal(setup)];
 * assertClose(a.hub["theta"], b.hub["theta"], 0);
 * ```
 * @since 0.1.0
 */
export function runSequential({ config, jobs, initial }: RunSetup): RunValues {
  const ranks = Array.from({ length: config.workers }, (_, rank) => rank);
  let hub = new Map(Object.entries(initial.hub));
  let workers = ranks.map((rank) => new Map(Object.entries(initial.worker(rank))));
  /** What was posted last, by slot, then by rank. */
  const posted = new Map<
    string,
    { readonly version: number; readonly parts: readonly (readonly unknown[])[] }
  >();

  function post({ slot, version }: Turn): void {
    const { send } = config.background![slot]!;
    posted.set(slot, { version, parts: workers.map((own) => onHostSync(registers(own, send))) });
  }

  /** The values for the registers of the slot. One that was begun before this run is posted now. */
  function result(turn: Turn): readonly unknown[] {
    const { slot, version } = turn;
    if (posted.get(slot)?.version !== version) post(turn);
    const { parts } = posted.get(slot)!;
    const { send, fn } = config.background![slot]!;
    return run(
      jobs.hub,
      fn,
      send.flatMap((_, i) => parts.map((part) => part[i])),
      {
        round: 0,
        phase: slot,
        iteration: 0,
        rank: null,
        workers: config.workers,
        notes: ranks.map(() => []),
        numbers: [version],
      },
    ).outs;
  }

  function phase(p: Phase, round: number, iteration: number): readonly number[] {
    const args: Omit<JobArgs, "numbers"> = {
      round,
      phase: p.name,
      iteration,
      rank: null,
      workers: config.workers,
      notes: [],
    };
    const arrived = p.ends && result(p.ends);
    const replies = ranks.map((rank) => {
      const own = workers[rank]!;
      for (const name of p.send ?? []) {
        const isScattered = name.endsWith("@*");
        const plain = isScattered ? name.slice(0, -2) : name;
        own.set(plain, hub.get(isScattered ? `${plain}@${rank}` : name));
      }
      if (p.ends) {
        config.background![p.ends.slot]!.receive.forEach((name, i) => {
          own.set(name, arrived![i]);
        });
      }
      const done =
        p.worker &&
        run(jobs.worker(rank), p.worker.fn, registers(own, p.worker.ins), {
          ...args,
          rank,
          numbers: p.worker.numbers ?? [],
        });
      p.worker?.outs?.forEach((name, i) => {
        own.set(name, done!.outs[i]);
      });
      return { values: onHostSync(registers(own, p.reply)), notes: done?.notes ?? [] };
    });
    if (p.begins) post(p.begins);
    for (const rank of ranks) {
      p.reply?.forEach((name, i) => {
        hub.set(`${name}@${rank}`, replies[rank]!.values[i]);
      });
    }
    const notes = replies.map((reply) => reply.notes);
    const done =
      p.hub &&
      run(jobs.hub, p.hub.fn, registers(hub, starred(p.hub.ins)), {
        ...args,
        notes,
        numbers: p.hub.numbers ?? [],
      });
    for (const rank of ranks) for (const name of p.reply ?? []) hub.delete(`${name}@${rank}`);
    starred(p.hub?.outs).forEach((name, i) => {
      hub.set(name, done!.outs[i]);
    });
    return done?.notes ?? [];
  }

  function starred(names: readonly string[] = []): readonly string[] {
    return names.flatMap((name) =>
      name.endsWith("@*") ? ranks.map((rank) => `${name.slice(0, -1)}${rank}`) : [name],
    );
  }

  for (let round = 0; round < config.rounds; round++) {
    const script: Script = config.script(round);
    for (const item of script) {
      if (!("body" in item)) phase(item, round, 0);
      else {
        for (let iteration = 0; iteration < item.repeat; iteration++) {
          let notes: readonly number[] = [];
          for (const p of item.body) notes = phase(p, round, iteration);
          if (item.until !== undefined && (notes[item.until] ?? 0) !== 0) break;
        }
      }
    }
    hub = only(hub, starred(config.durable.hub));
    workers = workers.map((own) => only(own, config.durable.worker));
  }
  return { hub: Object.fromEntries(hub), workers: workers.map((own) => Object.fromEntries(own)) };
}

function registers(own: ReadonlyMap<string, unknown>, names: readonly string[] = []): readonly unknown[] {
  return names.map((name) => own.get(name));
}

function only(own: ReadonlyMap<string, unknown>, names: readonly string[]): Map<string, unknown> {
  return new Map(names.map((name) => [name, own.get(name)]));
}

function run(jobs: Jobs, fn: string, ins: readonly unknown[], args: JobArgs): JobResult {
  return synchronous(runJob(jobs, fn, ins, args), fn);
}

/** The result itself, or that of all pieces at once; a promise is refused. */
export function synchronous(result: ReturnType<Job>, fn: string): JobResult {
  if (result instanceof Promise) {
    throw new TypeError(`Cannot compute "${fn}" here: it gave a promise, a synchronous function is needed`);
  }
  if (!isSteps(result)) return result;
  for (let step = result.next(); ; step = result.next()) if (step.done === true) return step.value;
}
