/**
 * Laws of compressors: what is sent and what is left are the vector, means are means of what was sent, what is drawn has the
 * distribution that it should. Bounds on means of draws are Hoeffding's, for a chance of 1e-12 in all comparisons together.
 */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { jit } from "../../../autodiff/jit.ts";
import { bytesPerElement } from "../../../core/dtype.ts";
import { DTypeError, ShapeError } from "../../../core/errors.ts";
import { scatterAdd, take } from "../../../core/ops.ts";
import { sizeOf } from "../../../core/shape.ts";
import { adopt } from "../../../core/trace.ts";
import { leaves } from "../../../core/tree.ts";
import type { Value } from "../../../core/value.ts";
import { bitsOf, codesPerWord, pack, unpack } from "../../../dist/compress/bits.ts";
import { blockCompressor, blockIndices } from "../../../dist/compress/block.ts";
import {
  type CompressAt,
  type Compressor,
  expandReduced,
  receivedBytes,
  reduceCompressed,
  split,
} from "../../../dist/compress/compressor.ts";
import { halfCompressor } from "../../../dist/compress/half.ts";
import { type Memory, noMemory, rememberedMean, residualMemory } from "../../../dist/compress/memory.ts";
import { qsgdCompressor } from "../../../dist/compress/qsgd.ts";
import { randomKCompressor } from "../../../dist/compress/random_k.ts";
import { draws } from "../../../dist/compress/seeds.ts";
import { signCompressor } from "../../../dist/compress/sign.ts";
import { topKCompressor } from "../../../dist/compress/top_k.ts";
import { prop } from "../../support/prop.ts";
import { assertClose, assertFinite, assertSameBits } from "../../support/tolerance.ts";

type Float = "float32" | "float64";
const floats: readonly Float[] = ["float32", "float64"];

const shapes = [[7, 9], [40], [3], [], [2, 3, 4]] as const;
const sizes = shapes.map(sizeOf);
const n = sizes.reduce((a, b) => a + b, 0);
const at: CompressAt = { seed: 11, step: 3, rank: 1 };

/** Numbers of a plain congruential generator: independent of the draws that are tested. */
function numbers(size: number, seed: number): number[] {
  let state = seed * 2 + 1;
  return Array.from({ length: size }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 32 - 0.5) * (1 + (state % 7));
  });
}

function vectorOf(data: readonly number[], dtype: Float): Value {
  return adopt(dtype === "float32" ? new Float32Array(data) : new Float64Array(data), [data.length], dtype);
}

const vector = (dtype: Float, seed = 1): Value => vectorOf(numbers(n, seed), dtype);
const squares = (x: Value): number => [...x.dataSync()].reduce((sum, v) => sum + v * v, 0);

const selecting: readonly Compressor[] = [1, 2, 8, 1000].flatMap((ratio): Compressor[] => [
  blockCompressor({ shapes, ratio, seed: 5 }),
  topKCompressor({ shapes, ratio }),
  randomKCompressor({ shapes, ratio, seed: 5 }),
]);

const all = (dtype: Float): readonly Compressor[] => [
  ...selecting,
  randomKCompressor({ shapes, ratio: 8, seed: 5, scaled: true }),
  signCompressor({ shapes }),
  qsgdCompressor({ shapes, levels: 1, seed: 5 }),
  qsgdCompressor({ shapes, levels: 100, seed: 5 }),
  halfCompressor({ shapes, dtype }),
];

/** The distance from its mean that an average of `count` draws from an interval exceeds with chance 1e-12 / comparisons. */
function hoeffding(width: number, count: number, comparisons: number): number {
  return width * Math.sqrt(Math.log((2 * comparisons) / 1e-12) / (2 * count));
}

// --- what is sent and what is left -------------------------------------------------------------------------------

test("selecting compressors send elements bit for bit and leave the others bit for bit", () => {
  for (const dtype of floats) {
    for (const compressor of selecting) {
      const v = vector(dtype);
      const [, sent, residual] = split(compressor, v, at);
      assertSameBits(sent.add(residual), v, compressor.name);
      const [s, r, x] = [sent.dataSync(), residual.dataSync(), v.dataSync()];
      const isSent = Array.from(x, (value, i) => Object.is(s[i], value) && r[i] === 0);
      expect(isSent.filter(Boolean).length).toBe(compressor.sends);
      x.forEach((value, i) => {
        if (!isSent[i]) expect([s[i], r[i]]).toEqual([0, value]);
      });
    }
  }
});

test("each tensor sends max(1, floor(m / ratio)) elements, all for ratio 1 and none for 0", () => {
  for (const ratio of [0, 1, 1.5, 4, 64, 1e9, Number.POSITIVE_INFINITY]) {
    const compressors: readonly Compressor[] = [
      blockCompressor({ shapes, ratio, seed: 1 }),
      topKCompressor({ shapes, ratio }),
      randomKCompressor({ shapes, ratio, seed: 1 }),
    ];
    for (const compressor of compressors) {
      const counts = sizes.map((m) => (ratio === 0 ? 0 : Math.max(1, Math.floor(m / ratio))));
      const sent = compressor.decompress(compressor.compress(vector("float32"), at), at).dataSync();
      let start = 0;
      for (const [tensor, m] of sizes.entries()) {
        const part = sent.slice(start, start + m);
        expect(part.filter((x: number) => x !== 0).length).toBe(counts[tensor]!);
        start += m;
      }
      expect(compressor.sends).toBe(counts.reduce((a, b) => a + b, 0));
      if (ratio === 1) {
        assertSameBits(
          compressor.decompress(compressor.compress(vector("float32"), at), at),
          vector("float32"),
          compressor.name,
        );
      }
    }
  }
});

test("a mean of gathered elements has the bits of whole vectors added in their order, zeros of both signs too", () => {
  // Few different places, so that workers share them; of equal numbers, of sums that cancel and of zeros there are many.
  const values = [0, -0, 1, -1, 0.1, -0.1, 1e-45, -1e-45, 1e30, 3, 2 ** -24, 1 / 3];
  let state = 7;
  const below = (count: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * count);
  };
  for (const dtype of floats) {
    for (const ratio of [1, 2, 8]) {
      const compressor = topKCompressor({ shapes, ratio });
      const { mean: _own, ...plain } = compressor;
      for (const workers of [1, 2, 3, 8]) {
        for (let round = 0; round < 4; round++) {
          const isZero = round === 3;
          const payloads = Array.from({ length: workers }, (_, rank) => {
            const data = Array.from({ length: n }, () =>
              isZero ? -0 : below(3) === 0 ? values[below(values.length)]! : 0,
            );
            return compressor.compress(vectorOf(data, dtype), { ...at, rank });
          });
          const mean = expandReduced(compressor, payloads, at);
          const expected = expandReduced(plain, payloads, at);
          assertSameBits(mean, expected, `${workers} workers, ratio ${ratio}`);
          const negative = (x: Value): boolean[] => Array.from(x.dataSync(), (v) => Object.is(v, -0));
          expect(negative(mean)).toEqual(negative(expected));
          if (isZero) expect(negative(mean)).toContain(true);
        }
      }
    }
  }
});

test("drawn elements depend on seed and step, not on rank or vector", () => {
  for (const make of [
    (seed: number) => blockCompressor({ shapes, ratio: 4, seed }),
    (seed: number) => randomKCompressor({ shapes, ratio: 4, seed }),
  ]) {
    const places = (seed: number, where: CompressAt, from = 1): string =>
      String(
        split(make(seed), vector("float64", from), where)[1]
          .dataSync()
          .map((x) => Number(x !== 0)),
      );
    const here = places(5, at);
    for (let rank = 0; rank < 8; rank++) expect(places(5, { ...at, rank }, rank + 1)).toBe(here);
    expect(places(5, { ...at, step: 4 })).not.toBe(here);
    expect(places(5, { ...at, seed: 12 })).not.toBe(here);
    expect(places(6, at)).not.toBe(here);
  }
});

test("bytes and received bytes are those of the payload's elements, sends gives the ratio", () => {
  for (const dtype of floats) {
    for (const compressor of all(dtype)) {
      const payload = compressor.compress(vector(dtype), at);
      const counted = leaves(payload).reduce((sum, x) => sum + x.size * bytesPerElement(x.dtype), 0);
      expect([compressor.name, compressor.bytes(dtype)]).toEqual([compressor.name, counted]);
      expect(receivedBytes(compressor, 5, dtype)).toBe(
        compressor.communicator === "allgather" ? 5 * counted : counted,
      );
      if (dtype === "float32") {
        const indices = compressor.name === "topk" ? counted / 2 : 0;
        expect(4 * compressor.sends).toBe(counted - indices);
        expect(compressor.bytes()).toBe(counted);
      }
    }
  }
});

// --- means -------------------------------------------------------------------------------------------------------

test("what is expanded is the mean of what was sent, in the order of ranks", () => {
  const workers = 5;
  for (const dtype of floats) {
    for (const compressor of all(dtype)) {
      for (const communicator of new Set([compressor.communicator, "allgather" as const])) {
        const used = { ...compressor, communicator };
        const parts = Array.from({ length: workers }, (_, rank) => {
          const where = { ...at, rank };
          const payload = used.compress(vector(dtype, rank + 1), where);
          return { payload, sent: used.decompress(payload, where).dataSync() };
        });
        const reduced = reduceCompressed(
          used,
          parts.map(({ payload }) => payload),
        );
        const mean = expandReduced(used, reduced, at);
        const round = dtype === "float32" ? Math.fround : (x: number): number => x;
        const expected = Array.from({ length: n }, (_, i) => {
          let sum = parts[0]!.sent[i]!;
          for (const { sent } of parts.slice(1)) sum = round(sum + sent[i]!);
          return round(sum / workers);
        });
        const what = `${compressor.name}, ${communicator}`;
        if (compressor.name === "half" && communicator === "allreduce") {
          // The mean is rounded to 11 bits, of sums in float32.
          assertClose(mean, vectorOf(expected, dtype), what, { relative: 2 ** -10, reason: "float16" });
          expect(leaves(reduced).map((x) => x.dtype)).toEqual(["float16"]);
        } else assertSameBits(mean, vectorOf(expected, dtype), what);
      }
    }
  }
});

test("a mean of float16 payloads does not overflow on the way", () => {
  const compressor = halfCompressor({ shapes: [[1]] });
  const payloads = [60000, 60000, 60000, -60000].map((x) =>
    compressor.compress(vectorOf([x], "float32"), at),
  );
  const mean = expandReduced(compressor, reduceCompressed(compressor, payloads), at);
  expect(mean.dataSync()[0]).toBe(30000);
});

test("no payloads have no mean", () => {
  for (const compressor of [
    signCompressor({ shapes }),
    blockCompressor({ shapes, ratio: 2, seed: 0 }),
  ] as Compressor[])
    expect(() => reduceCompressed(compressor, [])).toThrow(RangeError);
});

// --- blocks ------------------------------------------------------------------------------------------------------

test("a block is consecutive and wraps around the end of its own tensor", () => {
  const [first, second] = [10, 7];
  const starts = new Set<number>();
  let wrapped = 0;
  for (let step = 0; step < 300; step++) {
    const indices = blockIndices([[first], [second]], 2, 9, step);
    expect(indices.length).toBe(5 + 3);
    starts.add(indices[0]!);
    for (let i = 0; i < 5; i++) expect(indices[i]!).toBe((indices[0]! + i) % first);
    for (let i = 0; i < 3; i++) expect(indices[5 + i]!).toBe(first + ((indices[5]! - first + i) % second));
    wrapped += Number(indices[0]! > 5);
  }
  // A start is missed in 300 draws with chance 2e-13 for all ten.
  expect(starts.size).toBe(first);
  expect(wrapped).toBeGreaterThan(0);
});

test("every element is in the block with probability b / m", () => {
  for (const [m, ratio] of [
    [50, 8],
    [64, 64],
    [9, 100],
    [33, 2],
  ] as const) {
    const b = Math.max(1, Math.floor(m / ratio));
    // Missed by all draws: m (1 - b/m)^count <= e^-30.
    const count = Math.ceil((m / b) * (Math.log(m) + 30));
    const hits = new Int32Array(m);
    for (let step = 0; step < count; step++) for (const i of blockIndices([[m]], ratio, 3, step)) hits[i]!++;
    expect(Math.min(...hits)).toBeGreaterThan(0);
    const bound = hoeffding(1, count, m);
    for (const hit of hits) expect(Math.abs(hit / count - b / m)).toBeLessThan(bound);
  }
});

test("block and random-k leave (1 - b / m) |v|² on average, and what they send and leave is orthogonal", () => {
  const [m, count] = [60, 3000];
  for (const make of [blockCompressor, randomKCompressor]) {
    const compressor = make({ shapes: [[m]], ratio: 4, seed: 8 });
    const v = vectorOf(numbers(m, 4), "float64");
    const whole = squares(v);
    let left = 0;
    for (let step = 0; step < count; step++) {
      const [, sent, residual] = split(compressor, v, { ...at, step });
      expect(Math.abs(squares(sent) + squares(residual) - whole)).toBeLessThan(1e-12 * whole);
      left += squares(residual) / whole / count;
    }
    expect(Math.abs(left - (1 - 15 / m))).toBeLessThan(hoeffding(1, count, 1));
  }
});

test("block indices in a compiled step give the bits of the compressor", () => {
  for (const dtype of floats) {
    const compressor = blockCompressor({ shapes, ratio: 8, seed: 5 });
    const v = vector(dtype);
    const zeros = v.mul(0);
    const step = jit((x: Value, indices: Value, zero: Value) => {
      const block = take(x, indices);
      return [block, scatterAdd(zero, indices, block)] as const;
    });
    for (let t = 0; t < 20; t++) {
      const indices = blockIndices(shapes, 8, 5 + at.seed, t);
      const [block, sent] = step(v, adopt(indices, [indices.length], "int32"), zeros);
      const payload = compressor.compress(v, { ...at, step: t });
      assertSameBits(block, payload, "block");
      expect(Array.from(sent.dataSync())).toEqual(
        Array.from(compressor.decompress(payload, { ...at, step: t }).dataSync()),
      );
    }
  }
});

test("every set of random-k is as likely as any other", () => {
  const compressor = randomKCompressor({ shapes: [[5]], ratio: 2, seed: 1 });
  const v = vectorOf([1, 1, 1, 1, 1], "float32");
  const seen = new Map<string, number>();
  const count = 5000;
  for (let step = 0; step < count; step++) {
    const places = String(
      compressor.decompress(compressor.compress(v, { ...at, step }), { ...at, step }).dataSync(),
    );
    seen.set(places, (seen.get(places) ?? 0) + 1);
  }
  expect(seen.size).toBe(10);
  for (const times of seen.values())
    expect(Math.abs(times / count - 1 / 10)).toBeLessThan(hoeffding(1, count, 10));
});

// --- top-k -------------------------------------------------------------------------------------------------------

/** The places of the k largest by a full sort: larger first, of equal ones the earlier. */
function sortedPlaces(data: ArrayLike<number>, k: number): number[] {
  const order = Array.from(data, (_, i) => i);
  order.sort((i, j) => Math.abs(data[j]!) - Math.abs(data[i]!) || i - j);
  return order.slice(0, k).sort((i, j) => i - j);
}

prop(
  "top-k takes what a stable sort by magnitude takes, ties included",
  fc.constantFrom(...floats),
  fc.integer({ min: 1, max: 6000 }),
  fc.constantFrom(1, 1.3, 7, 100, 1e6),
  fc.constantFrom("ties", "mixed", "scales", "equal"),
  fc.nat(1000),
  (dtype, m, ratio, kind, seed) => {
    const raw = numbers(m, seed);
    const data = raw.map((x, i) => {
      if (kind === "ties") return Math.round(x * 3);
      if (kind === "scales") return x * 10 ** ((i % 60) - 30);
      return kind === "equal" ? (x < 0 ? -1 : 1) : x;
    });
    const v = vectorOf(data, dtype);
    const compressor = topKCompressor({ shapes: [[m]], ratio });
    const { indices, values } = compressor.compress(v, at);
    const expected = sortedPlaces(v.dataSync(), compressor.sends);
    expect(Array.from(indices.dataSync())).toEqual(expected);
    expect(Array.from(values.dataSync())).toEqual(expected.map((i) => v.dataSync()[i]!));
    const [, , residual] = split(compressor, v, at);
    expect(squares(residual)).toBeLessThanOrEqual((1 - compressor.sends / m) * squares(v) * (1 + 1e-6));
  },
);

test("top-k tells magnitudes apart that float32 does not", () => {
  const m = 5000;
  const data = Array.from({ length: m }, (_, i) => 1 + ((i * 7919) % m) * 2 ** -50);
  const v = vectorOf(data, "float64");
  const compressor = topKCompressor({ shapes: [[m]], ratio: 100 });
  expect(Array.from(compressor.compress(v, at).indices.dataSync())).toEqual(sortedPlaces(data, 50));
  const huge = vectorOf(
    data.map((x, i) => (i % 2 === 0 ? x * 1e300 : x * 1e-300)),
    "float64",
  );
  expect(Array.from(compressor.compress(huge, at).indices.dataSync())).toEqual(
    sortedPlaces(huge.dataSync(), 50),
  );
});

// --- codes -------------------------------------------------------------------------------------------------------

prop(
  "codes come back from words",
  fc.integer({ min: 1, max: 16 }),
  fc.array(fc.nat(2 ** 16 - 1), { maxLength: 100 }),
  (bits, raw) => {
    const codes = Int32Array.from(raw, (x) => x % 2 ** bits);
    const words = pack(codes, bits);
    expect(words.length).toBe(Math.ceil(codes.length / Math.floor(32 / bits)));
    expect(unpack(words, bits, codes.length)).toEqual(codes);
    // The first code is in the lowest bits.
    if (codes.length > 0) expect(words[0]! % 2 ** bits).toBe(codes[0]!);
  },
);

test("a code has as many bits as its largest number needs", () => {
  for (const [largest, bits] of [
    [1, 1],
    [2, 2],
    [3, 2],
    [4, 3],
    [14, 4],
    [254, 8],
    [65534, 16],
  ] as const) {
    expect(bitsOf(largest)).toBe(bits);
    expect(codesPerWord(bits)).toBe(Math.floor(32 / bits));
  }
});

test("signs are one bit each, the scale is the mean magnitude, the error is |v|² - (Σ|v|)² / m", () => {
  for (const dtype of floats) {
    const v = vector(dtype);
    const x = v.dataSync();
    const compressor = signCompressor({ shapes });
    const [{ scales, words }, sent, residual] = split(compressor, v, at);
    expect(words.size).toBe(Math.ceil(n / 32));
    const bits = words.dataSync();
    let start = 0;
    for (const [tensor, m] of sizes.entries()) {
      const part = Array.from(x.slice(start, start + m), Math.abs);
      const sum = part.reduce((a, b) => a + b, 0);
      const scale = scales.dataSync()[tensor]!;
      expect(Math.abs(scale - sum / m)).toBeLessThan(1e-6 * scale);
      for (let i = start; i < start + m; i++) {
        expect(Math.floor(bits[Math.floor(i / 32)]! / 2 ** (i % 32)) % 2).toBe(x[i]! < 0 ? 1 : 0);
        expect(sent.dataSync()[i]!).toBe(x[i]! < 0 ? -scale : scale);
      }
      const error = [...residual.dataSync()].slice(start, start + m).reduce((a, b) => a + b * b, 0);
      const whole = part.reduce((a, b) => a + b * b, 0);
      expect(Math.abs(error - (whole - sum ** 2 / m))).toBeLessThan(1e-5 * whole);
      start += m;
    }
  }
});

test("QSGD rounds to one of the two levels beside an element, with its sign", () => {
  for (const dtype of floats) {
    for (const levels of [1, 3, 127, 32767]) {
      const v = vector(dtype);
      const x = v.dataSync();
      const compressor = qsgdCompressor({ shapes, levels, seed: 2 });
      const sent = compressor.decompress(compressor.compress(v, at), at).dataSync();
      let start = 0;
      for (const m of sizes) {
        const norm = Math.hypot(...x.slice(start, start + m));
        for (let i = start; i < start + m; i++) {
          const level = (sent[i]! / norm) * levels;
          expect(Math.abs(level - Math.round(level))).toBeLessThan(1e-6 * levels);
          expect(Math.abs(level - (x[i]! / norm) * levels)).toBeLessThan(1 + 1e-6 * levels);
          expect(sent[i]! * x[i]!).toBeGreaterThanOrEqual(0);
        }
        start += m;
      }
    }
  }
});

test("the mean of QSGD and of scaled random-k is the vector, their errors have the stated size", () => {
  const [m, count] = [24, 4000];
  const v = vectorOf(numbers(m, 6), "float64");
  const x = v.dataSync();
  const norm = Math.sqrt(squares(v));
  const cases: readonly [Compressor, (i: number) => number, number][] = [
    ...[1, 4].map((s): [Compressor, (i: number) => number, number] => [
      qsgdCompressor({ shapes: [[m]], levels: s, seed: 3 }),
      () => norm / s,
      Math.min(m / (4 * s * s), Math.sqrt(m) / s),
    ]),
    [
      randomKCompressor({ shapes: [[m]], ratio: 3, seed: 3, scaled: true }),
      (i) => Math.abs(x[i]!) * 3,
      m / 8 - 1,
    ],
  ];
  for (const [compressor, width, error] of cases) {
    const mean = new Float64Array(m);
    let left = 0;
    for (let step = 0; step < count; step++) {
      const [, sent, residual] = split(compressor, v, { ...at, step });
      sent.dataSync().forEach((value, i) => {
        mean[i]! += value / count;
      });
      left += squares(residual) / count;
    }
    for (let i = 0; i < m; i++)
      expect(Math.abs(mean[i]! - x[i]!)).toBeLessThan(hoeffding(width(i), count, m) + 1e-12);
    // An error is at most that of all elements a width away.
    const worst = Array.from(x, (_, i) => width(i) ** 2).reduce((a, b) => a + b, 0);
    expect(left).toBeLessThan(error * norm ** 2 + hoeffding(worst, count, 1));
  }
});

test("workers of QSGD round independently", () => {
  const compressor = qsgdCompressor({ shapes, levels: 2, seed: 3 });
  const words = (rank: number): string =>
    String(compressor.compress(vector("float32"), { ...at, rank }).words.dataSync());
  expect(words(0)).toBe(words(0));
  expect(words(0)).not.toBe(words(1));
});

test("a vector of zeros stays one", () => {
  for (const dtype of floats) {
    for (const compressor of all(dtype)) {
      const [, sent, residual] = split(compressor, vector(dtype).mul(0), at);
      assertFinite([sent, residual], compressor.name);
      expect(squares(sent) + squares(residual)).toBe(0);
    }
  }
});

test("the largest and the smallest numbers keep finite codes", () => {
  for (const [dtype, largest] of [
    ["float32", 3e38],
    ["float64", 1e308],
  ] as const) {
    for (const size of [largest / 20, 1e-30]) {
      const v = vectorOf(
        Array.from({ length: 100 }, (_, i) => (i % 2 === 0 ? size : -size)),
        dtype,
      );
      for (const make of [
        signCompressor,
        (o: { shapes: number[][] }) => qsgdCompressor({ ...o, levels: 9, seed: 0 }),
      ])
        assertFinite([split(make({ shapes: [[100]] }) as Compressor, v, at)[1]], dtype);
    }
  }
});

test("float16 has 11 significant bits and refuses what is too large for it", () => {
  for (const dtype of floats) {
    const v = vector(dtype);
    const compressor = halfCompressor({ shapes, dtype });
    const sent = compressor.decompress(compressor.compress(v, at), at);
    expect(sent.dtype).toBe(dtype);
    sent.dataSync().forEach((value, i) => {
      const x = v.dataSync()[i]!;
      expect(Math.abs(value - x)).toBeLessThanOrEqual(2 ** -11 * Math.abs(x));
    });
  }
  const one = halfCompressor({ shapes: [[1]], names: ["gain"] });
  expect(one.decompress(one.compress(vectorOf([65504], "float32"), at), at).dataSync()[0]).toBe(65504);
  expect(() => one.compress(vectorOf([65505], "float32"), at)).toThrow(/tensor 0 "gain": element 0 is 65505/);
  expect(() => one.compress(vectorOf([1], "float64"), at)).toThrow(DTypeError);
});

// --- draws -------------------------------------------------------------------------------------------------------

test("draws are a function of their name, uniform, and differ between names", () => {
  const take20 = (name: readonly number[]): string => {
    const { uniform } = draws(name);
    return String(Array.from({ length: 20 }, uniform));
  };
  const names = [[], [0], [0, 0], [1], [0, 1], [1, 0], [2 ** 32], [2 ** 53 - 1], [2 ** 53 - 2], [2 ** 33]];
  expect(new Set(names.map(take20)).size).toBe(names.length);
  expect(take20([4, 2])).toBe(take20([4, 2]));
  const { below, uniform } = draws([7]);
  const [bound, count] = [7, 20000];
  const hits = new Int32Array(bound);
  let mean = 0;
  for (let i = 0; i < count; i++) {
    hits[below(bound)]!++;
    const u = uniform();
    expect(u >= 0 && u < 1).toBe(true);
    mean += u / count;
  }
  expect(hits.reduce((a, b) => a + b, 0)).toBe(count);
  for (const hit of hits) expect(Math.abs(hit / count - 1 / bound)).toBeLessThan(hoeffding(1, count, bound));
  expect(Math.abs(mean - 0.5)).toBeLessThan(hoeffding(1, count, 1));
});

// --- memories ----------------------------------------------------------------------------------------------------

test("only parts that fit together make a mean", () => {
  const residual = residualMemory();
  const pairs: readonly [Compressor, Memory, "allreduce" | "allgather" | undefined, RegExp | null][] = [
    [blockCompressor({ shapes, ratio: 2, seed: 0 }), residual, undefined, null],
    [blockCompressor({ shapes, ratio: 2, seed: 0 }), residual, "allgather", null],
    [blockCompressor({ shapes, ratio: 1, seed: 0 }), noMemory, undefined, null],
    [blockCompressor({ shapes, ratio: 2, seed: 0 }), noMemory, undefined, /without a memory/],
    [blockCompressor({ shapes, ratio: 0, seed: 0 }), residual, undefined, /no contraction/],
    [topKCompressor({ shapes, ratio: 2 }), residual, undefined, null],
    [topKCompressor({ shapes, ratio: 2 }), residual, "allreduce", /allgather is needed/],
    [topKCompressor({ shapes, ratio: 2 }), noMemory, undefined, /without a memory/],
    [signCompressor({ shapes }), noMemory, undefined, /without a memory/],
    [signCompressor({ shapes }), residual, "allreduce", /allgather is needed/],
    [randomKCompressor({ shapes, ratio: 8, seed: 0 }), noMemory, undefined, /without a memory/],
    [randomKCompressor({ shapes, ratio: 8, seed: 0, scaled: true }), noMemory, undefined, null],
    [randomKCompressor({ shapes, ratio: 8, seed: 0, scaled: true }), residual, undefined, /no contraction/],
    [qsgdCompressor({ shapes, levels: 4, seed: 0 }), noMemory, undefined, null],
    [qsgdCompressor({ shapes, levels: 3, seed: 0 }), residual, undefined, /no contraction/],
    [qsgdCompressor({ shapes, levels: 4, seed: 0 }), residual, undefined, null],
    [qsgdCompressor({ shapes, levels: 4, seed: 0 }), residual, "allreduce", /allgather is needed/],
    [halfCompressor({ shapes }), noMemory, undefined, null],
  ];
  for (const [compressor, memory, communicator, error] of pairs) {
    const make = (): unknown => rememberedMean({ compressor, memory, ...(communicator && { communicator }) });
    if (error === null) expect(make).not.toThrow();
    else expect(make).toThrow(error);
  }
  for (const decay of [0, -1, 1.1, Number.NaN]) expect(() => residualMemory({ decay })).toThrow(RangeError);
});

test("nothing is lost: what was applied and what is kept are the sum of the vectors", () => {
  const workers = 3;
  for (const compressor of [
    blockCompressor({ shapes, ratio: 8, seed: 5 }),
    topKCompressor({ shapes, ratio: 8 }),
    signCompressor({ shapes }),
    halfCompressor({ shapes, dtype: "float64" }),
  ] as readonly Compressor[]) {
    const mean = rememberedMean({ compressor, memory: residualMemory(), communicator: "allgather" });
    let states = Array.from({ length: workers }, () => mean.init(vector("float64")));
    const balance = new Float64Array(n);
    for (let step = 0; step < 12; step++) {
      const sent = states.map((state, rank) => {
        const v = vector("float64", 1 + step * workers + rank);
        v.dataSync().forEach((x, i) => {
          balance[i]! += x;
        });
        return mean.send(v, state, { seed: 0, step, rank });
      });
      states = sent.map(([, , state]) => state);
      const applied = mean.expand(mean.reduce(sent.map(([payload]) => payload)), { seed: 0, step });
      applied.dataSync().forEach((x, i) => {
        balance[i]! -= x * workers;
      });
    }
    for (const { residual } of states)
      residual!.dataSync().forEach((x, i) => {
        balance[i]! -= x;
      });
    expect(Math.max(...balance.map(Math.abs))).toBeLessThan(1e-12);
  }
});

test("a residual decays, and none is kept without a memory", () => {
  const compressor = topKCompressor({ shapes: [[2]], ratio: 2 });
  const mean = rememberedMean({ compressor, memory: residualMemory({ decay: 0.5 }) });
  const v = vectorOf([4, 1], "float64");
  const [, , first] = mean.send(v, mean.init(v), at);
  expect(Array.from(first.residual!.dataSync())).toEqual([0, 1]);
  const [, sent, second] = mean.send(vectorOf([0, 1], "float64"), first, at);
  expect(Array.from(sent.dataSync())).toEqual([0, 1.5]);
  expect(Array.from(second.residual!.dataSync())).toEqual([0, 0]);
  const plain = rememberedMean({ compressor: halfCompressor({ shapes: [[2]] }), memory: noMemory });
  expect(leaves(plain.init(vectorOf([4, 1], "float32")))).toEqual([]);
  expect(leaves(plain.send(vectorOf([4, 1], "float32"), {}, at)[2])).toEqual([]);
});

// --- what is refused ---------------------------------------------------------------------------------------------

test("NaN and infinities are refused with the tensor and the element", () => {
  const names = ["weights", "bias", "scale", "gain", "kernel"];
  for (const dtype of floats) {
    const named: readonly Compressor[] = [
      blockCompressor({ shapes, ratio: 8, seed: 0, names }),
      topKCompressor({ shapes, ratio: 8, names }),
      randomKCompressor({ shapes, ratio: 8, seed: 0, names }),
      signCompressor({ shapes, names }),
      qsgdCompressor({ shapes, levels: 3, seed: 0, names }),
      halfCompressor({ shapes, dtype, names }),
    ];
    for (const compressor of named) {
      for (const [bad, tensor, element, text] of [
        [Number.NaN, 0, 62, "NaN"],
        [Number.POSITIVE_INFINITY, 1, 0, "Infinity"],
        [Number.NEGATIVE_INFINITY, 3, 0, "-Infinity"],
        [Number.NaN, 4, 23, "NaN"],
      ] as const) {
        const data = numbers(n, 1);
        data[sizes.slice(0, tensor).reduce<number>((a, b) => a + b, 0) + element] = bad;
        expect(() => compressor.compress(vectorOf(data, dtype), at)).toThrow(
          `Cannot compress tensor ${tensor} "${names[tensor]}": element ${element} is ${text}, `,
        );
      }
    }
    const data = numbers(n, 1);
    data[n - 1] = Number.NaN;
    expect(() => signCompressor({ shapes }).compress(vectorOf(data, dtype), at)).toThrow(
      "Cannot compress tensor 4: element 23 is NaN, ",
    );
  }
});

test("what cannot be compressed and options that mean nothing are refused", () => {
  for (const compressor of all("float32")) {
    expect(() => compressor.compress(vectorOf(numbers(n + 1, 1), "float32"), at)).toThrow(ShapeError);
    const whole = adopt(new Float32Array(n), [1, n], "float32");
    expect(() => compressor.compress(whole, at)).toThrow(ShapeError);
    expect(() => compressor.compress(adopt(new Int32Array(n), [n], "int32"), at)).toThrow(DTypeError);
  }
  for (const ratio of [-1, 0.5, Number.NaN]) {
    expect(() => blockCompressor({ shapes, ratio, seed: 0 })).toThrow(RangeError);
    expect(() => blockIndices(shapes, ratio, 0, 0)).toThrow(RangeError);
    expect(() => topKCompressor({ shapes, ratio })).toThrow(RangeError);
    expect(() => randomKCompressor({ shapes, ratio, seed: 0 })).toThrow(RangeError);
  }
  for (const seed of [-1, 0.5, Number.NaN, 2 ** 53]) {
    expect(() => blockCompressor({ shapes, ratio: 2, seed })).toThrow(RangeError);
    expect(() => randomKCompressor({ shapes, ratio: 2, seed })).toThrow(RangeError);
    expect(() => qsgdCompressor({ shapes, levels: 2, seed })).toThrow(RangeError);
  }
  for (const levels of [0, 1.5, 32768, Number.NaN])
    expect(() => qsgdCompressor({ shapes, levels, seed: 0 })).toThrow(RangeError);
  expect(() => randomKCompressor({ shapes, ratio: 0, seed: 0, scaled: true })).toThrow(RangeError);
  expect(() => topKCompressor({ shapes, ratio: 2, names: ["w"] })).toThrow(RangeError);
});
