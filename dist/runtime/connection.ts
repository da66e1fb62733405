/** Frames over one Bun socket: short writes wait for the drain, what the other side does wrong closes the connection. */

import { encodeFrame, type Frame, type FrameReader, frameReader, type WireLimits } from "../wire.ts";

/** One end of a connection. Everything that goes wrong ends in `onClose`, once; nothing throws. */
export interface Connection {
  /** Queues a frame; does nothing when the connection is closed. Bodies must not change any more. */
  send(head: unknown, bodies: readonly Uint8Array[]): void;
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
}

/** A connection and the events of its socket. */
interface Line extends Connection {
  received(chunk: Uint8Array): void;
  drained(): void;
  closed(why: string): void;
}

/** Frames below this size travel in one write. */
const JOIN_BYTES = 2 ** 16;

/** Someone who has not said who he is may send one small frame. */
const strangerLimits: WireLimits = { maxHeadBytes: 4096, maxBodies: 0, maxBodyBytes: 0 };

/** Where connections arrive. */
export interface Listener {
  readonly port: number;
  /** Takes no more connections; those that are open stay. */
  stop(): void;
}

/**
 * Accepts connections. Until `listen` is called on one, it may send nothing but one small frame.
 *
 * @throws when the port is taken or the host unknown
 */
export function acceptConnections(
  host: string,
  port: number,
  maxQueueBytes: number,
  onConnection: (connection: Connection) => void,
): Listener {
  const server = Bun.listen<Line>({
    hostname: host,
    port,
    socket: socketEvents((socket) => {
      const line = lineOf(socket, maxQueueBytes);
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
): Promise<Connection> {
  const { promise, resolve, reject } = Promise.withResolvers<Connection>();
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    reject(new Error(`no answer for ${timeoutMs / 1000} s`));
  }, timeoutMs);
  const opened = socketEvents((socket) => {
    const line = lineOf(socket, maxQueueBytes);
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

function lineOf(socket: Bun.Socket<Line>, maxQueueBytes: number): Line {
  const queue: Uint8Array[] = [];
  const listeners: ((why: string) => void)[] = [];
  let reader: FrameReader = frameReader(strangerLimits);
  let onFrame: (frame: Frame) => void = () => {};
  let isOpen = true;
  let isEnding = false;
  let bytesSent = 0;
  let bytesReceived = 0;
  let pendingBytes = 0;

  /** Writes until the system takes no more; the rest waits for the drain. */
  function flush(): void {
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
    for (const listener of listeners) listener(why);
  }

  function close(why: string): void {
    if (!isOpen) return;
    closed(why);
    socket.terminate();
  }

  return {
    send(head, bodies) {
      if (!isOpen || isEnding) return;
      const chunks = encodeFrame(head, bodies);
      const bytes = chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0);
      if (pendingBytes + bytes > maxQueueBytes) {
        return close(
          `it takes too little: ${pendingBytes + bytes} bytes wait for it, at most ${maxQueueBytes} may`,
        );
      }
      if (bytes < JOIN_BYTES) queue.push(Buffer.concat(chunks));
      else queue.push(...chunks);
      pendingBytes += bytes;
      flush();
    },
    listen(limits, take) {
      reader = frameReader(limits);
      onFrame = take;
    },
    end() {
      isEnding = true;
      flush();
    },
    close,
    onClose(listener) {
      listeners.push(listener);
    },
    isOpen: () => isOpen,
    bytesSent: () => bytesSent,
    bytesReceived: () => bytesReceived,
    pendingBytes: () => pendingBytes,
    received(chunk) {
      bytesReceived += chunk.byteLength;
      if (!isOpen) return;
      const { frames, error } = reader.feed(chunk);
      for (const frame of frames) if (isOpen) onFrame(frame);
      if (error !== undefined) close(error.message);
    },
    drained: flush,
    closed,
  };
}
