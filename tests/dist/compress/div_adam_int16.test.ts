/** DivAdam whose background goes as integers, and the integers. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { ones, tensor, zeros } from "../../../core/create.ts";
import { add, cast, mul, sub } from "../../../core/ops.ts";
import { leaves } from "../../../core/tree.ts";
import type { Value } from "../../../core/value.ts";
import { type DivAdamOptions, type DivAdamState, divAdam } from "../../../dist/compress/div_adam.ts";
import { addPairs, levelsOf, type Pairs, packingOf } from "../../../dist/compress/pairs.ts";
import { type Together, together } from "../../../dist/compress/together.ts";
import { meanOf } from "../../../optim/admm.ts";
import { propWith } from "../../support/prop.ts";
import { assertClose, assertFinite, assertSameBits } from "../../support/tolerance.ts";

const shapes = [[4, 5], [6], [1]];
const size = 27;
const packing = packingOf([20, 6, 1]);
const indices: readonly number[] = Array.from({ length: size }, (_, i) => i);
const vector = (data: readonly number[], dtype: "float32" | "float64" = "float64"): Value =>
  cast(tensor([...data], { dtype: "float64" }), dtype);
const numbers = (x: Value): number[] => Array.from(x.dataSync());
const dtypes = fc.constantFrom("float32" as const, "float64" as const);

describe("pairs", () => {
  propWith(
    { runs: 60 },
    "sums over the workers are those of the integers",
    fc.constantFrom(1, 2, 3, 8, 100, 1024),
    fc.constantFrom(1, 2, 5, 8),
    dtypes,
    fc.array(fc.oneof(fc.constantFrom(-1, 1), fc.double({ min: -1, max: 1, noNaN: true })), { minLength: 8 }),
    (workers, n, dtype, parts) => {
      const levels = levelsOf(workers);
      expect(workers * (levels + 1)).toBeGreaterThan(31_000);
      const integers = (rank: number): number[] =>
        Array.from({ length: n }, (_, i) => Math.round(levels * parts[(i + 3 * rank) % parts.length]!) + 0);
      const packing = packingOf([n]);
      const scale = ones([1], { dtype });
      const splits = Array.from({ length: workers }, (_, rank) =>
        packing.split(vector(integers(rank), dtype), mul(scale, levels), levels),
      );
      const sum = splits.map(({ pairs }) => pairs).reduce((x, y) => addPairs(x, y));
      const expected = indices
        .slice(0, n)
        .map((i) => splits.reduce((total, _, rank) => total + integers(rank)[i]!, 0));
      expect(numbers(packing.unpacked(sum, scale)).map((x) => x + 0)).toEqual(expected.map((x) => x + 0));
      expect(sum.words.size).toBe(Math.ceil(n / 2));
    },
  );

  test("the largest sums of both signs are told apart", () => {
    const packing = packingOf([2]);
    for (const dtype of ["float32", "float64"] as const) {
      for (const workers of [1, 2, 3, 7, 8, 1000, 1024]) {
        const levels = levelsOf(workers);
        for (const [low, high] of [
          [levels, levels],
          [levels, -levels],
          [-levels, levels],
          [-levels, -levels],
        ] as const) {
          const { pairs } = packing.split(vector([low, high], dtype), vector([levels], dtype), levels);
          const sum = Array.from({ length: workers }, () => pairs).reduce((x, y) => addPairs(x, y));
          expect(numbers(packing.unpacked(sum, ones([1], { dtype })))).toEqual([
            workers * low,
            workers * high,
          ]);
        }
      }
    }
  });

  propWith(
    { runs: 40 },
    "in each tensor what is sent and what is not are the vector, at most half a unit is not sent, nothing beyond the scale is",
    fc.array(
      fc.record({
        data: fc.array(fc.double({ min: -3, max: 3, noNaN: true }), { maxLength: 20 }),
        scale: fc.constantFrom(1e-30, 1e-3, 1, 2, 1e30),
      }),
      { minLength: 1, maxLength: 5 },
    ),
    fc.constantFrom(1, 3, 8, 1024),
    dtypes,
    (given, workers, dtype) => {
      // A tensor without elements has no scale.
      const tensors = given.filter(({ data }) => data.length > 0);
      if (tensors.length === 0) return;
      const packing = packingOf(given.map(({ data }) => data.length));
      expect(packing.scales).toBe(tensors.length);
      const x = vector(
        tensors.flatMap(({ data }) => data),
        dtype,
      );
      const scales = vector(
        tensors.map(({ scale }) => scale),
        dtype,
      );
      const levels = levelsOf(workers);
      const { pairs, units, rest } = packing.split(x, scales, levels);
      const sent = packing.unpacked(pairs, units);
      assertClose(add(sent, rest), x, "the sum");
      let at = 0;
      for (const [tensor, { data, scale }] of tensors.entries()) {
        const [xs, ss] = [x, sent].map((y) => numbers(y).slice(at, at + data.length)) as [number[], number[]];
        at += data.length;
        const unit = scale / levels;
        for (const [i, xi] of xs.entries()) {
          const si = ss[i]!;
          expect(Math.abs(si)).toBeLessThanOrEqual(scale * (1 + 1e-6));
          if (Math.abs(xi) <= scale)
            expect(Math.abs(xi - si)).toBeLessThanOrEqual(unit * 0.501 + 1e-6 * Math.abs(xi));
          else expect(si / scale).toBeCloseTo(Math.sign(xi), 5);
        }
        const largest = Math.max(...xs.map(Math.abs));
        expect(numbers(pairs.peaks)[tensor]).toBe(largest);
        expect(numbers(packing.peaksOf(x))[tensor]).toBe(largest);
      }
    },
  );

  test("too many workers are refused", () => {
    expect(() => levelsOf(1025)).toThrow(
      "Cannot send in 16 bits: there are 1025 workers, at most 1024 or precision float32 is needed",
    );
  });
});

type Run = Together<DivAdamState>;

const rate = 0.01;

/** All that is sent goes as integers. */
const integers: DivAdamOptions = {
  shapes,
  ratio: 9,
  period: 4,
  delay: 3,
  warmup: 2,
  learningRate: rate,
  precision: "int16",
};

/** Of a worker that does not see where it is. */
const gradientAt = (rank: number, step: number): number[] =>
  indices.map((i) => Math.cos(i) + Math.sin(7 * step + 5 * rank + 3 * i));

function stepOn(
  run: Run,
  gradient: (rank: number, step: number, x: Value) => readonly number[] = gradientAt,
): void {
  run.step((rank, x) => vector(gradient(rank, run.steps + 1, x), x.dtype as "float64"));
}

describe("divAdam in int16", () => {
  for (const workers of [1, 3, 8]) {
    test(`${workers} workers: the anchor moves by the mean of what was sent, scales are the same at all`, () => {
      const method = divAdam({ ...integers, averageMomentum: true });
      const run = together(method, zeros([size], { dtype: "float64" }), workers);
      for (let step = 1; step <= 40; step++) {
        const before = run.states;
        const [first] = before;
        stepOn(run);
        const { flying } = first!;
        const isLanding = run.steps > 4 && run.steps % 4 === 3;
        if (isLanding) {
          if (!("sent" in flying)) throw new Error("nothing is under way");
          const sent = before.map(({ flying: own }) => {
            if (!("sent" in own && "residual" in own.units))
              throw new Error("nothing is under way as integers");
            return packing.unpacked(own.sent.residual as Pairs, own.units.residual);
          });
          // What has not been waited for moves the anchor only where something lands.
          const waited = sub(first!.anchor, run.states[0]!.anchor);
          const landed = meanOf(sent);
          const block = numbers(sub(waited, landed)).filter((x) => Math.abs(x) > 1e-12);
          expect(block.length).toBeLessThanOrEqual(4);
        }
        for (const state of run.states) {
          assertSameBits(state.anchor, run.states[0]!.anchor, "anchor");
          for (const [i, scale] of leaves(state.scales).entries()) {
            assertSameBits(scale, leaves(run.states[0]!.scales)[i]!, "scale");
            expect(scale.shape).toEqual([3]);
            expect(Math.min(...numbers(scale))).toBeGreaterThan(0);
          }
          expect(leaves(state.scales).length).toBe(3);
        }
      }
    });
  }

  test("after a warmup nothing is cut off, and v and the parameters stay at those of float32", () => {
    for (const averageMomentum of [false, true]) {
      const [run, exact] = [integers, { ...integers, precision: "float32" as const }].map((options) =>
        together(divAdam({ ...options, averageMomentum }), zeros([size], { dtype: "float64" }), 8),
      ) as [Run, Run];
      for (let step = 1; step <= 80; step++) {
        stepOn(run);
        stepOn(exact);
        // Half a unit of each window of at most 8 gradients, 12 / 4000 or so, against roots of v of 0.1 and more.
        const [own, other] = [numbers(run.view()), numbers(exact.view())];
        for (const i of indices) expect(Math.abs(own[i]! - other[i]!)).toBeLessThan(0.02 * rate * step);
      }
      // The same gradients have the same m and the same sum of windows.
      if (!averageMomentum)
        for (const [rank, { mean }] of run.states.entries()) assertClose(mean, exact.states[rank]!.mean, "m");
    }
  });

  test("tensors of gradients a million times smaller than others are as exact as these", () => {
    const small = (rank: number, step: number): number[] =>
      gradientAt(rank, step).map((g, i) => (i < 20 ? g : 1e-6 * g));
    const [run, exact] = [integers, { ...integers, precision: "float32" as const }].map((options) =>
      together(divAdam(options), zeros([size], { dtype: "float64" }), 3),
    ) as [Run, Run];
    for (let step = 1; step <= 60; step++) for (const each of [run, exact]) stepOn(each, small);
    // With one scale a unit of the window, 8 gradients of up to 2 over 10666 levels, is a thousand times these gradients.
    const [own, other] = [numbers(run.states[0]!.square), numbers(exact.states[0]!.square)];
    for (const i of indices) expect(own[i]! / other[i]!).toBeCloseTo(1, 1);
    for (const [i, x] of numbers(run.view()).entries())
      expect(Math.abs(x - numbers(exact.view())[i]!)).toBeLessThan(0.02 * rate * 60);
  });

  test("gradients that become a thousand times larger arrive, later", () => {
    const run = together(divAdam(integers), zeros([size], { dtype: "float64" }), 3);
    const exact = together(
      divAdam({ ...integers, precision: "float32" }),
      zeros([size], { dtype: "float64" }),
      3,
    );
    const growing = (rank: number, step: number): number[] =>
      gradientAt(rank, step).map((g) => (step > 8 ? 1000 : 1) * (g + 3));
    for (let step = 1; step <= 200; step++) for (const each of [run, exact]) stepOn(each, growing);
    for (const state of run.states) {
      // At most one window is not seen, and half a unit.
      expect(Math.max(...numbers(state.window).map(Math.abs))).toBeLessThan(4 * 1000 * 5.1);
    }
    const [own, other] = [numbers(run.states[0]!.square), numbers(exact.states[0]!.square)];
    for (const i of indices) expect(own[i]! / other[i]!).toBeCloseTo(1, 0);
  });

  test("no gradients, the smallest and the largest do no harm", () => {
    const method = divAdam({ ...integers, averageMomentum: true });
    for (const dtype of ["float32", "float64"] as const) {
      for (const scale of [0, 1e-42, 1e-36, 1e-20, 1e15]) {
        const run = together(
          method,
          vector(
            indices.map((i) => Math.sin(i + 1)),
            dtype,
          ),
          2,
        );
        for (let step = 1; step <= 16; step++)
          stepOn(run, (_rank, _step, x) => numbers(x).map((xi) => xi * scale));
        assertFinite(leaves(run.states), `states at gradients of ${scale}`);
      }
    }
    const still = together(method, ones([size]), 2);
    for (let step = 1; step <= 16; step++) stepOn(still, () => indices.map(() => 0));
    assertSameBits(still.view(), ones([size]), "parameters without gradients");
  });

  test("a run in full precision goes on in integers, and back, and loses nothing", () => {
    const updateOf = ({ mean, square, count }: DivAdamState, step: number): Value => {
      const [m, v] = [numbers(mean), numbers(square)];
      const correction = 1 - 0.999 ** count.item();
      return vector(
        m.map((mi, i) => (rate * mi) / (1 - 0.9 ** step) / (Math.sqrt(v[i]! / correction) + 1e-8)),
      );
    };
    for (const [before, after] of [
      ["float32", "int16"],
      ["int16", "float32"],
    ] as const) {
      // After step 9 what left after step 8 is under way.
      const first = together(
        divAdam({ ...integers, precision: before }),
        zeros([size], { dtype: "float64" }),
        3,
      );
      for (let step = 1; step <= 9; step++) stepOn(first);
      const run = together(
        divAdam({ ...integers, precision: after }),
        zeros([size], { dtype: "float64" }),
        first,
      );
      let expected = first.view();
      for (let step = 10; step <= 30; step++) {
        stepOn(run);
        expected = sub(expected, meanOf(run.states.map((state) => updateOf(state, step))));
        assertClose(run.view(), expected, `parameters after step ${step}`);
      }
    }
  });

  propWith(
    { runs: 8 },
    "both directions have the bytes of the formula",
    fc.constantFrom(1, 3, 8),
    fc.boolean(),
    fc.integer({ min: 1, max: 2 }),
    dtypes,
    (workers, averageMomentum, windowEvery, dtype) => {
      const varianceEvery = 4 * windowEvery;
      const run = together(
        divAdam({ ...integers, averageMomentum, varianceEvery }),
        zeros([size], { dtype }),
        workers,
      );
      for (let step = 1; step <= 17; step++) stepOn(run);
      expect(run.counted).toEqual(run.bytes);
      // Steps 4, 8, 12 and 16; what began after step 16 is under way.
      const one = 4 * Math.ceil(size / 2) + 3 * (dtype === "float32" ? 4 : 8);
      const vectors = (1 + (averageMomentum ? 1 : 0)) * 4 + 4 / windowEvery;
      expect(run.bytes.background.sent).toBe(vectors * one);
      const last = 2 + (averageMomentum ? 1 : 0);
      expect(run.bytes.background.received).toBe((vectors - last) * one);
    },
  );

  test("more workers than integers have room for are refused at the first step", () => {
    const method = divAdam(integers);
    const state = method.init(zeros([size]));
    const at = { step: 1, rank: 0, workers: 2000 };
    expect(() => method.begin(state, ones([size]), null, at)).toThrow("there are 2000 workers");
    expect(() =>
      divAdam({ ...integers, precision: "float32" }).begin(state, ones([size]), null, at),
    ).not.toThrow();
  });
});
