/**
 * Frames over one Bun socket: short writes wait for the drain, what the other side does wrong closes the connection.
 * Frames in the background leave in pieces, one at a time, when nothing else waits.
 */

import type { Config } from "../protocol/types.ts";
import {
  type Body,
  bytesOf,
  encodeFrame,
  type Frame,
  type FrameReader,
  frameBytes,
  frameReader,
  type WireLimits,
} from "../wire.ts";
import { type PieceReader, type Posting, pieceHead, pieceReader, pieceSender } from "./pieces.ts";

/** One end of a connection. Everything that goes wrong ends in `onClose`, once; nothing throws. */
export interface Connection {
  /** Queues a frame; does nothing when the connection is closed. Bodies may change afterwards. */
  send(head: unknown, bodies: readonly Body[]): void;
  /**
   * Queues a frame in the background, unless it is under way already. It arrives like others. What waits when the connection
   * is ended is lost. Bodies must not change any more.
   */
  post(posting: Posting, head: unknown, bodies: readonly Uint8Array[]): void;
  /** Whether the frame with this key has not left yet, or only in part. */
  readonly isPosting: (key: string) => boolean;
  /** Who takes the frames from now on, and how large they may be. */
  listen(limits: Partial<WireLimits>, onFrame: (frame: Frame) => void): void;
  /** Closes when everything queued has left. */
  end(): void;
  /** Closes now. `why` goes to `onClose`. */
  close(why: string): void;
  readonly onClose: (listener: (why: string) => void) => void;
  readonly isOpen: () => boolean;
  /** Bytes taken by the system, bytes that have arrived, and bytes that wait here. */
  readonly bytesSent: () => number;
  readonly bytesReceived: () => number;
  readonly pendingBytes: () => number;
  /** The part of it that the background is: pieces, and the words that they have arrived. */
  readonly backgroundBytesSent: () => number;
  readonly backgroundBytesReceived: () => number;
}

/** A connection and the events of its socket. */
interface Line extends Connection {
  received(chunk: Uint8Array): void;
  drained(): void;
  closed(why: string): void;
}

/** Frames below this size travel in one write. */
const JOIN_BYTES = 2 ** 16;
/** A body with less than this share of what has arrived at once is copied, so that it does not keep the rest in memory. */
const MIN_SHARE = 1 / 8;

/** Someone who has not said who he is may send one small frame. */
const strangerLimits: WireLimits = { maxHeadBytes: 4096, maxBodies: 0, maxBodyBytes: 0 };

/**
 * Bytes that may wait on one connection of a run: a question, and for every slot of the background what is under way and
 * what is newer, with small messages beside them.
 */
export function queueBytes({ background = {} }: Pick<Config, "background">, maxFrameBytes: number): number {
  return 2 * (1 + Object.keys(background).length) * maxFrameBytes + 2 ** 24;
}

/** Where connections arrive. */
export interface Listener {
  readonly port: number;
  /** Takes no more connections; those that are open stay. */
  stop(): void;
}

/**
 * Accepts connections. Until `listen` is called on one, it may send nothing but one small frame. `blockedMs` says for how
 * many milliseconds this process could not listen so far, because it computed.
 *
 * @throws when the port is taken or the host unknown
 */
export function acceptConnections(
  host: string,
  port: number,
  maxQueueBytes: number,
  onConnection: (connection: Connection) => void,
  blockedMs: () => number = () => 0,
): Listener {
  const server = Bun.listen<Line>({
    hostname: host,
    port,
    socket: socketEvents((socket) => {
      const line = lineOf(socket, maxQueueBytes, blockedMs);
      socket.data = line;
      onConnection(line);
    }),
  });
  return { port: server.port, stop: () => server.stop() };
}

/**
 * Connects, in at most `timeoutMs`.
 *
 * @throws when nobody listens there
 */
export async function openConnection(
  host: string,
  port: number,
  maxQueueBytes: number,
  timeoutMs: number,
  blockedMs: () => number = () => 0,
): Promise<Connection> {
  const { promise, resolve, reject } = Promise.withResolvers<Connection>();
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    reject(new Error(`no answer for ${timeoutMs / 1000} s`));
  }, timeoutMs);
  const opened = socketEvents((socket) => {
    const line = lineOf(socket, maxQueueBytes, blockedMs);
    socket.data = line;
    if (isLate) line.close("it came too late");
    else resolve(line);
  });
  Bun.connect<Line>({ hostname: host, port, socket: opened }).catch(reject);
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
  }
}

function socketEvents(open: (socket: Bun.Socket<Line>) => void): Bun.SocketHandler<Line> {
  return {
    open(socket) {
      socket.setNoDelay(true);
      socket.setKeepAlive(true, 10_000);
      open(socket);
    },
    data: (socket, chunk) => socket.data.received(chunk),
    drain: (socket) => socket.data.drained(),
    // A peer that was killed often looks like one that has ended: only its `bye` tells them apart.
    close: (socket, error) => socket.data?.closed(error?.message ?? "the other side closed it"),
    error: (socket, error) => socket.data?.closed(error.message),
    connectError() {},
  };
}

function lineOf(socket: Bun.Socket<Line>, maxQueueBytes: number, blockedMs: () => number): Line {
  const queue: Uint8Array[] = [];
  const pieces = pieceSender();
  const listeners: ((why: string) => void)[] = [];
  let reader: FrameReader = frameReader(strangerLimits);
  let parts: PieceReader = pieceReader(strangerLimits);
  let onFrame: (frame: Frame) => void = () => {};
  let isOpen = true;
  let isEnding = false;
  let bytesSent = 0;
  let bytesReceived = 0;
  let pendingBytes = 0;
  let backgroundBytesSent = 0;
  let backgroundBytesReceived = 0;

  /** Copies the newest `count` chunks that wait: what the system has not taken at once may belong to others. */
  function keep(count: number): void {
    for (let i = Math.max(0, queue.length - count); i < queue.length; i++)
      queue[i] = new Uint8Array(queue[i]!);
  }

  /** Puts a frame behind those that wait; gives its size. */
  function enqueue(chunks: readonly Uint8Array[]): number {
    const bytes = bytesOf(chunks);
    if (bytes < JOIN_BYTES) queue.push(Buffer.concat(chunks));
    else queue.push(...chunks);
    pendingBytes += bytes;
    return bytes;
  }

  /** Writes all frames, then pieces as long as they may leave, until the system takes no more. */
  function flush(): void {
    for (;;) {
      write();
      if (!isOpen || isEnding || queue.length > 0) return;
      const piece = pieces.next(performance.now(), blockedMs());
      if (piece === null) return;
      backgroundBytesSent += enqueue(encodeFrame({ k: "piece" }, piece));
    }
  }

  /** Whether the frame was a piece or the word that one has arrived. */
  function tookPiece({ head, bodies }: Frame): boolean {
    const own = pieceHead(head);
    if (own === null) return false;
    backgroundBytesReceived += frameBytes(head, bodies);
    if (own["k"] === "took") {
      if (!pieces.took(own, performance.now(), blockedMs())) close("it has taken a piece that was not sent");
      else flush();
      return true;
    }
    const { frames, error } = parts.feed(bodies);
    if (error !== undefined) close(error.message);
    else {
      const bytes = bytesOf(bodies);
      backgroundBytesSent += enqueue(
        encodeFrame({ k: "took", bytes, blockedMs: Math.round(blockedMs()) }, []),
      );
      flush();
    }
    for (const frame of frames) if (isOpen) onFrame(frame);
    return true;
  }

  /** Writes until the system takes no more; the rest waits for the drain. */
  function write(): void {
    while (isOpen && queue.length > 0) {
      const chunk = queue[0]!;
      const count = socket.write(chunk);
      if (count < 0) {
        closed("the other side closed it");
        return;
      }
      bytesSent += count;
      pendingBytes -= count;
      if (count < chunk.byteLength) {
        queue[0] = chunk.subarray(count);
        return;
      }
      queue.shift();
    }
    if (isOpen && isEnding) {
      socket.end();
      closed("it was ended");
    }
  }

  function closed(why: string): void {
    if (!isOpen) return;
    isOpen = false;
    queue.length = 0;
    pendingBytes = 0;
    pieces.clear();
    for (const listener of listeners) listener(why);
  }

  function close(why: string): void {
    if (!isOpen) return;
    closed(why);
    socket.terminate();
  }

  function waiting(): number {
    return pendingBytes + pieces.waitingBytes();
  }

  /** Closes when more waits than may. */
  function hasRoom(): boolean {
    if (waiting() <= maxQueueBytes) return true;
    close(`it takes too little: ${waiting()} bytes wait for it, at most ${maxQueueBytes} may`);
    return false;
  }

  return {
    send(head, bodies) {
      if (!isOpen || isEnding) return;
      const chunks = encodeFrame(head, bodies);
      const bytes = enqueue(chunks);
      if (!hasRoom()) return;
      flush();
      if (bytes >= JOIN_BYTES) keep(chunks.length);
    },
    post(posting, head, bodies) {
      if (!isOpen || isEnding || pieces.has(posting.key)) return;
      pieces.add(posting, head, bodies);
      if (hasRoom()) flush();
    },
    isPosting: pieces.has,
    listen(limits, take) {
      // What pieces carry is copied when their frame is complete.
      reader = frameReader(limits, (head, share) => share >= MIN_SHARE || pieceHead(head) !== null);
      parts = pieceReader(limits);
      onFrame = take;
    },
    end() {
      isEnding = true;
      pieces.clear();
      flush();
    },
    close,
    onClose(listener) {
      listeners.push(listener);
    },
    isOpen: () => isOpen,
    bytesSent: () => bytesSent,
    bytesReceived: () => bytesReceived,
    pendingBytes: waiting,
    backgroundBytesSent: () => backgroundBytesSent,
    backgroundBytesReceived: () => backgroundBytesReceived,
    received(chunk) {
      bytesReceived += chunk.byteLength;
      if (!isOpen) return;
      const { frames, error } = reader.feed(chunk);
      for (const frame of frames) if (isOpen && !tookPiece(frame)) onFrame(frame);
      if (error !== undefined) close(error.message);
    },
    drained: flush,
    closed,
  };
}
