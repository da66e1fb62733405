/** The matchers that stand in for those of Bun under Deno say what those of Bun say. */
import { expect, spyOn, test } from "bun:test";
import * as own from "./expect.ts";

type Ask = (expect: typeof own.expect) => unknown;

const values: readonly unknown[] = [
  ...[0, -0, 1, 1.004, Number.NaN, Infinity, "", "abc", "a", null, undefined, true],
  ...[[], [1], [1, 2], [0], [-0], [[1], { a: 1 }], { length: 1 }],
  ...[{}, { a: 1 }, { a: 1, b: undefined }, { a: 1, b: 2 }, { a: { b: [1, 2] }, c: 3 }, { a: { b: [1, 2] } }],
  ...[new Float32Array([1, 2]), new Float64Array([1, 2]), new Float32Array([1, 3]), new Uint8Array(0)],
  ...[new Map([["a", [1]]]), new Map([["a", [2]]]), new Set([1, 2]), new Set([2, 1]), new Set([1])],
  ...[
    new Map([
      ["a", 1],
      ["b", 2],
    ]),
    new Map([
      ["b", 2],
      ["a", 1],
    ]),
  ],
  ...[new RangeError("x is 1"), new RangeError("x is 2")],
];

/** Whether everything that is asked holds. */
async function holds(ask: Ask, by: unknown): Promise<boolean> {
  try {
    await ask(by as typeof own.expect);
    return true;
  } catch {
    return false;
  }
}

async function assertSame(ask: Ask): Promise<boolean> {
  const [here, there] = [await holds(ask, own.expect), await holds(ask, expect)];
  if (here !== there) throw new Error(`${ask}: ${here} here, ${there} in Bun`);
  return here;
}

test("equal, and equal in the fields that are named", async () => {
  let equal = 0;
  for (const x of values) {
    for (const y of values) {
      if (await assertSame((ask) => ask(x).toEqual(y))) equal++;
      await assertSame((ask) => ask(x).not.toEqual(y));
      await assertSame((ask) => ask(x).toBe(y));
      const isRecord = (z: unknown): boolean => Object.getPrototypeOf(z ?? 0) === Object.prototype;
      if (isRecord(x) && isRecord(y)) await assertSame((ask) => ask(x).toMatchObject(y));
    }
  }
  expect(equal).toBeGreaterThan(values.length);
});

test("numbers, texts and lists", async () => {
  const numbers = [0, -0, 1, 1.004, 1.006, -3, Infinity, Number.NaN];
  for (const x of numbers) {
    for (const y of numbers) {
      await assertSame((ask) => ask(x).toBeGreaterThan(y));
      await assertSame((ask) => ask(x).toBeGreaterThanOrEqual(y));
      await assertSame((ask) => ask(x).toBeLessThan(y));
      await assertSame((ask) => ask(x).toBeLessThanOrEqual(y));
      await assertSame((ask) => ask(x).toBeCloseTo(y));
      await assertSame((ask) => ask(x).toBeCloseTo(y, 3));
      await assertSame((ask) => ask([x, 7]).toContain(y));
      await assertSame((ask) => ask([x]).toEqual([ask.closeTo(y)]));
      await assertSame((ask) => ask([x, 7]).toEqual(ask.arrayContaining([y])));
    }
    await assertSame((ask) => ask(x).toBeNull());
  }
  for (const x of ["", "abc", "b"]) {
    for (const y of ["", "b", "abcd"]) {
      await assertSame((ask) => ask(x).toContain(y));
      await assertSame((ask) => ask(x).toStartWith(y));
      await assertSame((ask) => ask({ x }).toEqual({ x: ask.stringContaining(y) }));
      await assertSame((ask) => ask({ x, z: 1 }).toMatchObject({ x: ask.stringContaining(y) }));
    }
    await assertSame((ask) => ask(x).toMatch(/^b/));
    await assertSame((ask) => ask(x).toHaveLength(1));
  }
  for (const kind of [RangeError, TypeError, Error]) {
    await assertSame((ask) => ask(new RangeError("x")).toBeInstanceOf(kind));
  }
});

test("functions that throw, and promises that are rejected", async () => {
  const thrower = (): never => {
    throw new RangeError("x is 1");
  };
  for (const promise of [() => Promise.reject(new RangeError("x is 1")), () => Promise.resolve(1)]) {
    for (const wanted of ["x is", "y is", /is 1$/, /^is/, RangeError, TypeError]) {
      await assertSame((ask) => ask(promise()).rejects.toThrow(wanted));
      await assertSame((ask) => ask(thrower).toThrow(wanted));
      await assertSame((ask) => ask(() => 1).toThrow(wanted));
    }
  }
});

test("spies count calls, and give the method back", () => {
  class Counter {
    count = 0;
    add(n: number): number {
      this.count += n;
      return this.count;
    }
  }
  for (const spyBy of [own.spyOn, spyOn] as readonly (typeof own.spyOn)[]) {
    const counter = new Counter();
    const spy = spyBy(counter, "add");
    expect(counter.add(2)).toBe(2);
    expect(spy.mock.calls).toEqual([[2]]);
    spy.mockImplementation(() => 7);
    expect(counter.add(3)).toBe(7);
    expect([spy.mock.calls.length, counter.count]).toEqual([2, 2]);
    spy.mockClear();
    expect(spy.mock.calls).toEqual([]);
    spy.mockRestore();
    expect([counter.add(1), spy.mock.calls.length]).toEqual([3, 0]);
  }
});
