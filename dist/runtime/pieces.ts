/**
 * Frames that nobody waits for, cut into pieces, so that a frame that somebody waits for has little in front of it.
 *
 * The pieces of one direction are a stream of frames inside the frames of the connection: `piece` carries the next bytes
 * of it, `took` says that they have arrived. The bytes without a `took` are held to a window, which is widened while they
 * arrive about as fast as on an empty link and narrowed when they queue on it for long, by the delay-based rule of LEDBAT (RFC 6817):
 *
 *     queueing = time to `took` - the least such time,    aim: about 2 ms
 *
 * Frames are often shorter than the window and leave at once: what one has shown of the link is kept for the next ones, and the
 * window is not widened beyond twice what the link has carried and may queue. Time in
 * which one of the two processes computes and cannot listen says nothing about the link; it is told apart.
 */

import { isCount, isRecord } from "../protocol/head.ts";
import { bytesOf, encodeFrame, type Fed, type Frame, frameReader, type WireLimits } from "../wire.ts";

const KIBIBYTE = 2 ** 10;
/**
 * Sizes of pieces, and of the window. The smallest piece keeps the link for a millisecond where that is between `minBytes` and
 * `smallBytes`: smaller ones cost a fast link's processes more than they gain.
 */
export const pieceBounds: {
  readonly minBytes: number;
  readonly smallBytes: number;
  readonly maxBytes: number;
  readonly maxWindowBytes: number;
} = {
  minBytes: 512,
  smallBytes: 16 * KIBIBYTE,
  maxBytes: 1024 * KIBIBYTE,
  maxWindowBytes: 4096 * KIBIBYTE,
};
/** Pieces in a window at least, so that the link is never idle, and time that one is to keep it at most. */
const MIN_PIECES = 4;
const PIECE_MS = 1;
const FIRST_WINDOW_BYTES = 16 * KIBIBYTE;
/** Queueing that is aimed at. */
const AIM_MS = 2;
/** What a piece adds to the window below the aim, and takes off it at twice the aim and above, as parts of its bytes. */
const GROWTH = 1 / 16;
const SHRINKING = 1 / 4;
/** The best that was seen is that of so many times that the background was busy: the link may become another one than it was. */
const TIMES_KEPT = 16;
/** Parts of bodies in one piece. */
const MAX_PARTS = 64;

/** How a frame in the background is known: a newer one of the same slot replaces one that has not begun to leave. */
export interface Posting {
  readonly slot: string;
  readonly key: string;
}

/** The sending side. Times are milliseconds of any clock; `blockedMs` is how long this process could not listen so far. */
export interface PieceSender {
  add(posting: Posting, head: unknown, bodies: readonly Uint8Array[]): void;
  /** Whether a frame with this key waits, or has left in part. */
  has(key: string): boolean;
  /** The parts of the next piece; null while nothing waits or enough is under way. */
  next(nowMs: number, blockedMs: number): readonly Uint8Array[] | null;
  /** The oldest piece under way has arrived; false if that cannot be. */
  took(head: Readonly<Record<string, unknown>>, nowMs: number, blockedMs: number): boolean;
  /** Forgets everything. */
  clear(): void;
  /** Bytes that have not left, bytes that have left and not arrived as far as is known, and how many of those there may be. */
  readonly waitingBytes: () => number;
  readonly underWayBytes: () => number;
  readonly windowBytes: () => number;
}

interface Waiting extends Posting {
  readonly chunks: Uint8Array[];
  isBegun: boolean;
}

interface UnderWay {
  readonly bytes: number;
  readonly sentMs: number;
  readonly blockedMs: number;
  readonly peerBlockedMs: number;
}

/** A sender with nothing to send. */
export function pieceSender(): PieceSender {
  const { minBytes, smallBytes, maxBytes, maxWindowBytes } = pieceBounds;
  let frames: Waiting[] = [];
  let underWay: UnderWay[] = [];
  let waitingBytes = 0;
  let underWayBytes = 0;
  let window = FIRST_WINDOW_BYTES;
  /** Below it the window doubles with every window that arrives; above, it grows by a sixteenth. */
  let threshold = maxWindowBytes;
  /** The least time since the background is busy, and those of before. */
  let ownLeastMs = Number.POSITIVE_INFINITY;
  let earlierMs: readonly number[] = [];
  /** What has arrived of this window, since when, and bytes in a millisecond of those before. */
  let arrived = 0;
  let since = { ms: 0, deafMs: 0 };
  let rates: readonly number[] = [];
  let peerBlockedMs = 0;
  const leastMs = (): number => Math.min(ownLeastMs, ...earlierMs);
  /** The smallest piece. */
  const leastBytes = (): number =>
    Math.floor(Math.min(Math.max(PIECE_MS * Math.max(0, ...rates), minBytes), smallBytes));
  /** What fills the link, and as much as may queue on it, twice: what has been seen may have been the window. */
  const mostBytes = (): number => {
    const seen = rates.length === 0 ? maxWindowBytes : 2 * Math.max(...rates) * (leastMs() + AIM_MS);
    return Math.min(Math.max(seen, leastBytes()), maxWindowBytes);
  };

  /** Learns from what has arrived how fast the link is, in time in which both have listened. */
  function closeWindow(nowMs: number, deafMs: number): void {
    const listenedMs = nowMs - since.ms - (deafMs - since.deafMs);
    if (arrived > 0 && listenedMs > 0) rates = [...rates, arrived / listenedMs].slice(-TIMES_KEPT);
    arrived = 0;
    since = { ms: nowMs, deafMs };
  }

  function adapt({ bytes, sentMs, ...before }: UnderWay, nowMs: number, blockedMs: number): void {
    const ms = nowMs - sentMs;
    const deaf = blockedMs - before.blockedMs + (peerBlockedMs - before.peerBlockedMs);
    ownLeastMs = Math.min(ownLeastMs, ms);
    arrived += bytes;
    if (arrived >= window || underWay.length === 0) closeWindow(nowMs, blockedMs + peerBlockedMs);
    const queueing = ms - leastMs();
    const excess = (queueing - deaf) / AIM_MS - 1;
    if (queueing < AIM_MS) {
      window = Math.min(window + (window < threshold ? bytes : GROWTH * bytes), mostBytes());
    } else if (excess > 0) {
      window = Math.max(window - SHRINKING * Math.min(1, excess) * bytes, leastBytes());
      threshold = window;
    }
  }

  return {
    add({ slot, key }, head, bodies) {
      const replaced = frames.filter((frame) => frame.slot === slot && !frame.isBegun);
      waitingBytes -= replaced.reduce((sum, frame) => sum + bytesOf(frame.chunks), 0);
      frames = frames.filter((frame) => !replaced.includes(frame));
      if (frames.length === 0 && underWay.length === 0 && Number.isFinite(ownLeastMs)) {
        earlierMs = [...earlierMs, ownLeastMs].slice(-TIMES_KEPT);
        ownLeastMs = Number.POSITIVE_INFINITY;
      }
      const chunks = [...encodeFrame(head, bodies)];
      waitingBytes += bytesOf(chunks);
      frames.push({ slot, key, chunks, isBegun: false });
    },
    has: (key) => frames.some((frame) => frame.key === key),
    next(nowMs, blockedMs) {
      // A window leaves in the least time, so a piece of this size keeps the link for a millisecond.
      const share = Math.floor(window / Math.max(MIN_PIECES, leastMs() / PIECE_MS));
      const size = Math.min(Math.max(share, leastBytes()), maxBytes);
      if (frames.length === 0 || (underWay.length > 0 && underWayBytes + size > window)) return null;
      const parts: Uint8Array[] = [];
      let bytes = 0;
      while (frames.length > 0 && bytes < size && parts.length < MAX_PARTS) {
        const frame = frames[0]!;
        const chunk = frame.chunks[0]!;
        const part = chunk.subarray(0, size - bytes);
        frame.isBegun = true;
        parts.push(part);
        bytes += part.byteLength;
        if (part.byteLength < chunk.byteLength) frame.chunks[0] = chunk.subarray(part.byteLength);
        else frame.chunks.shift();
        if (frame.chunks.length === 0) frames.shift();
      }
      waitingBytes -= bytes;
      if (underWay.length === 0) since = { ms: nowMs, deafMs: blockedMs + peerBlockedMs };
      underWayBytes += bytes;
      underWay.push({ bytes, sentMs: nowMs, blockedMs, peerBlockedMs });
      return parts;
    },
    took({ bytes, blockedMs: told }, nowMs, blockedMs) {
      const oldest = underWay[0];
      if (oldest === undefined || bytes !== oldest.bytes || !isCount(told) || told < peerBlockedMs)
        return false;
      underWay.shift();
      underWayBytes -= oldest.bytes;
      peerBlockedMs = told;
      adapt(oldest, nowMs, blockedMs);
      return true;
    },
    clear() {
      frames = [];
      underWay = [];
      waitingBytes = 0;
      underWayBytes = 0;
    },
    waitingBytes: () => waitingBytes,
    underWayBytes: () => underWayBytes,
    windowBytes: () => window,
  };
}

/** The receiving side. */
export interface PieceReader {
  /** Takes the parts of a piece; gives the frames that are complete, or what is wrong. */
  feed(parts: readonly Uint8Array[]): Fed;
}

/** A reader of frames that are at most so large. */
export function pieceReader(limits: Partial<WireLimits>): PieceReader {
  const reader = frameReader(limits);
  return {
    feed(parts) {
      const bytes = bytesOf(parts);
      const { maxBytes } = pieceBounds;
      if (bytes === 0 || bytes > maxBytes) {
        const message = `Cannot take a piece: it has ${bytes} bytes, between 1 and ${maxBytes} are needed`;
        return { frames: [], error: { k: "lengths", message } };
      }
      const frames: Frame[] = [];
      for (const part of parts) {
        const fed = reader.feed(part);
        frames.push(...fed.frames);
        if (fed.error !== undefined) return { frames, error: fed.error };
      }
      return { frames };
    },
  };
}

/** The head of a frame that belongs to pieces, if it is one. */
export function pieceHead(head: unknown): Readonly<Record<string, unknown>> | null {
  return isRecord(head) && (head["k"] === "piece" || head["k"] === "took") ? head : null;
}
