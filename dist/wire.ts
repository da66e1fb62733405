/**
 * Frames on a byte stream: a JSON head and any number of binary bodies.
 *
 *     magic "CTG1" | head bytes u32 | bodies u32 | body bytes u32 | CRC-32 of the 16 bytes before
 *     body length u32, for each body | head, JSON in UTF-8 | bodies | CRC-32 of all since the first CRC
 *
 * Integers are little-endian. The first checksum makes the lengths trustworthy before anything is kept for them.
 */

import { crc32 } from "./checksum.ts";
import { stringifyHead } from "./protocol/head.ts";

const MAGIC = 0x31475443; // "CTG1"
const PREFIX_BYTES = 20;
const TRAILER_BYTES = 4;

/**
 * What a reader believes at most. Units: bytes and counts.
 *
 * @since 0.1.0
 */
export interface WireLimits {
  readonly maxHeadBytes: number;
  readonly maxBodies: number;
  /** For all bodies of one frame together. */
  readonly maxBodyBytes: number;
}

/** Room for large models: 1 MiB of head, 1024 bodies, 1 GiB of bodies. */
export const wireDefaults: WireLimits = { maxHeadBytes: 2 ** 20, maxBodies: 1024, maxBodyBytes: 2 ** 30 };

/**
 * One message: parsed JSON that nobody has checked yet, and bodies in buffers of their own (so any view fits), unless the reader
 * was told otherwise.
 *
 * @since 0.1.0
 */
export interface Frame {
  readonly head: unknown;
  readonly bodies: readonly Uint8Array<ArrayBuffer>[];
}

/**
 * What the other side did wrong. It is data: a bad peer never makes a reader throw.
 *
 * @since 0.1.0
 */
export interface RemoteError {
  readonly k: "magic" | "checksum" | "oversize" | "lengths" | "head";
  readonly message: string;
}

/**
 * What a reader made of some bytes: whole frames, and why it will read no more.
 *
 * @since 0.1.0
 */
export interface Fed {
  readonly frames: readonly Frame[];
  readonly error?: RemoteError;
}

/**
 * Reads frames from chunks of bytes, however they are cut.
 *
 * @since 0.1.0
 */
export interface FrameReader {
  /**
   * Takes the next bytes. The reader keeps the chunk until the frames in it are complete: do not reuse its memory.
   * After an error every call gives the same error and no frames.
   */
  feed(bytes: Uint8Array): Fed;
}

/**
 * The bytes of a frame, as chunks to write in order. Bodies are not copied: do not change them before the chunks
 * are written. Numbers in the head that JSON cannot write become strings, which `parseHead` understands.
 *
 * @throws {RangeError} if the lengths do not fit the format
 * @example There and back, in pieces
 * ```ts
 * const chunks = ct.dist.encodeFrame({ k: "hello" }, [new Uint8Array([1, 2, 3])]);
 * const reader = ct.dist.frameReader();
 * const frames = chunks.flatMap((chunk) => reader.feed(chunk).frames);
 * assertClose(frames[0]!.bodies[0], [1, 2, 3]);
 * ```
 * @since 0.1.0
 */
export function encodeFrame(head: unknown, bodies: readonly Uint8Array[]): readonly Uint8Array[] {
  const json = new TextEncoder().encode(stringifyHead(head));
  const bodyBytes = bodies.reduce((sum, body) => sum + body.byteLength, 0);
  if (bodyBytes > 0xffffffff || json.byteLength > 0xffffffff) {
    throw new RangeError(`Cannot encode a frame: it has ${bodyBytes} body bytes, at most ${0xffffffff} fit`);
  }
  const front = new Uint8Array(PREFIX_BYTES + 4 * bodies.length + json.byteLength);
  const view = new DataView(front.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, json.byteLength, true);
  view.setUint32(8, bodies.length, true);
  view.setUint32(12, bodyBytes, true);
  view.setUint32(16, crc32(front.subarray(0, 16)), true);
  bodies.forEach((body, i) => {
    view.setUint32(PREFIX_BYTES + 4 * i, body.byteLength, true);
  });
  front.set(json, PREFIX_BYTES + 4 * bodies.length);
  let sum = crc32(front.subarray(PREFIX_BYTES));
  for (const body of bodies) sum = crc32(body, sum);
  const trailer = new Uint8Array(TRAILER_BYTES);
  new DataView(trailer.buffer).setUint32(0, sum, true);
  return [front, ...bodies.filter((body) => body.byteLength > 0), trailer];
}

/** The size of a frame that `encodeFrame` makes. */
export function frameBytes(head: unknown, bodies: readonly Uint8Array[]): number {
  const json = new TextEncoder().encode(stringifyHead(head)).byteLength;
  return bodies.reduce((sum, body) => sum + 4 + body.byteLength, PREFIX_BYTES + json + TRAILER_BYTES);
}

/**
 * A reader for one connection.
 *
 * @param areViews of which heads the bodies may be parts of the chunks that were fed, without a copy; default none
 * @example Nonsense is an answer, not an exception
 * ```ts
 * assert(ct.dist.frameReader().feed(new Uint8Array(20)).error?.k === "magic");
 * ```
 * @since 0.1.0
 */
export function frameReader(
  limits: Partial<WireLimits> = {},
  areViews: (head: unknown) => boolean = () => false,
): FrameReader {
  const { maxHeadBytes, maxBodies, maxBodyBytes } = { ...wireDefaults, ...limits };
  let chunks: Uint8Array[] = [];
  let available = 0;
  let prefix: Prefix | null = null;
  let error: RemoteError | null = null;

  /** The next `count` bytes, in a buffer of their own. */
  function take(count: number): Uint8Array<ArrayBuffer> {
    const result = new Uint8Array(count);
    let filled = 0;
    let used = 0;
    while (filled < count) {
      const chunk = chunks[used]!;
      const part = chunk.subarray(0, count - filled);
      result.set(part, filled);
      filled += part.byteLength;
      if (part.byteLength === chunk.byteLength) used++;
      else chunks[used] = chunk.subarray(part.byteLength);
    }
    chunks.splice(0, used);
    available -= count;
    return result;
  }

  /** The next `count` bytes where they are, if they are in one chunk. */
  function view(count: number): Uint8Array<ArrayBuffer> {
    const chunk = chunks[0];
    if (chunk === undefined || chunk.byteLength <= count) return take(count);
    chunks[0] = chunk.subarray(count);
    available -= count;
    return chunk.subarray(0, count) as Uint8Array<ArrayBuffer>;
  }

  function readPrefix(): Prefix | RemoteError {
    const bytes = take(PREFIX_BYTES);
    const view = new DataView(bytes.buffer);
    if (view.getUint32(0, true) !== MAGIC) {
      return {
        k: "magic",
        message: "Cannot read a frame: it does not start with CTG1, the peer speaks another protocol",
      };
    }
    if (view.getUint32(16, true) !== crc32(bytes.subarray(0, 16))) return damaged("lengths");
    const headBytes = view.getUint32(4, true);
    const bodies = view.getUint32(8, true);
    const bodyBytes = view.getUint32(12, true);
    if (headBytes > maxHeadBytes) return oversize("head bytes", headBytes, maxHeadBytes);
    if (bodies > maxBodies) return oversize("bodies", bodies, maxBodies);
    if (bodyBytes > maxBodyBytes) return oversize("body bytes", bodyBytes, maxBodyBytes);
    return { headBytes, bodies, bodyBytes };
  }

  function readRest({ headBytes, bodies, bodyBytes }: Prefix): Frame | RemoteError {
    const table = take(4 * bodies);
    const json = take(headBytes);
    const tableView = new DataView(table.buffer);
    const lengths = Array.from({ length: bodies }, (_, i) => tableView.getUint32(4 * i, true));
    if (lengths.reduce((sum, length) => sum + length, 0) !== bodyBytes) {
      return {
        k: "lengths",
        message: `Cannot read a frame: its body lengths do not add up to ${bodyBytes} bytes`,
      };
    }
    const head = headOf(json);
    const parts = lengths.map(head !== undefined && areViews(head) ? view : take);
    const sum = parts.reduce((crc, part) => crc32(part, crc), crc32(json, crc32(table)));
    if (new DataView(take(TRAILER_BYTES).buffer).getUint32(0, true) !== sum) return damaged("content");
    if (head === undefined) return { k: "head", message: "Cannot read a frame: its head is not JSON" };
    return { head, bodies: parts };
  }

  return {
    feed(bytes: Uint8Array): Fed {
      if (error !== null) return { frames: [], error };
      if (bytes.byteLength > 0) chunks.push(bytes);
      available += bytes.byteLength;
      const frames: Frame[] = [];
      while (error === null) {
        if (prefix === null) {
          if (available < PREFIX_BYTES) break;
          const result = readPrefix();
          if ("k" in result) error = result;
          else prefix = result;
        } else {
          const { headBytes, bodies, bodyBytes } = prefix;
          if (available < headBytes + 4 * bodies + bodyBytes + TRAILER_BYTES) break;
          const result = readRest(prefix);
          if ("k" in result) error = result;
          else frames.push(result);
          prefix = null;
        }
      }
      if (error === null) return { frames };
      chunks = [];
      return { frames, error };
    },
  };
}

interface Prefix {
  readonly headBytes: number;
  readonly bodies: number;
  readonly bodyBytes: number;
}

/** Parsed JSON; undefined if it is none. */
function headOf(json: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(json)) as unknown;
  } catch {
    return undefined;
  }
}

function damaged(what: string): RemoteError {
  return {
    k: "checksum",
    message: `Cannot read a frame: the checksum of its ${what} does not match, bytes were damaged`,
  };
}

function oversize(what: string, actual: number, limit: number): RemoteError {
  return {
    k: "oversize",
    message: `Cannot read a frame: it announces ${actual} ${what}, at most ${limit} are accepted`,
  };
}
