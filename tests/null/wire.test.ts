import { expect, test } from "bun:test";
import fc from "fast-check";
import { crc32, crc32ByTable } from "../../dist/checksum.ts";
import { encodeFrame, type Frame, frameBytes, frameReader, bytesOf as sizeOf } from "../../dist/wire.ts";
import { prop } from "../support/prop.ts";

const frames: fc.Arbitrary<readonly Frame[]> = fc.array(
  fc.record({
    head: fc.record({ k: fc.string(), seq: fc.nat(), notes: fc.array(fc.integer()) }),
    bodies: fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 4 }) as fc.Arbitrary<
      Uint8Array<ArrayBuffer>[]
    >,
  }),
  { minLength: 1, maxLength: 4 },
);

function bytesOf(list: readonly Frame[]): Uint8Array {
  return Uint8Array.from(
    list.flatMap(({ head, bodies }) => encodeFrame(head, bodies).flatMap((chunk) => [...chunk])),
  );
}

/** Frames as plain data, for comparison. */
function plain(list: readonly Frame[]): unknown {
  return list.map(({ head, bodies }) => ({
    head: JSON.stringify(head),
    bodies: bodies.map((body) => [...body]),
  }));
}

test("any cutting of the bytes gives the same frames", () => {
  fc.assert(
    fc.property(frames, fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1 }), (list, cuts) => {
      const bytes = bytesOf(list);
      const reader = frameReader();
      const got: Frame[] = [];
      for (let at = 0, i = 0; at < bytes.length; i++) {
        const size = cuts[i % cuts.length]!;
        const fed = reader.feed(bytes.subarray(at, at + size));
        expect(fed.error).toBeUndefined();
        got.push(...fed.frames);
        at += size;
      }
      expect(plain(got)).toEqual(plain(list));
      expect(plain(frameReader().feed(bytes).frames)).toEqual(plain(list));
    }),
    { numRuns: 100 },
  );
});

test("every change of a single byte is noticed before the frame is given out", () => {
  const first = { head: { k: "first" }, bodies: [new Uint8Array([1])] };
  const second = {
    head: { k: "answer", seq: 7, notes: [0.5] },
    bodies: [new Uint8Array([1, 2, 3]), new Uint8Array(0)],
  };
  const start = bytesOf([first]).length;
  const bytes = bytesOf([first, second]);
  let changes = 0;
  for (let at = start; at < bytes.length; at++) {
    for (const flip of [1, 0x80, 0xff]) {
      const damaged = bytes.slice();
      damaged[at]! ^= flip;
      const fed = frameReader().feed(damaged);
      expect(plain(fed.frames)).toEqual(plain([first]));
      expect(fed.error?.k).toMatch(/magic|checksum|lengths/);
      changes++;
    }
  }
  expect(changes).toBe(3 * (bytes.length - start));
});

test("a reader gives frames before an error and nothing after it", () => {
  const good = bytesOf([{ head: { k: "good" }, bodies: [] }]);
  const reader = frameReader();
  const fed = reader.feed(Uint8Array.from([...good, ...new Uint8Array(20), ...good]));
  expect(fed.frames.length).toBe(1);
  expect(fed.error?.k).toBe("magic");
  const later = reader.feed(good);
  expect(later.frames).toEqual([]);
  expect(later.error).toEqual(fed.error!);
});

test("an oversize frame is refused on its first 20 bytes", () => {
  const limits = { maxHeadBytes: 30, maxBodies: 2, maxBodyBytes: 100 };
  const prefix = (head: unknown, bodies: readonly Uint8Array[]): Uint8Array =>
    encodeFrame(head, bodies)[0]!.subarray(0, 20);
  const tooLong = [
    prefix({ k: "x".repeat(40) }, []),
    prefix({}, [new Uint8Array(101)]),
    prefix({}, [new Uint8Array(1), new Uint8Array(1), new Uint8Array(1)]),
  ];
  for (const bytes of tooLong) expect(frameReader(limits).feed(bytes).error?.k).toBe("oversize");
  const fits = bytesOf([{ head: {}, bodies: [new Uint8Array(60), new Uint8Array(40)] }]);
  expect(frameReader(limits).feed(fits).frames.length).toBe(1);
});

test("a head that is not JSON is the fault of the peer, not an exception", () => {
  // A frame whose JSON bytes are replaced, with correct checksums: encode a string of the wrong kind by hand.
  const chunks = encodeFrame({ k: "ok" }, []);
  const front = chunks[0]!.slice();
  front[20] = 0xff;
  const trailer = new Uint8Array(4);
  new DataView(trailer.buffer).setUint32(0, Bun.hash.crc32(front.subarray(20)), true);
  const fed = frameReader().feed(Uint8Array.from([...front, ...trailer]));
  expect(fed.error?.k).toBe("head");
});

test("bodies are not copied when written, and own their memory when read", () => {
  const body = new Uint8Array(new Float64Array([1.5, -2]).buffer);
  const chunks = encodeFrame({ odd: "xyz" }, [new Uint8Array([9]), body]);
  expect(chunks).toContain(body);
  const joined = Uint8Array.from(chunks.flatMap((chunk) => [...chunk]));
  const read = frameReader().feed(joined).frames[0]!.bodies[1]!;
  expect([...new Float64Array(read.buffer)]).toEqual([1.5, -2]);
  joined.fill(0);
  expect([...new Float64Array(read.buffer)]).toEqual([1.5, -2]);
});

test("bodies begin at a multiple of eight, whatever the head; in parts they are the same bytes", () => {
  for (let length = 0; length < 20; length++) {
    const head = { name: "x".repeat(length) };
    const bodies = [Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8]), new Uint8Array([9])];
    const chunks = encodeFrame(head, bodies);
    expect(chunks[0]!.length % 8).toBe(0);
    const inParts = [[bodies[0]!.subarray(0, 3), bodies[0]!.subarray(3)], [bodies[1]!]];
    expect(Buffer.concat(encodeFrame(head, inParts))).toEqual(Buffer.concat(chunks));
    expect(frameBytes(head, inParts)).toBe(sizeOf(chunks));
    expect(plain(frameReader().feed(Buffer.concat(chunks)).frames)).toEqual(plain([{ head, bodies }]));
  }
});

test("bodies stay in the chunk where they may, and only there", () => {
  const body = new Uint8Array(100).fill(7);
  const bytes = new Uint8Array(Buffer.concat(encodeFrame({ k: "view" }, [body, body])));
  const shares: number[] = [];
  const reader = frameReader({}, (head, share) => {
    shares.push(share);
    return (head as { k: string }).k === "view";
  });
  const [frame] = reader.feed(bytes).frames;
  expect(shares).toEqual([100 / bytes.length, 100 / bytes.length]);
  expect(frame!.bodies.map((one) => one.buffer === bytes.buffer)).toEqual([true, true]);
  expect(plain([frame!])).toEqual(plain([{ head: { k: "view" }, bodies: [body, body] }]));
  // In two chunks the body that is cut has a buffer of its own.
  const later = [bytes.slice(0, 60), bytes.slice(60)].flatMap((chunk) => reader.feed(chunk).frames)[0]!;
  expect(later.bodies.map((one) => one.byteLength === one.buffer.byteLength)).toEqual([true, false]);
  expect(plain([later])).toEqual(plain([{ head: { k: "view" }, bodies: [body, body] }]));
});

test("the bytes are the documented ones", () => {
  const hex = encodeFrame({}, [new Uint8Array([5])]).map((chunk) => Buffer.from(chunk).toString("hex"));
  const prefix = "43544731080000000100000001000000";
  const head = "7b7d202020202020";
  const sum = (text: string): string => {
    const crc = Buffer.alloc(4);
    crc.writeUInt32LE(Bun.hash.crc32(Buffer.from(text, "hex")));
    return crc.toString("hex");
  };
  expect(hex).toEqual([`${prefix}${sum(prefix)}01000000${head}`, "05", sum(`01000000${head}05`)]);
});

prop(
  "the checksum is that of zlib in any pieces, with the host's help and without",
  fc.uint8Array({ maxLength: 300 }),
  fc.nat(300),
  (bytes, at) => {
    const [head, tail] = [bytes.subarray(0, at), bytes.subarray(at)];
    for (const sum of [crc32, crc32ByTable]) expect(sum(tail, sum(head))).toBe(Bun.hash.crc32(bytes));
  },
);
