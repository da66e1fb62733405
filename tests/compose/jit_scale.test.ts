/** Long programs: transforms and passes neither fill the stack nor look at everything again for each equation. */
import { describe, expect, test } from "bun:test";
import { hvp } from "../../autodiff/hvp.ts";
import { linearTranspose } from "../../autodiff/transpose.ts";
import { grad } from "../../autodiff/vjp.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { ones, tensor } from "../../core/create.ts";
import { add, concat, mul, sin, slice, sum, transpose } from "../../core/ops.ts";
import { constantsFolded } from "../../core/passes/fold.ts";
import { fused } from "../../core/passes/fuse.ts";
import { arena, lifetimes } from "../../core/passes/plan.ts";
import { simplified } from "../../core/passes/simplify.ts";
import { broadcastP } from "../../core/prims/movement.ts";
import { evalProgram, type Program, show, stage, verify } from "../../core/program.ts";
import { bind1 } from "../../core/trace.ts";
import type { Tensor, Value } from "../../core/value.ts";
import { assertClose, assertSameBits } from "../support/tolerance.ts";

const MANY = 50_000;
const PARTS = 3_000;

const count = (program: Program, name: string): number =>
  program.eqns.filter(({ prim }) => prim.name === name).length;
const times = (n: number, f: (x: Value, i: number) => Value, x: Value): Value => {
  let y = x;
  for (let i = 0; i < n; i++) y = f(y, i);
  return y;
};
const close = (y: Value | null, numbers: readonly number[], what: string): void =>
  assertClose(y!, tensor([...numbers], { dtype: y!.dtype }), what);
const chain = (x: Value): Value => times(MANY, (y) => sin(y), x);
/** What `n` sines in a row are, from the loop over numbers, and their first derivative: `y' = product of the cosines`. */
function chained(x: number, n: number): readonly [y: number, dy: number] {
  let [y, dy] = [x, 1];
  for (let i = 0; i < n; i++) [y, dy] = [Math.sin(y), dy * Math.cos(y)];
  return [y, dy];
}

describe(`chains of ${MANY} equations`, () => {
  const at = tensor([0.25, 2], { dtype: "float64" });
  const expected = [0.25, 2].map((x) => chained(x, MANY));
  const program = stage((x) => [chain(x!)], [at.aval]);

  test("are verified, printed, run, simplified and scheduled", () => {
    expect(verify(program)).toBe(MANY);
    expect(show(program).split("\n").length).toBe(MANY + 3);
    const simple = simplified(program);
    expect(simple.eqns.length).toBe(MANY);
    close(
      evalProgram(simple, [at])[0]!,
      expected.map(([y]) => y),
      "values",
    );
    const schedule = fused(simple, () => null);
    expect(schedule.steps.length).toBeLessThan(MANY / 10);
  });

  test("are differentiated in both modes, batched and transposed", () => {
    close(
      grad((x: Value) => sum(chain(x)))(at),
      expected.map(([, dy]) => dy),
      "gradient",
    );
    close(
      vmap(chain)(at),
      expected.map(([y]) => y),
      "batched",
    );
    const halves = (x: Value, n = MANY): Value =>
      times(n, (y, i) => (i % 2 === 0 ? mul(y, 2) : mul(y, 0.5)), x);
    close(linearTranspose(halves, at)(at)[0], [0.25, 2], "transposed");
    // H v of f = sum x^4 / 4 through a chain that changes nothing: 3 x^2 v.
    const quartic = (x: Value): Value => {
      const y = halves(x, MANY / 10);
      return sum(mul(mul(y, y), mul(y, y))).mul(0.25);
    };
    close(hvp(quartic)(at, ones([2], { dtype: "float64" })), [3 / 16, 12], "curvature");
  });

  test("pass a permutation on from one end to the other", () => {
    const x = tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]); // biome-ignore format: a matrix
    const turned = stage((y) => [transpose(chain(transpose(y!)))], [x.aval]);
    const simple = simplified(turned);
    expect(simple.eqns.length).toBe(MANY);
    expect(count(simple, "permute")).toBe(0);
    assertSameBits(evalProgram(simple, [x])[0]!, evalProgram(turned, [x])[0]!, "turned twice");
  });

  test("of broadcasts are one where constants are folded", () => {
    const two = tensor([2, 2]);
    const repeated = stage(
      (x) => {
        const twos = times(MANY, (y) => bind1(broadcastP, [y], { shape: [2], axes: [0] }), two);
        return [mul(mul(x!, twos), twos)];
      },
      [two.aval],
    );
    expect(repeated.eqns.length).toBe(MANY + 2);
    close(evalProgram(constantsFolded(repeated), [two])[0]!, [8, 8], "folded");
    expect(simplified(repeated).eqns.length).toBe(2);
  });
});

/** Positions 0 to n - 1 out of order: 7 is no divisor of n. */
const mixed = (n: number): number[] => Array.from({ length: n }, (_, i) => (i * 7) % n);

describe(`${PARTS} parts`, () => {
  /** Sum of the squares of slices at the given places. */
  const squares =
    (places: readonly number[], width: number) =>
    (x: Value): Value =>
      places
        .map((at) => slice(x, [at], [at + width]))
        .reduce<Value>((s, y) => add(s, sum(mul(y, y))), tensor(0));
  const ramp = (n: number): Tensor => tensor(Array.from({ length: n }, (_, i) => (i % 100) + 1));

  const cases: readonly (readonly [string, number[], number, pads: number, adds: number])[] = [
    // No element is read twice: no sum is left, and one pad for the end of the vector, which nothing reads.
    ["in order", Array.from({ length: PARTS }, (_, i) => i), 1, 1, 0],
    ["in another order", mixed(PARTS), 1, 1, 0],
    ["with gaps", mixed(PARTS / 3).map((i) => 2 * i), 1, 1, 0],
    // Windows of 3 are three layers of parts side by side, each padded, which two sums join.
    ["that overlap", mixed(PARTS / 3), 3, 3, 2],
  ];
  for (const [name, places, width, pads, adds] of cases) {
    test(`sliced ${name} have a gradient without sums over everything`, () => {
      const x = ramp(2 * PARTS + width);
      const program = stage((y) => [grad(squares(places, width))(y!)], [x.aval]);
      const simple = simplified(program);
      verify(simple);
      expect(count(simple, "pad")).toBeLessThanOrEqual(pads);
      // Besides, y + y of each part.
      expect(count(simple, "add")).toBeLessThanOrEqual(adds + places.length);
      const slope = new Float64Array(x.size);
      const data = x.dataSync();
      for (const at of places) for (let i = at; i < at + width; i++) slope[i]! += 2 * data[i]!;
      close(evalProgram(simple, [x])[0]!, Array.from(slope), "gradient");
    });
  }

  test("concatenated one by one are one concatenation, of which slices are the parts", () => {
    const f = (x: Value): Value[] => {
      const all = times(PARTS, (y, i) => concat([y, mul(x, i)], { axis: 0 }), x);
      return Array.from({ length: PARTS }, (_, i) => slice(all, [i + 1], [i + 2]));
    };
    const x = tensor([3]);
    const program = stage((y) => f(y!), [x.aval]);
    const simple = simplified(program);
    expect(count(program, "concat")).toBe(PARTS);
    expect(count(simple, "concat")).toBe(0);
    expect(count(simple, "slice")).toBe(0);
    evalProgram(simple, [x]).forEach((y, i) => {
      if (i % 500 === 0) close(y, [3 * i], `part ${i}`);
    });
  });
});

test("thousands of buffers that are needed at one time do not overlap, others share their places", () => {
  const n = 2500;
  const program = stage(
    (x) => {
      // Every row is needed until the end, and with it for a while something larger.
      const rows = Array.from({ length: n }, (_, i) => {
        const column = mul(sum(mul(x!, i + 2), { axis: 1, keepDims: true }), x!);
        return sum(column.matmul(x!), { axis: [0, 1] }).reshape([1]);
      });
      return [concat(rows.toReversed(), { axis: 0 })];
    },
    [ones([3, 3]).aval],
  );
  const schedule = fused(simplified(program), (_, args) => args.map(() => true));
  const lives = lifetimes(schedule);
  const slots = [...lives.keys()].filter(({ origin }) => origin === "step");
  const { offsets, bytes } = arena(schedule.steps, lives, new Set(slots));
  const places = slots.map((slot) => {
    const offset = offsets.get(slot)!;
    return { ...lives.get(slot)!, offset, end: offset + 4 * slot.aval.size };
  });
  expect(places.length).toBeGreaterThan(2 * n);
  let overlaps = 0;
  places.forEach((x, i) => {
    for (let j = 0; j < i; j++) {
      const y = places[j]!;
      if (x.from < y.to && y.from < x.to && x.offset < y.end && y.offset < x.end) overlaps++;
    }
    expect(x.offset >= 0 && x.end <= bytes).toBe(true);
  });
  expect(overlaps).toBe(0);
  // Two blocks for each row that stays, and few for what does not.
  expect(bytes).toBeLessThan(64 * 2 * (n + 20) + 4 * n);
});
