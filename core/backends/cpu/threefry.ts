/**
 * Random bits as WebAssembly: threefry2x32 of four counters at once, and the same for the keys that are folded. The bits
 * are those of the reference.
 */
import { sizeOf } from "../../shape.ts";
import type { FunctionBuilder, Local } from "./assembler.ts";
import { BEGIN, type Code, END, integers, launcher } from "./handwritten.ts";
import type { NamedKernel } from "./named.ts";

/** Encryptions from which on other threads are worth their wake-up. */
const PARALLEL_COUNTERS = 2 ** 14;

/** How far the second word is turned in the four rounds of odd groups, and of even ones. */
const ROTATIONS = [
  [13, 15, 26, 6],
  [17, 29, 16, 24],
] as const;

/** Added to the joined words of a key, so that the third is not zero for a zero key. */
const PARITY = 0x1bd11bda;

const splat = (n: number): Uint8Array => new Uint8Array(new Int32Array(4).fill(n).buffer);

/** Turns the 32 bits of every lane to the left. */
function turn(f: FunctionBuilder, v: Local, bits: number): void {
  const bytes = bits / 8;
  if (Number.isInteger(bytes)) {
    const lanes = Array.from({ length: 16 }, (_, i) => (i & ~3) + ((i - bytes) & 3));
    f.get(v).get(v).shuffle(lanes);
    return;
  }
  f.get(v).i32(bits).simd("i32x4.shl");
  f.get(v)
    .i32(32 - bits)
    .simd("i32x4.shr_u")
    .simd("v128.or");
}

/** The five groups of four rounds on the words x and y; `key` are the three words of the key in every lane. */
function encrypt(
  f: FunctionBuilder,
  key: readonly Local[],
  pairs: readonly (readonly [Local, Local])[],
): void {
  const addTo = (v: Local, w: Local): void => {
    f.get(v).get(w).simd("i32x4.add").set(v);
  };
  for (const [x, y] of pairs) {
    addTo(x, key[0]!);
    addTo(y, key[1]!);
  }
  for (let group = 1; group <= 5; group++) {
    for (const bits of ROTATIONS[(group + 1) % 2]!) {
      for (const [x, y] of pairs) {
        addTo(x, y);
        turn(f, y, bits);
        f.get(x).simd("v128.xor").set(y);
      }
    }
    for (const [x, y] of pairs) {
      addTo(x, key[group % 3]!);
      addTo(y, key[(group + 1) % 3]!);
      f.get(y).v128(splat(group)).simd("i32x4.add").set(y);
    }
  }
}

/** The third word of the key. */
function thirdWord(f: FunctionBuilder, key: readonly Local[]): void {
  f.get(key[0]!).get(key[1]!).simd("v128.xor").v128(splat(PARITY)).simd("v128.xor").set(key[2]!);
}

/** Stores the first `count` of four pairs of words: x0 y0 x1 y1 ... */
function storePairs(f: FunctionBuilder, to: Local, x: Local, y: Local, count: Local): void {
  const { num, less, when } = integers(f);
  const pairs = [0, 1].map((half) => {
    const v = f.local("v128");
    const lanes = [0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23].map((lane) => lane + 8 * half);
    f.get(x).get(y).shuffle(lanes).set(v);
    return v;
  }) as [Local, Local];
  const [low, high] = pairs;
  when(
    less(num(3), count),
    () => f.get(to).get(low).simdMemory("v128.store").get(to).get(high).simdMemory("v128.store", 16),
    () => {
      f.get(to).get(low).simdLaneMemory("v128.store64_lane", 0);
      when(less(num(1), count), () => f.get(to).get(low).simdLaneMemory("v128.store64_lane", 1, 8));
      when(less(num(2), count), () => f.get(to).get(high).simdLaneMemory("v128.store64_lane", 0, 16));
    },
  );
}

// --- bits --------------------------------------------------------------------------------------------------------

/** Vectors of four counters that a unit encrypts: more than one, because each step waits for the one before. */
const VECTORS = 2;
const COUNTERS: number = 4 * VECTORS;

/** A unit is up to eight counters of one key; `blocks` units have the same key, `n` counters in all. */
const bitsCode = (words: 1 | 2): Code<"key" | "out", "n" | "blocks"> => ({
  key: `random bits, ${words} words`,
  addresses: ["key", "out"],
  numbers: ["n", "blocks"],
  write(f, { key, out, n, blocks }) {
    const { num, add, sub, mul, div, rem, min, less, loop, push, set, advance, when, locals } = integers(f);
    const [unit, k, block, first, at, to, count] = locals(7);
    const keys = [0, 1, 2].map(() => f.local("v128"));
    const pairs = Array.from({ length: VECTORS }, (): [Local, Local] => [f.local("v128"), f.local("v128")]);
    set(unit, BEGIN);
    set(k, div(unit, blocks));
    set(block, rem(unit, blocks));
    loop(less(unit, END), () => {
      set(at, add(key, mul(k, num(8))));
      f.get(at).simdMemory("v128.load32_splat").set(keys[0]!);
      f.get(at).simdMemory("v128.load32_splat", 4).set(keys[1]!);
      thirdWord(f, keys);
      loop(min(less(unit, END), less(block, blocks)), () => {
        set(first, mul(block, num(COUNTERS)));
        set(to, add(out, mul(add(mul(k, n), first), num(4 * words))));
        pairs.forEach(([x, y], v) => {
          f.v128(splat(0)).set(x);
          push(first);
          f.simd("i32x4.splat")
            .v128(new Uint8Array(Int32Array.from([0, 1, 2, 3], (i) => i + 4 * v).buffer))
            .simd("i32x4.add")
            .set(y);
        });
        encrypt(f, keys, pairs);
        pairs.forEach(([x, y], v) => {
          set(count, sub(sub(n, first), num(4 * v)));
          when(less(num(0), count), () => {
            if (words === 2) storePairs(f, to, x, y, count);
            else {
              f.get(x).get(y).simd("v128.xor").set(x);
              storeWords(f, to, x, count);
            }
          });
          advance(to, num(16 * words));
        });
        advance(block, num(1));
        advance(unit, num(1));
      });
      set(block, num(0));
      advance(k, num(1));
    });
  },
});

/** Stores the first `count` of four words. */
function storeWords(f: FunctionBuilder, to: Local, x: Local, count: Local): void {
  const { num, less, when } = integers(f);
  when(
    less(num(3), count),
    () => f.get(to).get(x).simdMemory("v128.store"),
    () => {
      f.get(to).get(x).simdLaneMemory("v128.store32_lane", 0);
      for (const lane of [1, 2]) {
        when(less(num(lane), count), () =>
          f
            .get(to)
            .get(x)
            .simdLaneMemory("v128.store32_lane", lane, 4 * lane),
        );
      }
    },
  );
}

const randomBits: NamedKernel = {
  prepare: () => [true],
  plan({ args, outs, params }, engine) {
    const { shape, words } = params as { readonly shape: readonly number[]; readonly words: 1 | 2 }; // The record's own.
    const n = sizeOf(shape);
    const blocks = Math.ceil(n / COUNTERS);
    const keys = sizeOf(args[0]!.layout.shape) / 2;
    const launch = launcher(
      engine,
      bitsCode(words),
      { n, blocks },
      { units: keys * blocks, grain: 2, parallel: outs[0]!.size >= PARALLEL_COUNTERS },
    );
    return { workspaceBytes: 0, run: ([key], [out]) => launch(key!, out!) };
  },
};

// --- folded keys -------------------------------------------------------------------------------------------------

/** A unit is up to four keys, each with its own counter; what is read after the last is not used. */
const foldCode: Code<"key" | "data" | "out", "count"> = {
  key: "keys folded with data",
  addresses: ["key", "data", "out"],
  numbers: ["count"],
  write(f, { key, data, out, count }) {
    const { num, add, sub, mul, less, loop, push, set, advance, locals } = integers(f);
    const [unit, at, rest] = locals(3);
    const keys = [0, 1, 2].map(() => f.local("v128"));
    const [x, y] = [f.local("v128"), f.local("v128")];
    set(unit, BEGIN);
    loop(less(unit, END), () => {
      set(at, add(key, mul(unit, num(32))));
      for (const word of [0, 1]) {
        f.get(at).simdMemory("v128.load").get(at).simdMemory("v128.load", 16);
        f.shuffle([0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27].map((lane) => lane + 4 * word));
        f.set(keys[word]!);
      }
      thirdWord(f, keys);
      f.v128(splat(0)).set(x);
      push(add(data, mul(unit, num(16))));
      f.simdMemory("v128.load").set(y);
      encrypt(f, keys, [[x, y]]);
      set(at, add(out, mul(unit, num(32))));
      set(rest, sub(count, mul(unit, num(4))));
      storePairs(f, at, x, y, rest);
      advance(unit, num(1));
    });
  },
};

const foldIn: NamedKernel = {
  prepare: () => [true, true],
  plan({ outs }, engine) {
    const count = outs[0]!.size / 2;
    const launch = launcher(
      engine,
      foldCode,
      { count },
      { units: Math.ceil(count / 4), grain: 2, parallel: count >= PARALLEL_COUNTERS },
    );
    return { workspaceBytes: 0, run: ([key, data], [out]) => launch(key!, data!, out!) };
  },
};

export const threefryKernels: ReadonlyMap<string, NamedKernel> = new Map([
  ["randomBits", randomBits],
  ["foldIn", foldIn],
]);
