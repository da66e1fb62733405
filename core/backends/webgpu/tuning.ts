/**
 * Trying: every way to compute a product is run on buffers of its own, by turns with the others, and the table keeps
 * the one that took the least time.
 */
import type { Tuner, TuningChoice } from "../../backend.ts";
import { isFloat, makeArray } from "../../dtype.ts";
import { BufferUsage, type GpuBuffer } from "./api.ts";
import type { Context } from "./context.ts";
import type { Command, Pipeline } from "./device.ts";
import type { WebgpuExecutable } from "./executable.ts";
import { FAULT_BYTES } from "./faults.ts";
import { type BufferRef, type Choose, FAULTS, type Variant, Workspace } from "./kernel.ts";
import type { Block } from "./pool.ts";
import { messageOf } from "./refusals.ts";
import { saveTable } from "./tuning_file.ts";
import { bufferBytes, extended, WORD_BYTES } from "./wgsl.ts";

/** One round of a variant takes about so long: by the clock of the device, or by ours, which sees the way there too. */
const ROUND_MICROSECONDS = { device: 2000, host: 20_000 } as const;
const MOST_RUNS = 256;
const MOST_DISPATCHES = 2048;
/** Rounds of each variant that is not much slower than the fastest; fewer where one run alone is a round. */
const ROUNDS = 5;
const FEW_ROUNDS = 3;
/** Some hosts round times to 0.1 ms: shorter runs than this are timed several together. */
const BRIEF_MICROSECONDS = 500;
const BRIEF_RUNS = 16;
/** After two tries, variants that are slower than the fastest by this factor are out, with the times they have. */
const SLOWER = 1.5;
/** What is expected to be the fastest stays unless another takes less than this share of its time. */
const GAIN = 0.97;

/** The ways to compute what one key names. */
interface Question {
  readonly key: string;
  readonly variants: readonly Variant[];
}

/** A variant that can be run. */
interface Contender {
  readonly name: string;
  readonly pipelines: readonly Pipeline[];
  readonly commands: readonly Command[];
  /** Microseconds of a run, one number for each round. */
  readonly times: number[];
}

export function tuner(context: Context): Tuner {
  return {
    table: () => context.choices,
    async tune(f, again) {
      const { choices } = context;
      const programs = await ranBy(context, f);
      const isOpen = (key: string): boolean => again || !choices.has(key);
      const questions = questionsOf(programs).filter(({ key }) => isOpen(key));
      for (const { key, variants } of questions) {
        const choice = await answer(context, { key, variants });
        if (choice !== null) choices.set(key, choice);
      }
      if (questions.length === 0) return;
      await saveTable(choices);
      // What has changed is compiled now: the next run need not wait.
      await Promise.all([...programs].map((program) => program.prepare()));
    },
  };
}

/** The programs that ran while the function did. */
async function ranBy(context: Context, f: () => unknown): Promise<ReadonlySet<WebgpuExecutable>> {
  const programs = new Set<WebgpuExecutable>();
  const before = context.running;
  context.running = programs;
  try {
    await f();
  } finally {
    context.running = before;
  }
  return programs;
}

/** What the programs choose between, each key once. */
function questionsOf(programs: ReadonlySet<WebgpuExecutable>): Question[] {
  const questions = new Map<string, Question>();
  const choose: Choose = (key, variants) => {
    if (!questions.has(key)) questions.set(key, { key, variants });
    return variants[0]!;
  };
  for (const program of programs) program.choices(choose);
  return [...questions.values()];
}

/** Tries all variants; null where the one that is expected to be the fastest cannot be tried. */
async function answer(context: Context, { key, variants }: Question): Promise<TuningChoice | null> {
  context.checkOpen();
  context.flush();
  const buffers = new Buffers(context);
  const contenders: Contender[] = [];
  try {
    const made = await Promise.all(variants.map((variant) => contender(context, variant, buffers)));
    made.forEach((one, i) => {
      if (typeof one !== "string") contenders.push(one);
      else context.choices.note(`${key}: "${variants[i]!.name}" cannot be tried: ${one}`);
    });
    const usual = contenders.find(({ name }) => name === variants[0]!.name);
    if (usual === undefined) return null;
    await compare(context, contenders);
    const fastest = contenders.reduce((best, one) => (timeOf(one) < timeOf(best) ? one : best));
    const winner = timeOf(fastest) < GAIN * timeOf(usual) ? fastest : usual;
    return {
      variant: winner.name,
      microseconds: timeOf(winner),
      usual: usual.name,
      usualMicroseconds: timeOf(usual),
    };
  } finally {
    for (const { commands, pipelines } of contenders) {
      for (const command of commands)
        if ("dispatch" in command) context.device.releaseBindGroup(command.group);
      for (const pipeline of pipelines) context.device.releasePipeline(pipeline);
    }
    buffers.release();
  }
}

/** By turns, so that whatever slows the device down meets all of them. */
async function compare(context: Context, contenders: readonly Contender[]): Promise<void> {
  for (const one of contenders) {
    await microseconds(context, one, 1); // the first run of a shader may compile it
    const runs = (await microseconds(context, one, 1)) < BRIEF_MICROSECONDS ? BRIEF_RUNS : 1;
    one.times.push(await microseconds(context, one, runs), await microseconds(context, one, runs));
  }
  const least = (one: Contender): number => Math.min(...one.times);
  const best = Math.min(...contenders.map(least));
  const finalists = contenders.filter((one) => least(one) <= SLOWER * best);
  if (finalists.length === 1) return;
  const round = ROUND_MICROSECONDS[context.device.features.timestamps ? "device" : "host"];
  const longest = Math.max(...finalists.map(({ commands }) => commands.length));
  const most = Math.min(MOST_RUNS, Math.floor(MOST_DISPATCHES / longest));
  const runs = Math.max(1, Math.min(most, Math.ceil(round / Math.max(1, best))));
  for (const one of finalists) one.times.length = 0;
  for (let i = 0; i < (runs === 1 ? FEW_ROUNDS : ROUNDS); i++) {
    for (const one of finalists) one.times.push(await microseconds(context, one, runs));
  }
}

/** The median; what was not tried often enough has only its first runs, of which the faster counts. */
function timeOf({ times }: Contender): number {
  const sorted = [...times].sort((a, b) => a - b);
  return Math.max(1, Math.round(1000 * sorted[(sorted.length - 1) >> 1]!)) / 1000;
}

/** How long a run takes, of several one after the other. */
async function microseconds({ device }: Context, { commands }: Contender, runs: number): Promise<number> {
  const all = Array.from({ length: runs }, () => commands).flat();
  if (device.features.timestamps) {
    const times = await device.submitTimed(all);
    return times.reduce((sum, time) => sum + time, 0) / 1000 / runs;
  }
  const start = performance.now();
  device.submit(all);
  await device.done();
  return ((performance.now() - start) * 1000) / runs;
}

/** The variant with its pipelines and buffers, or why it cannot be tried. */
async function contender(
  context: Context,
  { name, dispatches }: Variant,
  buffers: Buffers,
): Promise<Contender | string> {
  const { device } = context;
  const list = dispatches();
  const texts = [...new Map(list.map(({ code, label }) => [code, label]))];
  const pipelines = new Map<string, Pipeline>();
  try {
    const made = await Promise.allSettled(
      texts.map(([code, label]) => device.pipelineAsync(extended(code), "main", label)),
    );
    made.forEach((one, i) => {
      if (one.status === "fulfilled") pipelines.set(texts[i]![0], one.value);
    });
    for (const one of made) if (one.status === "rejected") throw one.reason;
    const spaces = new Map<Workspace, Block>();
    const bufferOf = (ref: BufferRef): GpuBuffer => {
      if (!(ref instanceof Workspace)) return buffers.of(ref);
      const space = spaces.get(ref) ?? buffers.space(ref.bytes, new Set(spaces.values()));
      spaces.set(ref, space);
      return space.buffer;
    };
    const commands = list.map(({ code, buffers: refs, groups: [x, y, z] }): Command => {
      const pipeline = pipelines.get(code)!;
      const group = context.group(pipeline, refs.map(bufferOf));
      return { dispatch: pipeline, group, x, y, z };
    });
    return { name, pipelines: [...pipelines.values()], commands, times: [] };
  } catch (error) {
    for (const pipeline of pipelines.values()) device.releasePipeline(pipeline);
    return messageOf(error);
  }
}

/** Bytes of data that are made, and written again and again. */
const CHUNK_BYTES: number = 2 ** 20;

/** Buffers in place of those of a program, with numbers of ordinary size: some devices take less time for zeros. */
class Buffers {
  readonly #context: Context;
  readonly #blocks = new Map<BufferRef, Block>();
  readonly #spaces: Block[] = [];
  #faults: GpuBuffer | null = null;

  constructor(context: Context) {
    this.#context = context;
  }

  of(ref: Exclude<BufferRef, Workspace>): GpuBuffer {
    const { device, pool } = this.#context;
    if (ref === FAULTS) {
      this.#faults ??= device.createBuffer(
        FAULT_BYTES,
        BufferUsage.STORAGE | BufferUsage.COPY_DST,
        "faults of products",
      );
      return this.#faults;
    }
    const known = this.#blocks.get(ref);
    if (known) return known.buffer;
    const { dtype, size } = ref.aval;
    const bytes = bufferBytes(ref.aval);
    const block = pool.acquire(bytes, () => `${ref.aval} of a product`);
    this.#blocks.set(ref, block);
    const length = Math.min(size, CHUNK_BYTES / WORD_BYTES);
    const chunk = makeArray(isFloat(dtype) ? dtype : "uint32", length);
    for (let i = 0; i < length; i++) {
      const word = (Math.imul(i, 0x9e3779b1) >>> 16) / 65536;
      chunk[i] = isFloat(dtype) ? word - 0.5 : dtype === "bool" ? i % 2 : i % 64;
    }
    for (let from = 0; from < size; from += length) {
      device.write(
        block.buffer,
        from * chunk.BYTES_PER_ELEMENT,
        chunk.subarray(0, Math.min(length, size - from)),
      );
    }
    return block.buffer;
  }

  /** Room for so many bytes, which other variants use too. */
  space(bytes: number, taken: ReadonlySet<Block>): Block {
    const known = this.#spaces.find((block) => block.bytes >= bytes && !taken.has(block));
    if (known) return known;
    const made = this.#context.pool.acquire(bytes, () => "parts of a product");
    this.#spaces.push(made);
    return made;
  }

  release(): void {
    for (const block of [...this.#blocks.values(), ...this.#spaces]) this.#context.pool.give(block);
    if (this.#faults) this.#context.device.destroyBuffer(this.#faults);
  }
}
