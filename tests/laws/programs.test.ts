/** Laws of transforms on random programs: what holds for every primitive holds for what they make together. */
import { expect, test } from "bun:test";
import { hvp } from "../../autodiff/hvp.ts";
import { jvp, jvpLeaves } from "../../autodiff/jvp.ts";
import { linearize } from "../../autodiff/linearize.ts";
import { vjp } from "../../autodiff/vjp.ts";
import { vmapLeaves } from "../../autodiff/vmap.ts";
import type { Aval } from "../../core/aval.ts";
import { zeros } from "../../core/prims/movement.ts";
import { deadCodeEliminated, evalProgram, type Program, stage, verify } from "../../core/program.ts";
import { scalar } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import { randomFunction } from "../support/arbitrary_program.ts";
import { type Seed, SeededDraw, seeds } from "../support/arbitrary_tensor.ts";
import { centralDifference, inner, stack, take } from "../support/host_oracle.ts";
import { prop } from "../support/prop.ts";
import {
  assertClose,
  assertNumbersClose,
  assertSameBits,
  assertTreesClose,
  differences,
  table,
} from "../support/tolerance.ts";

const arbitrary = seeds();
const one: Value = scalar(1, "float64");
/** Directions drawn after the program, from a stream of their own. */
const directions = (seed: Seed): SeededDraw => new SeededDraw({ ...seed, seed: ~seed.seed });
const used = new Set<string>();

prop("a recorded program gives the bits of the function", arbitrary, (seed) => {
  const { f, xs, avals, steps } = randomFunction(seed);
  for (const { primitive } of steps) used.add(primitive.name);
  const program = stage(f, avals);
  expect(verify(program)).toBe(steps.length);
  evalProgram(program, xs).forEach((y, i) => {
    assertSameBits(y!, f(...xs)[i]!, `output ${i}`);
  });
});

prop("dropping dead equations keeps the meaning and adds nothing", arbitrary, (seed) => {
  const { f, xs, avals } = randomFunction(seed);
  const program = stage(f, avals);
  const smaller = deadCodeEliminated(program);
  verify(smaller);
  expect(smaller.eqns.length).toBeLessThanOrEqual(program.eqns.length);
  expect(deadCodeEliminated(smaller).eqns).toEqual(smaller.eqns);
  // The original order, nothing new, and every equation is needed.
  expect(program.eqns.filter((eqn) => smaller.eqns.includes(eqn))).toEqual([...smaller.eqns]);
  for (const { outs } of smaller.eqns) expect(outs.some((v) => reads(smaller, v))).toBe(true);
  evalProgram(smaller, xs).forEach((y, i) => {
    assertSameBits(y!, evalProgram(program, xs)[i]!, `output ${i}`);
  });
});

function reads(program: Program, v: unknown): boolean {
  return program.outs.includes(v as never) || program.eqns.some(({ ins }) => ins.includes(v as never));
}

prop("jvp agrees with differences", arbitrary, (seed) => {
  const { f, xs } = randomFunction(seed);
  const draw = directions(seed);
  const vs = xs.map((x) => draw.direction(x));
  const [ys, tangents] = jvpLeaves(f, xs, vs);
  centralDifference(f, xs, vs).forEach((expected, i) => {
    assertSameBits(ys[i]!, f(...xs)[i]!, `output ${i}`);
    assertClose(tangents[i] ?? zeros(ys[i]!.aval), expected!, `tangent ${i}`, differences);
  });
});

prop("vjp is the adjoint of jvp", arbitrary, (seed) => {
  const { f, xs } = randomFunction(seed);
  const draw = directions(seed);
  const vs = xs.map((x) => draw.direction(x));
  const [ys, pullback] = vjp((...args: Value[]) => f(...args), ...xs);
  const cts = ys.map((y) => draw.direction(y));
  const [, tangents] = jvp((...args: Value[]) => f(...args), [...xs], vs);
  assertNumbersClose(
    [inner(pullback(cts), vs)],
    [inner(cts, tangents)],
    "<pullback(ct), v> = <ct, J v>",
    table.float64,
  );
});

prop("the pushforward of linearize is jvp", arbitrary, (seed) => {
  const { f, xs } = randomFunction(seed);
  const draw = directions(seed);
  const g = (...args: Value[]): Value[] => f(...args);
  const [ys, push] = linearize(g, ...xs);
  for (let direction = 0; direction < 2; direction++) {
    const vs: Value[] = xs.map((x) => draw.direction(x));
    const [zs, tangents] = jvp(g, [...xs] as Value[], vs);
    assertTreesClose(push(...vs), tangents, "tangents");
    assertTreesClose(ys, zs, "values");
  }
});

prop("hvp agrees with differences of the gradient and is symmetric", arbitrary, (seed) => {
  const { loss, xs } = randomFunction(seed);
  const draw = directions(seed);
  const product = hvp((p: Value[]) => loss(...p));
  const [u, v]: readonly Value[][] = [xs.map((x) => draw.direction(x)), xs.map((x) => draw.direction(x))];
  const Hv = product([...xs], v!);
  assertNumbersClose(
    [inner(u!, Hv)],
    [inner(v!, product([...xs], u!))],
    "<u, H v> = <v, H u>",
    table.float64,
  );
  const gradient = (...at: Value[]): Value[] => vjp((p: Value[]) => loss(...p), at)[1](one)[0];
  centralDifference(gradient, xs, v!).forEach((expected, i) => {
    assertClose(Hv[i]!, expected!, `H v at leaf ${i}`, differences);
  });
});

prop("vmap is a loop", arbitrary, (seed) => {
  const { f, xs } = randomFunction(seed);
  const draw = directions(seed);
  const size = draw.pick([0, 1, 2, 3]);
  const chosen = xs.map(() => draw.bool());
  chosen[0] = true;
  const dims = xs.map((x, i) => (chosen[i] ? draw.int(0, x.ndim) : null));
  const args = xs.map((x, i) =>
    dims[i] === null
      ? x
      : draw.tensor({ shape: x.shape.toSpliced(dims[i]!, 0, size), range: [-1, 1] }, "float64"),
  );
  const rows = Array.from({ length: size }, (_, k) =>
    f(...args.map((x, i) => (dims[i] === null ? x : take(x, dims[i]!, k)))),
  );
  const avals: Aval[] = f(...xs).map((y) => y.aval);
  vmapLeaves(f, args, dims, size).forEach((y, i) => {
    assertClose(
      y,
      stack(
        rows.map((row) => row[i]!),
        avals[i]!,
        0,
      ),
      `output ${i}, axis ${dims}`,
    );
  });
});

prop("a recorded gradient gives the bits of the gradient", arbitrary, (seed) => {
  const { loss, xs, avals } = randomFunction(seed);
  const gradient = (...at: Value[]): Value[] => vjp((p: Value[]) => loss(...p), at)[1](one)[0];
  const program = stage(gradient, avals);
  verify(program);
  const expected = gradient(...xs);
  evalProgram(deadCodeEliminated(program), xs).forEach((g, i) => {
    assertSameBits(g!, expected[i]!, `gradient ${i}`);
  });
});

test("random programs use many primitives", () => {
  expect(used.size).toBeGreaterThan(15);
});
