/**
 * What workers that send parts of what they have put on a real wire: bytes are those of formulas in the ratio, the period,
 * the number of parameters, of workers and of steps, counted by the hub and by a relay between it and its workers.
 */

import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { zeros } from "../../core/create.ts";
import type { DType } from "../../core/dtype.ts";
import { encode } from "../../core/safetensors.ts";
import type { Value } from "../../core/value.ts";
import { planCost } from "../../dist/plan_cost.ts";
import { slots } from "../../dist/protocol/script.ts";
import { runSockets, spawnBun, type WorkerProcess } from "../../dist/runtime/bun.ts";
import { fileStore } from "../../dist/runtime/file_store.ts";
import { pieceBounds } from "../../dist/runtime/pieces.ts";
import { runSequential } from "../../dist/runtime/sequential.ts";
import { sameBits } from "../../dist/sim.ts";
import {
  chunk,
  communicatingPlan,
  communicatingSetup,
  type FormName,
  factorRank,
  forms,
  freezeStep,
  localPeriod,
  localSteps,
  outerPeriod,
  period,
  ratio,
  resetEvery,
  rounds,
  shapes,
  topK,
  varianceEvery,
  warmup,
} from "./fixtures/communicating.ts";
import { openRelay } from "./fixtures/relay.ts";

const SCRIPT = new URL("./fixtures/communicating_worker.ts", import.meta.url).pathname;
const base = mkdtempSync(join(tmpdir(), "cotangent-wire-"));
const children: WorkerProcess[] = [];

afterAll(() => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(base, { recursive: true, force: true });
});

/** So many messages of one kind to each worker, or from each. */
interface Kind {
  readonly count: number;
  /** Of the elements of one message. */
  readonly bytes: number;
  /** A tree with the names and shapes of its tensors. */
  readonly like: unknown;
}

/** What is sent over a whole run; `posted` and `given` go in the background. */
interface Expected {
  readonly up: readonly Kind[];
  readonly down: readonly Kind[];
  readonly posted?: readonly Kind[];
  readonly given?: readonly Kind[];
}

const steps = rounds * localSteps;
const sizes = shapes.map((shape) => shape.reduce((product, size) => product * size, 1));
/** d parameters in t tensors, of which a ratio of R leaves b; exchanges in the background every H steps. */
const d = sizes.reduce((sum, size) => sum + size, 0);
const t = sizes.length;
const [R, H] = [ratio, period];
const b = sizes.reduce((sum, size) => sum + Math.max(1, Math.floor(size / R)), 0);

const of = (size: number, dtype: DType = "float32"): Value => zeros([size], { dtype });
const vector = (count: number, size = d): Kind => ({ count, bytes: 4 * size, like: of(size) });
/** Numbers of 4 bytes and where they belong, 4 bytes too. */
const sparse = (count: number, k: number): Kind => ({
  count,
  bytes: 8 * k,
  like: { indices: of(k, "int32"), values: of(k) },
});
/** All get what every worker has sent. */
const gathered = ({ count, bytes, like }: Kind, K: number): Kind => ({
  count,
  bytes: K * bytes,
  like: Array.from({ length: K }, () => like),
});
/** What goes up comes down as a mean. */
const averaged = (kinds: readonly Kind[]): Expected => ({ up: kinds, down: kinds });

/** What a step sends after the warm-up, and the parts of an exchange in the background, of which some have a window too. */
function divided(
  up: (count: number) => Kind,
  down: (count: number) => Kind,
  part: Pick<Kind, "bytes" | "like">,
  names: readonly string[],
): Expected {
  const multiples = (m: number): number => Math.floor(steps / m) - Math.floor(warmup / m);
  const windows = multiples(varianceEvery);
  const exchange = (count: number, own: readonly string[]): Kind => ({
    count,
    bytes: own.length * part.bytes,
    like: Object.fromEntries(own.map((name) => [name, part.like])),
  });
  const background = [exchange(multiples(H) - windows, names), exchange(windows, [...names, "window"])];
  return {
    up: [vector(warmup), up(steps - warmup)],
    down: [vector(warmup), down(steps - warmup)],
    posted: background,
    given: background,
  };
}

const block = (count: number): Kind => vector(count, b);
const largest = (count: number): Kind => sparse(count, b);

/** By the number of workers K. */
const expected: Readonly<Record<FormName, (K: number) => Expected>> = {
  "divisible, blocks": () => divided(block, block, vector(1), ["residual"]),
  "divisible, in integers, with momenta"() {
    // Two integers in a word, and the largest number of each tensor.
    const words = Math.ceil(d / 2);
    const part = { bytes: 4 * words + 4 * t, like: { words: of(words, "int32"), peaks: of(t) } };
    return divided(block, block, part, ["residual", "mean"]);
  },
  "divisible, the largest": (K) =>
    divided(largest, (count) => gathered(largest(count), K), vector(1), ["residual"]),
  "the largest gradients": (K) => ({ up: [largest(steps)], down: [gathered(largest(steps), K)] }),
  factors() {
    const [[rows, columns], [size]] = shapes as [[number, number], [number]];
    const first = { left: of(rows * factorRank), dense: of(size) };
    return averaged([
      { count: steps, bytes: 4 * (rows * factorRank + size), like: first },
      vector(steps, columns * factorRank),
    ]);
  },
  "error reset": () => averaged([block(Math.floor(steps / resetEvery))]),
  "one bit"(K) {
    const dense = vector(freezeStep);
    // A scale for each tensor, and a bit for each number.
    const words = Math.ceil(d / 32);
    const signs = {
      count: steps - freezeStep,
      bytes: 4 * t + 4 * words,
      like: { scales: of(t), words: of(words, "uint32") },
    };
    return { up: [dense, signs], down: [dense, gathered(signs, K)] };
  },
  "local steps": () => averaged([vector(Math.floor(steps / localPeriod))]),
  "local steps and an outer one": () => averaged([vector(Math.floor(steps / outerPeriod))]),
  "cosine components"(K) {
    // The chunk divides all sides.
    const chunks = shapes.map((shape) => shape.reduce((product, size) => product * (size / chunk), 1));
    const components = sparse(steps, topK * chunks.reduce((sum, count) => sum + count, 0));
    return { up: [components], down: [gathered(components, K)] };
  },
};

/** Of a tree as it travels: the length, and the names, shapes and places of its tensors as JSON. */
function headerBytes(like: unknown): number {
  const bytes = encode(like);
  return 8 + Number(new DataView(bytes.buffer).getBigUint64(0, true));
}

const messages = (kinds: readonly Kind[]): number => kinds.reduce((sum, { count }) => sum + count, 0);
const elements = (kinds: readonly Kind[]): number =>
  kinds.reduce((sum, { count, bytes }) => sum + count * bytes, 0);
const headers = (kinds: readonly Kind[]): number =>
  kinds.reduce((sum, { count, like }) => sum + count * headerBytes(like), 0);

/**
 * The most that a frame has beside its bodies: 24 bytes, 4 for each body, up to 7 spaces and a head of JSON. That of an answer has
 * the loss of each step since the last one, and what the process uses.
 */
const FRAME_BYTES = { up: 256, down: 160 };
/** The same of a piece of a frame in the background, and of the word that it has arrived. */
const PIECE_BYTES = 80;

test.each(Object.keys(forms) as FormName[])(
  "%s: processes send what the formula says, and end with the bits of plain loops",
  async (name) => {
    const plan = communicatingPlan(name);
    const setup = communicatingSetup(name);
    const { workers: K } = plan;
    const folder = join(base, name.replaceAll(/\W+/g, "-"));
    const relay = openRelay();
    try {
      const got = await runSockets({
        ...setup,
        store: fileStore(folder),
        spawn: (rank, address) => {
          const child = spawnBun(SCRIPT, [String(rank), folder, name], { address: relay.to(address) });
          children.push(child);
          return child;
        },
      });
      expect(got.restarts).toEqual(new Array(K).fill(0));
      expect(sameBits({ hub: got.hub, workers: got.workers }, runSequential(setup))).toBe(true);

      const { up, down, posted = [], given = [] } = expected[name](K);
      // After each round every worker sends its part of the parameters.
      const answers = [...up, vector(rounds)];
      const bytesOf = (kinds: readonly Kind[]): number => K * (elements(kinds) + headers(kinds));
      expect({
        up: got.payloadBytesReceived,
        down: got.payloadBytesSent,
        posted: got.backgroundPayloadBytesReceived,
        given: got.backgroundPayloadBytesSent,
      }).toEqual({
        up: bytesOf(answers),
        down: bytesOf(down),
        posted: bytesOf(posted),
        given: bytesOf(given),
      });
      // And so the plan says.
      const cost = planCost(plan, { shapes });
      expect([cost.bytesToHub, cost.bytesToWorkers]).toEqual([
        K * elements([...answers, ...posted]),
        K * elements([...down, ...given]),
      ]);

      // What the hub counts has come through, and nothing else, but for last words that nobody waits for on a busy machine.
      expect(Math.abs(relay.counts.up - got.bytesReceived)).toBeLessThanOrEqual(K * FRAME_BYTES.up);
      expect(Math.abs(relay.counts.down - got.bytesSent)).toBeLessThanOrEqual(K * FRAME_BYTES.down);
      // A question for each phase and its answer; before and after them a few that carry nothing.
      const asked = Array.from({ length: rounds }, (_, round) => slots(setup.config.script(round)).length);
      const frames = K * (asked.reduce((sum, count) => sum + count, 0) + 4);
      const pieces =
        (bytesOf(posted) + bytesOf(given)) / pieceBounds.minBytes + K * (messages(posted) + messages(given));
      const behind = (kinds: readonly Kind[], frameBytes: number): number =>
        K * messages(kinds) * frameBytes + pieces * PIECE_BYTES;
      for (const [bytes, payload, most] of [
        [got.bytesReceived - got.backgroundBytesReceived, bytesOf(answers), frames * FRAME_BYTES.up],
        [got.bytesSent - got.backgroundBytesSent, bytesOf(down), frames * FRAME_BYTES.down],
        [got.backgroundBytesReceived, bytesOf(posted), behind(posted, FRAME_BYTES.up)],
        [got.backgroundBytesSent, bytesOf(given), behind(given, FRAME_BYTES.up)],
      ] as const) {
        expect(bytes).toBeGreaterThanOrEqual(payload);
        expect(bytes).toBeLessThanOrEqual(payload + most);
      }
    } finally {
      relay.close();
    }
  },
  120_000,
);
