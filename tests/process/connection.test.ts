import { expect, test } from "bun:test";
import { acceptConnections, type Connection, openConnection } from "../../dist/runtime/connection.ts";
import type { Frame } from "../../dist/wire.ts";

interface Pair {
  readonly client: Connection;
  readonly server: Connection;
  /** Why the client's end has closed. */
  readonly closed: Promise<string>;
}

async function withPair(maxQueueBytes: number, use: (pair: Pair) => Promise<void>): Promise<void> {
  const accepted = Promise.withResolvers<Connection>();
  const listener = acceptConnections("127.0.0.1", 0, maxQueueBytes, accepted.resolve);
  const client = await openConnection("127.0.0.1", listener.port, maxQueueBytes, 5000);
  const server = await accepted.promise;
  const closed = Promise.withResolvers<string>();
  client.onClose(closed.resolve);
  try {
    await use({ client, server, closed: closed.promise });
  } finally {
    client.close("the test has ended");
    server.close("the test has ended");
    listener.stop();
  }
}

const MEGABYTE = 2 ** 20;

test("what the system does not take at once waits, and arrives whole and in order before the end", async () => {
  await withPair(100 * MEGABYTE, async ({ client, server, closed }) => {
    const all = Promise.withResolvers<void>();
    const heads: unknown[] = [];
    const bodies: Uint8Array[] = [];
    server.onClose(() => all.resolve());
    server.listen({}, (frame: Frame) => {
      heads.push(frame.head);
      bodies.push(...frame.bodies);
    });
    for (let i = 0; i < 6; i++) {
      const body = new Uint8Array(i % 2 === 0 ? 10 * MEGABYTE + i : i).fill(i + 1);
      client.send({ i }, [body]);
      // Whoever sends may go on with its memory.
      body.fill(99);
    }
    // 30 MB are more than the system keeps for one connection.
    expect(client.pendingBytes()).toBeGreaterThan(MEGABYTE);
    client.end();
    await Promise.all([all.promise, closed]);
    expect(heads).toEqual(Array.from({ length: 6 }, (_, i) => ({ i })));
    bodies.forEach((body, i) => {
      expect(body.length).toBe(i % 2 === 0 ? 10 * MEGABYTE + i : i);
      expect(body.every((byte) => byte === i + 1)).toBe(true);
    });
    expect(client.pendingBytes()).toBe(0);
    expect(server.bytesReceived()).toBe(client.bytesSent());
  });
});

test("an end at once after the last frame loses nothing", async () => {
  await withPair(MEGABYTE, async ({ client, server }) => {
    const all = Promise.withResolvers<void>();
    let bytes = 0;
    server.onClose(() => all.resolve());
    server.listen({}, ({ bodies }) => {
      bytes += bodies[0]!.length;
    });
    client.send({ k: "bye" }, [new Uint8Array(200_000)]);
    expect(client.pendingBytes()).toBe(0);
    client.end();
    await all.promise;
    expect(bytes).toBe(200_000);
  });
});

test("a peer that takes too little is cut off instead of filling the memory", async () => {
  await withPair(8 * MEGABYTE, async ({ client, closed }) => {
    const body = new Uint8Array(6 * MEGABYTE);
    for (let i = 0; i < 4; i++) client.send({ i }, [body]);
    expect(client.isOpen()).toBe(false);
    expect(await closed).toMatch(/it takes too little: \d+ bytes wait for it, at most 8388608 may/);
    expect(client.pendingBytes()).toBe(0);
    client.send({ k: "late" }, []);
    expect(client.isOpen()).toBe(false);
  });
});

test("nobody listens: it is refused, or given up after the time allowed", async () => {
  const listener = acceptConnections("127.0.0.1", 0, 1000, () => {});
  const { port } = listener;
  listener.stop();
  await expect(openConnection("127.0.0.1", port, 1000, 5000)).rejects.toThrow();
  // An address of documentation: packets to it go nowhere, or there is no way at all.
  await expect(openConnection("192.0.2.1", 9, 1000, 200)).rejects.toThrow();
});
