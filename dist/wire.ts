/**
 * Frames on a byte stream: a JSON head and any number of binary bodies.
 *
 *     magic "CTG1" | head bytes u32 | bodies u32 | body bytes u32 | CRC-32 of the 16 bytes before
 *     body length u32, for each body | head, JSON in UTF-8 | bodies | CRC-32 of all since the first CRC
 *
 * Integers are little-endian. Where bodies follow, spaces end the head so that they begin at a multiple of eight. The first
 * checksum makes the lengths trustworthy before anything is kept for them.
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
 * One body to send: its bytes, or parts of them in order.
 *
 * @since 0.2.0
 */
export type Body = Uint8Array | readonly Uint8Array[];

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
export function encodeFrame(head: unknown, bodies: readonly Body[]): readonly Uint8Array[] {
  const json = headBytesOf(head, bodies.length);
  const bodyBytes = bytesOf(bodies);
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
    view.setUint32(PREFIX_BYTES + 4 * i, bytesOf([body]), true);
  });
  front.set(json, PREFIX_BYTES + 4 * bodies.length);
  const parts = bodies.flat().filter((part) => part.byteLength > 0);
  const sum = parts.reduce((crc, part) => crc32(part, crc), crc32(front.subarray(PREFIX_BYTES)));
  const trailer = new Uint8Array(TRAILER_BYTES);
  new DataView(trailer.buffer).setUint32(0, sum, true);
  return [front, ...parts, trailer];
}

/** The head as JSON, with spaces behind it so that bodies begin where elements of any type may. */
function headBytesOf(head: unknown, bodies: number): Uint8Array {
  const json = new TextEncoder().encode(stringifyHead(head));
  const front = PREFIX_BYTES + 4 * bodies + json.byteLength;
  const padded = new Uint8Array(json.byteLength + (bodies === 0 ? 0 : -front & 7)).fill(
    0x20,
    json.byteLength,
  );
  padded.set(json);
  return padded;
}

/** The bytes of all bodies together. */
export function bytesOf(bodies: readonly Body[]): number {
  return bodies.flat().reduce((sum, part) => sum + part.byteLength, 0);
}

/** The size of a frame that `encodeFrame` makes. */
export function frameBytes(head: unknown, bodies: readonly Body[]): number {
  const json = headBytesOf(head, bodies.length).byteLength;
  return PREFIX_BYTES + 4 * bodies.length + json + bytesOf(bodies) + TRAILER_BYTES;
}

/**
 * A reader for one connection.
 *
 * @param mayStay whether a body may stay in the chunk that was fed, by the head of its frame and the share of the chunk that
 * it is; default never, so that it has a buffer of its own
 * @example Nonsense is an answer, not an exception
 * ```ts
 * assert(ct.dist.frameReader().feed(new Uint8Array(20)).error?.k === "magic");
 * ```
 * @since 0.1.0
 */
export function frameReader(
  limits: Partial<WireLimits> = {},
  mayStay: (head: unknown, share: number) => boolean = () => false,
): FrameReader {
  const { maxHeadBytes, maxBodies, maxBodyBytes } = { ...wireDefaults, ...limits };
  let chunks: Uint8Array[] = [];
  let available = 0;
  let prefix: Prefix | null = null;
  let error: RemoteError | null = null;

  /** The next `count` bytes, in a buffer of their own. */
  function take(count: number): Uint8Array<ArrayBuffer> {
    const result = emptyBytes(count);
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

  /** The next body: where it is, if it is in one chunk and may stay there. */
  function takeBody(head: unknown, count: number): Uint8Array<ArrayBuffer> {
    const chunk = chunks[0];
    if (chunk === undefined || chunk.byteLength < count || !mayStay(head, count / chunk.buffer.byteLength))
      return take(count);
    if (chunk.byteLength === count) chunks.shift();
    else chunks[0] = chunk.subarray(count);
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
    const parts = lengths.map((length) => takeBody(head, length));
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

/** Memory that is written at once: a host that has a way to does not clear it before. */
function emptyBytes(count: number): Uint8Array<ArrayBuffer> {
  const given = globalThis.Buffer?.allocUnsafeSlow(count);
  return given === undefined ? new Uint8Array(count) : new Uint8Array(given.buffer);
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
