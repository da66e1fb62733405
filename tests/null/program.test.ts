import { describe, expect, test } from "bun:test";
import { Aval } from "../../core/aval.ts";
import { zeros } from "../../core/create.ts";
import { ShapeError } from "../../core/errors.ts";
import { add, sin, sum } from "../../core/ops.ts";
import { addP, sinP } from "../../core/prims/elementwise.ts";
import { sumP } from "../../core/prims/movement.ts";
import {
  deadCodeEliminated,
  evalProgram,
  type Program,
  show,
  stage,
  Var,
  verify,
} from "../../core/program.ts";

const f3 = new Aval([3], "float32");
const scalar = new Aval([], "float32");

/** a -> sin a, sum of it. */
function build(change: Partial<Program> = {}): Program {
  const [a, b, c] = [new Var(f3), new Var(f3), new Var(scalar)];
  return {
    ins: [a],
    eqns: [
      { prim: sinP, ins: [a], outs: [b], params: null },
      { prim: sumP, ins: [b], outs: [c], params: { axes: [0] } },
    ],
    outs: [c],
    ...change,
  };
}

describe("verify", () => {
  test("accepts what stage records and counts the equations", () => {
    expect(verify(build())).toBe(2);
    expect(verify(stage((x) => [sum(sin(x!))], [f3]))).toBe(2);
    expect(verify({ ins: [], eqns: [], outs: [null] })).toBe(0);
  });

  test("refuses a variable read before it is written", () => {
    expect(() => verify(build({ eqns: build().eqns.toReversed() }))).toThrow("before");
    expect(() => verify(build({ ins: [] }))).toThrow("before");
    expect(() => verify(build({ outs: [new Var(scalar)] }))).toThrow("before");
  });

  test("refuses a variable written twice", () => {
    const program = build();
    expect(() => verify({ ...program, eqns: [...program.eqns, program.eqns[0]!] })).toThrow("once");
    expect(() => verify({ ...program, ins: [program.ins[0]!, program.ins[0]!] })).toThrow("once");
  });

  test("refuses an equation with another result than its rule gives", () => {
    const a = new Var(f3);
    const wrong = [new Var(scalar), new Var(new Aval([3], "float64")), new Var(new Aval([4], "float32"))];
    for (const b of wrong) {
      const program = { ins: [a], eqns: [{ prim: sinP, ins: [a], outs: [b], params: null }], outs: [b] };
      expect(() => verify(program)).toThrow("sin gives f32[3]");
    }
    const two = {
      ins: [a],
      eqns: [{ prim: sinP, ins: [a], outs: [new Var(f3), new Var(f3)], params: null }],
      outs: [],
    };
    expect(() => verify(two)).toThrow("sin gives");
  });

  test("refuses an equation that its rule refuses", () => {
    const [a, b] = [new Var(f3), new Var(scalar)];
    const program = {
      ins: [a, b],
      eqns: [{ prim: addP, ins: [a, b], outs: [new Var(f3)], params: null }],
      outs: [],
    };
    expect(() => verify(program)).toThrow(ShapeError);
  });
});

describe("dead code", () => {
  test("goes, and what it alone needed goes too", () => {
    const program = stage(
      (x) => {
        sum(sin(sin(x!)));
        return [sum(x!)];
      },
      [f3],
    );
    expect(program.eqns.length).toBe(4);
    expect(deadCodeEliminated(program).eqns.map(({ prim }) => prim.name)).toEqual(["sum"]);
    expect(deadCodeEliminated({ ...program, outs: [null] }).eqns).toEqual([]);
  });

  test("inputs stay, in order", () => {
    const program = stage((_x, y) => [sin(y!)], [f3, f3]);
    expect(deadCodeEliminated(program).ins).toEqual(program.ins);
  });
});

describe("text", () => {
  test("names are letters in the order of first use, after z come aa, ab", () => {
    const program = stage(
      (x) => {
        let y = x!;
        for (let i = 0; i < 29; i++) y = sin(y);
        return [y];
      },
      [f3],
    );
    const names = show(program)
      .split("\n")
      .slice(1, -2)
      .map((line) => line.trim().split(":")[0]);
    expect(names.slice(0, 2)).toEqual(["b", "c"]);
    expect(names.slice(24, 28)).toEqual(["z", "aa", "ab", "ac"]);
  });

  test("constants, symbolic zeros and empty programs", () => {
    const constant = zeros([2, 2]);
    const program = stage((x) => [add(x!, constant)], [new Aval([2, 2], "float32")]);
    expect(show({ ...program, outs: [...program.outs, null] })).toBe(
      ["program (a: f32[2,2]) {", "  b: f32[2,2] = add a <f32[2,2]>", "  return b, zero", "}"].join("\n"),
    );
    expect(show({ ins: [], eqns: [], outs: [] })).toBe("program () {\n  return \n}");
  });
});

test("an evaluated program keeps symbolic zeros, inputs and constants as outputs", () => {
  const constant = zeros([1]);
  const x = new Var(f3);
  const program: Program = { ins: [x], eqns: [], outs: [null, x, constant] };
  const value = zeros([3]);
  expect(evalProgram(program, [value])).toEqual([null, value, constant]);
});
