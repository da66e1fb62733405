/** Passes: each keeps the meaning, adds no equation, and does what it is there for. */
import { describe, expect, test } from "bun:test";
import { vjp } from "../../autodiff/vjp.ts";
import { Aval } from "../../core/aval.ts";
import type { DType } from "../../core/dtype.ts";
import * as ops from "../../core/ops.ts";
import { commonSubexpressionsMerged } from "../../core/passes/cse.ts";
import { deadCodeEliminated } from "../../core/passes/dce.ts";
import { constantsFolded } from "../../core/passes/fold.ts";
import { identitiesApplied, simplified } from "../../core/passes/simplify.ts";
import * as dots from "../../core/prims/contract.ts";
import * as p from "../../core/prims/elementwise.ts";
import * as m from "../../core/prims/movement.ts";
import { evalProgram, type Program, show, stage, verify } from "../../core/program.ts";
import { ravel } from "../../core/ravel.ts";
import { adopt, bind1, scalar } from "../../core/trace.ts";
import type { Tensor, Value } from "../../core/value.ts";
import { randomIdentities } from "../support/arbitrary_identities.ts";
import { randomFunction } from "../support/arbitrary_program.ts";
import { SeededDraw, seeds } from "../support/arbitrary_tensor.ts";
import { prop, propWith } from "../support/prop.ts";
import { assertClose, assertSameBits } from "../support/tolerance.ts";

type Pass = (program: Program) => Program;
const passes: Readonly<Record<string, Pass>> = {
  dce: deadCodeEliminated,
  cse: commonSubexpressionsMerged,
  fold: constantsFolded,
  identities: identitiesApplied,
  simplified,
};

/** What every pass keeps: the law of programs, the inputs, the number of equations that are needed. */
function checked(pass: Pass, program: Program): Program {
  const before = show(program);
  const after = pass(program);
  verify(after);
  expect(after.ins).toEqual(program.ins);
  const count = (of: Program): number => deadCodeEliminated(of).eqns.length;
  expect(count(after)).toBeLessThanOrEqual(count(program));
  expect(show(program)).toBe(before);
  return after;
}

const values = (program: Program, xs: readonly Value[]): Value[] =>
  evalProgram(program, xs).map((y) => y as Value);

for (const [name, pass] of Object.entries(passes)) {
  for (const dtype of ["float32", "float64", "int32", "uint32"] as const) {
    propWith({ runs: 60 }, `${name} keeps what ${dtype} programs compute`, seeds(4), (seed) => {
      const { f, avals, xs } = randomIdentities(seed, "all", dtype);
      const program = stage(f, avals);
      const expected = values(program, xs);
      values(checked(pass, program), xs).forEach((y, i) => {
        assertClose(y, expected[i]!, `output ${i}`);
      });
    });
  }

  propWith({ runs: 60 }, `${name} keeps the bits of what only moves`, seeds(4), (seed) => {
    const draw = new SeededDraw(seed);
    const { f, avals, xs } = randomIdentities(seed, "moves", draw.pick(["float32", "float64"]));
    const program = stage(f, avals);
    const expected = values(program, xs);
    values(checked(pass, program), xs).forEach((y, i) => {
      assertSameBits(y, expected[i]!, `output ${i}`);
    });
  });

  prop(`${name} keeps what gradients compute`, seeds(), (seed) => {
    const { loss, avals, xs } = randomFunction(seed);
    const gradient = (...at: Value[]): Value[] =>
      vjp((q: Value[]) => loss(...q), at)[1](scalar(1, "float64"))[0];
    const program = stage(gradient, avals);
    const expected = values(program, xs);
    values(checked(pass, program), xs).forEach((y, i) => {
      assertClose(y, expected[i]!, `gradient ${i}`);
    });
  });
}

prop("what is simplified is simple", seeds(4), (seed) => {
  const { f, avals } = randomIdentities(seed, "all", "float64");
  const program = simplified(stage(f, avals));
  expect(simplified(program)).toBe(program);
});

// ------------------------------------------------------------------------------------------------------- directed

const draw = new SeededDraw({ seed: 7, size: 3 });
const f32 = (...shape: number[]): Aval => new Aval(shape, "float32");
const of = (dtype: DType, ...shape: number[]): Aval => new Aval(shape, dtype);
const tensorOf = (aval: Aval): Tensor => draw.tensor({ shape: aval.shape }, aval.dtype);

/** The names of the equations that are left, in order; what they compute is compared with the function. */
function left(f: (...xs: Value[]) => Value, ...avals: readonly Aval[]): string {
  const program = stage((...xs) => [f(...xs)], avals);
  const after = checked(simplified, program);
  const xs = avals.map(tensorOf);
  const [expected] = values(program, xs);
  assertClose(values(after, xs)[0]!, expected!, "the simplified function");
  return after.eqns.map(({ prim }) => prim.name).join(" ");
}

const a3 = f32(3);
const a23 = f32(2, 3);
const zeros = (x: Value): Value => p.like(x, 0);
const ones = (x: Value): Value => p.like(x, 1);

describe("identities of arithmetic", () => {
  const cases: readonly (readonly [string, (x: Value, y: Value) => Value, string])[] = [
    ["x + 0", (x) => p.add(x, zeros(x)), ""],
    ["0 + x", (x) => p.add(zeros(x), x), ""],
    ["x - 0", (x) => p.sub(x, zeros(x)), ""],
    ["0 - x", (x) => p.sub(zeros(x), x), "broadcast sub"],
    ["x * 1", (x) => p.mul(x, ones(x)), ""],
    [
      "x * 1 where 1 is a constant array",
      (x) => p.mul(adopt(new Float32Array(3).fill(1), [3], "float32"), x),
      "",
    ],
    ["x * 0", (x) => p.mul(x, zeros(x)), "broadcast mul"],
    ["x * -1", (x) => p.mul(x, p.like(x, -1)), "neg"],
    ["x / 1", (x) => p.div(x, ones(x)), ""],
    ["1 / x", (x) => p.div(ones(x), x), "broadcast div"],
    ["x ** 1", (x) => p.pow(x, ones(x)), ""],
    ["x ** 2", (x) => p.pow(x, p.like(x, 2)), "mul"],
    ["--x", (x) => p.neg(p.neg(x)), ""],
    ["x + -y", (x, y) => p.add(x, p.neg(y)), "sub"],
    ["-x + y", (x, y) => p.add(p.neg(x), y), "sub"],
    ["x - -y", (x, y) => p.sub(x, p.neg(y)), "add"],
    ["-(x - y)", (x, y) => p.neg(p.sub(x, y)), "sub"],
    ["-x * -y", (x, y) => p.mul(p.neg(x), p.neg(y)), "mul"],
    ["max(x, x)", (x) => p.maximum(x, x), ""],
    ["max(x, -inf)", (x) => p.maximum(x, p.like(x, -Infinity)), ""],
    ["| |x| |", (x) => p.abs(p.abs(x)), "abs"],
    ["stopGradient x", (x) => p.stopGradient(x), ""],
    ["where(true, x, y)", (x, y) => p.where(p.less(zeros(x), ones(x)), x, y), ""],
    ["where(c, x, x)", (x, y) => p.where(p.less(x, y), x, x), ""],
    [
      "where(c, where(c, x, y), y)",
      (x, y) => p.where(p.less(x, y), p.where(p.less(x, y), x, y), y),
      "less where",
    ],
    ["float32 as float64 and back", (x) => p.cast(p.cast(x, "float64"), "float32"), ""],
    ["float32 as int32 and back", (x) => p.cast(p.cast(x, "int32"), "float32"), "cast cast"],
    [
      "where(c, x, where(c, y, z))",
      (x, y) => p.where(p.less(x, y), x, p.where(p.less(x, y), y, p.sin(y))),
      "less sin where",
    ],
    ["-(x - y) where x - y is read, too", (x, y) => p.mul(p.neg(p.sub(x, y)), p.sub(x, y)), "sub neg mul"],
    ["the same twice", (x, y) => p.add(p.mul(x, y), p.mul(y, x)), "mul add"],
    ["differences in two orders", (x, y) => p.mul(p.sub(x, y), p.sub(y, x)), "sub sub mul"],
  ];
  for (const [name, f, expected] of cases)
    test(name, () => expect(left((x, y) => f(x!, y!), a3, a3)).toBe(expected));

  test("x * 0 of integers is 0, and -x / -y of unsigned integers stays", () => {
    expect(left((x) => p.mul(x!, zeros(x!)), of("int32", 3))).toBe("broadcast");
    const quotient = (x?: Value, y?: Value): Value => p.div(p.neg(x!), p.neg(y!));
    expect(left(quotient, of("uint32", 3), of("uint32", 3))).toBe("neg neg div");
    expect(left(quotient, a3, a3)).toBe("div");
  });

  test("infinities and NaN stay what they are", () => {
    const special = adopt(new Float32Array([Infinity, -Infinity, Number.NaN, -0, 0]), [5], "float32");
    const f = (x: Value): Value[] => [
      p.mul(x, zeros(x)),
      p.pow(x, p.like(x, 2)),
      p.add(p.mul(x, p.like(x, -1)), p.neg(x)),
      p.maximum(x, p.like(x, -Infinity)),
      p.div(zeros(x), x),
      p.sub(x, x),
      m.sumAxes(m.broadcast(x, [5, 3], [0]), [1]),
    ];
    const program = stage((x) => f(x!), [special.aval]);
    values(simplified(program), [special]).forEach((y, i) => {
      assertClose(y, f(special)[i]!, `function ${i}`);
    });
  });
});

describe("identities of movement", () => {
  const perm = (x: Value, ...axes: number[]): Value => bind1(m.permuteP, [x], { perm: axes });
  const shaped = (x: Value, ...shape: number[]): Value => bind1(m.reshapeP, [x], { shape });
  const repeated = (x: Value, shape: number[], axes: number[]): Value =>
    bind1(m.broadcastP, [x], { shape, axes });
  const cut = (x: Value, starts: number[], limits: number[], strides = starts.map(() => 1)): Value =>
    m.slice(x, { starts, limits, strides });
  const padded = (x: Value, low: number[], high: number[], value = 0): Value =>
    m.pad(x, { low, high, interior: low.map(() => 0), value });
  const spread = (x: Value, interior: number[]): Value =>
    m.pad(x, { low: interior.map(() => 0), high: interior.map(() => 0), interior, value: 0 });
  const joined = (...xs: Value[]): Value => bind1(m.concatP, xs, { axis: 0 });
  const cases: readonly (readonly [string, (x: Value, y: Value) => Value, string])[] = [
    ["there and back", (x) => perm(perm(x, 1, 0), 1, 0), ""],
    ["an identity", (x) => perm(x, 0, 1), ""],
    ["an axis of size 1", (x) => perm(shaped(x, 2, 1, 3), 1, 0, 2), "reshape"],
    ["reshape of reshape", (x) => shaped(shaped(x, 6), 3, 2), "reshape"],
    ["reshape and back", (x) => shaped(shaped(x, 6), 2, 3), ""],
    [
      "broadcast of broadcast",
      (x) => repeated(repeated(x, [4, 2, 3], [1, 2]), [4, 2, 5, 3], [0, 1, 3]),
      "broadcast",
    ],
    [
      "broadcast of axes of size 1",
      (x) => repeated(shaped(x, 2, 1, 3), [2, 1, 4, 3], [0, 1, 3]),
      "broadcast",
    ],
    ["broadcast that repeats nothing", (x) => repeated(x, [2, 1, 3], [0, 2]), "reshape"],
    ["permuted broadcast", (x) => perm(repeated(x, [4, 2, 3], [1, 2]), 1, 0, 2), "broadcast"],
    [
      "permuted broadcast of axes that change places",
      (x) => perm(repeated(x, [4, 2, 3], [1, 2]), 0, 2, 1),
      "broadcast permute",
    ],
    ["flip and back", (x) => m.permute(flipped(flipped(x, [0]), [0]), [0, 1]), ""],
    ["flip of both, one after the other", (x) => flipped(flipped(x, [0]), [1]), "flip"],
    ["slice of everything", (x) => cut(x, [0, 0], [2, 3]), ""],
    ["slice of slice", (x) => cut(cut(x, [0, 0], [2, 3], [1, 2]), [1, 1], [2, 2]), "slice"],
    ["slice of concat, from one part", (x, y) => cut(joined(x, y), [2, 0], [4, 2]), "slice"],
    ["slice of concat, one part", (x, y) => cut(joined(x, y), [2, 0], [4, 3]), ""],
    ["slice of concat, across", (x, y) => cut(joined(x, y), [1, 0], [3, 3]), "concat slice"],
    ["slice of pad, inside", (x) => cut(padded(x, [1, 1], [1, 1]), [1, 2], [3, 4]), "slice"],
    [
      "slice of pad, with steps into the pad",
      (x) => cut(padded(x, [0, 0], [2, 2]), [0, 0], [4, 5], [2, 2]),
      "pad slice",
    ],
    ["slice of a spread pad", (x) => cut(spread(x, [1, 0]), [0, 0], [2, 3]), "pad slice"],
    ["slice of broadcast", (x) => cut(repeated(x, [4, 2, 3], [1, 2]), [1, 0, 0], [3, 2, 3]), "broadcast"],
    ["pad of nothing", (x) => padded(x, [0, 0], [0, 0]), ""],
    ["pad of pad", (x) => padded(padded(x, [1, 0], [0, 0]), [1, 1], [0, 2]), "pad"],
    [
      "pad of pad with another number",
      (x) => padded(padded(x, [1, 0], [0, 0], 1), [1, 1], [0, 2]),
      "pad pad",
    ],
    ["spread pad of pad", (x) => spread(padded(x, [1, 0], [0, 0]), [1, 1]), "pad pad"],
    ["pad of spread pad", (x) => padded(spread(x, [1, 1]), [1, 0], [0, 0]), "pad"],
    ["pad of the padded number", (x) => padded(p.like(x, 1), [1, 0], [0, 0], 1), "broadcast"],
    ["pad of another number", (x) => padded(p.like(x, 2), [1, 0], [0, 0], 1), "broadcast pad"],
    [
      "a slice joined with itself",
      (x) => joined(cut(x, [0, 0], [1, 3]), cut(x, [0, 0], [1, 3])),
      "slice concat",
    ],
    [
      "slices with steps joined",
      (x) => joined(cut(x, [0, 0], [1, 3], [1, 2]), cut(x, [1, 0], [2, 3], [1, 2])),
      "slice slice concat",
    ],
    [
      "slices of other columns joined",
      (x) => joined(cut(x, [0, 0], [1, 2]), cut(x, [1, 1], [2, 3])),
      "slice slice concat",
    ],
    ["slices joined", (x) => joined(cut(x, [0, 0], [1, 3]), cut(x, [1, 0], [2, 3])), ""],
    [
      "slices joined in another order",
      (x) => joined(cut(x, [1, 0], [2, 3]), cut(x, [0, 0], [1, 3])),
      "slice slice concat",
    ],
    ["concat of concat", (x, y) => joined(joined(x, y), x), "concat"],
    [
      "concat of concat along another axis",
      (x, y) => joined(bind1(m.concatP, [x, y], { axis: 1 }), bind1(m.concatP, [y, x], { axis: 1 })),
      "concat concat concat",
    ],
    ["concat with nothing", (x, y) => joined(x, cut(y, [1, 0], [1, 3])), ""],
    ["sum over an axis of size 1", (x) => m.sumAxes(shaped(x, 2, 1, 3), [1]), ""],
    ["sum of sum", (x) => m.sumAxes(m.sumAxes(x, [1]), [0]), "sum"],
    [
      "sum of sum of three axes",
      (x) => m.sumAxes(m.sumAxes(repeated(p.sin(x), [2, 4, 3], [0, 2]).reshape([2, 2, 6]), [0]), [1]),
      "sin broadcast reshape sum",
    ],
    [
      "largest of broadcast along one of its own axes",
      (x) => ops.max(repeated(x, [4, 2, 3], [1, 2]), { axis: [0, 1] }),
      "broadcast reduceMax",
    ],
    [
      "largest of broadcast along one of two",
      (x) => ops.max(repeated(x, [4, 5, 2, 3], [2, 3]), { axis: 0 }),
      "broadcast",
    ],
    [
      "sum of broadcast that is read, too",
      (x) =>
        m.sumAxes(
          p.add(
            p.sin(repeated(x, [4, 2, 3], [1, 2])),
            repeated(m.sumAxes(repeated(x, [4, 2, 3], [1, 2]), [0]), [4, 2, 3], [1, 2]),
          ),
          [0],
        ),
      "broadcast sin sum broadcast add sum",
    ],
    ["sum of broadcast", (x) => m.sumAxes(repeated(x, [4, 2, 3], [1, 2]), [0]), "broadcast mul"],
    [
      "sum of broadcast along one of its own axes",
      (x) => m.sumAxes(repeated(x, [4, 2, 3], [1, 2]), [0, 1]),
      "broadcast sum",
    ],
    ["largest of broadcast", (x) => ops.max(repeated(x, [4, 2, 3], [1, 2]), { axis: 0 }), ""],
  ];
  for (const [name, f, expected] of cases)
    test(name, () => expect(left((x, y) => f(x!, y!), a23, a23)).toBe(expected));

  test("the sum of a repeated float64 is not a product unless that is exact", () => {
    const f = (n: number) => (x?: Value) => m.sumAxes(m.broadcast(x!, [n], []), [0]);
    expect([2, 3].map((n) => left(f(n), of("float64")))).toEqual(["mul", "broadcast sum"]);
    expect(left(f(3), of("float32"))).toBe("mul");
  });
});

const flipped = (x: Value, axes: number[]): Value => bind1(m.flipP, [x], { axes });

describe("contractions", () => {
  const plain: dots.DotParams = { contract: [[1], [0]], batch: [[], []] };
  const cases: readonly (readonly [string, (x: Value, y: Value) => Value, readonly Aval[], string])[] = [
    [
      "of transposed operands",
      (x, y) => dots.dot(m.permute(x, [1, 0]), m.permute(y, [1, 0]), plain),
      [f32(3, 2), f32(4, 3)],
      "dot",
    ],
    ["with a transposed result", (x, y) => m.permute(dots.dot(x, y, plain), [1, 0]), [a23, f32(3, 4)], "dot"],
    [
      "whose transposed result is read otherwise, too",
      (x, y) => p.mul(dots.dot(x, y, plain), m.permute(dots.dot(x, y, plain), [1, 0])),
      [a23, f32(3, 2)],
      "dot permute mul",
    ],
    [
      "whose transposed result is read otherwise through something that goes",
      (x, y) => {
        const product = dots.dot(x, y, plain);
        return p.mul(p.stopGradient(product), m.permute(product, [1, 0]));
      },
      [a23, f32(3, 2)],
      "dot permute mul",
    ],
    [
      "whose result has its free axes in another order",
      (x, y) => m.permute(dots.dot(x, y, { contract: [[2], [0]], batch: [[], []] }), [1, 0, 2]),
      [f32(2, 3, 4), f32(4, 5)],
      "dot permute",
    ],
    [
      "whose sum is transposed",
      (x, y) =>
        m.permute(
          p.add(dots.dot(x, y, plain), p.like(dots.dot(x, x, { ...plain, contract: [[1], [1]] }), 2)),
          [1, 0],
        ),
      [a23, f32(3, 2)],
      "dot broadcast add",
    ],
    [
      "with batch axes in another order",
      (x, y) =>
        m.permute(
          dots.dot(x, y, {
            contract: [[3], [2]],
            batch: [
              [0, 1],
              [0, 1],
            ],
          }),
          [1, 0, 3, 2],
        ),
      [f32(2, 3, 4, 5), f32(2, 3, 5, 6)],
      "dot",
    ],
    [
      "whose free axes change their order",
      (x, y) => dots.dot(m.permute(x, [1, 0, 2]), y, { contract: [[2], [0]], batch: [[], []] }),
      [f32(2, 3, 4), f32(4, 5)],
      "permute dot",
    ],
  ];
  for (const [name, f, avals, expected] of cases)
    test(name, () => expect(left((x, y) => f(x!, y!), ...avals)).toBe(expected));
});

describe("constants", () => {
  test("small results are computed, large ones are not made", () => {
    const f = (x: Value): Value => ops.add(x, ops.mul(p.like(x, 2), ops.sum(ops.exp(scalar(1, "float32")))));
    expect(left((x) => f(x!), f32(2000))).toBe("broadcast add");
    const table = draw.tensor({ shape: [40, 40] }, "float32");
    const outer = (x?: Value): Value =>
      ops.mul(x!, ops.matmul(ops.reshape(table, [1600, 1]), ops.reshape(table, [1, 1600])));
    expect(left(outer, f32(1600, 1600))).toBe("dot mul");
    expect(left((x) => ops.add(x!, ops.matmul(table, table)), f32(40, 40))).toBe("add");
  });

  test("equal small constants are one, large ones only if they are the same", () => {
    const make = (n: number): Tensor => draw.tensor({ shape: [n] }, "float32");
    const copy = (x: Tensor): Tensor => adopt(x.dataSync(), x.shape, x.dtype);
    const [small, large] = [make(4), make(5000)];
    const twice = (c: Tensor, d: Tensor) => (x?: Value) => p.add(p.mul(x!, c), p.mul(x!, d));
    expect(left(twice(small, copy(small)), small.aval)).toBe("mul add");
    expect(left(twice(small, make(4)), small.aval)).toBe("mul mul add");
    expect(left(twice(large, large), large.aval)).toBe("mul add");
    expect(left(twice(large, copy(large)), large.aval)).toBe("mul mul add");
  });

  test("0 and -0 are two numbers", () => {
    const f = (x?: Value): Value => p.add(p.div(x!, p.like(x!, 0)), p.div(x!, p.like(x!, -0)));
    expect(left(f, a3)).toBe("broadcast div broadcast div add");
  });
});

test("the gradient of a vector that was cut into parts is the parts' gradients joined", () => {
  const tree = {
    w: draw.tensor({ shape: [2, 3] }, "float64"),
    b: draw.tensor({ shape: [3] }, "float64"),
    c: draw.tensor({ shape: [] }, "float64"),
  };
  const [flat, unravel] = ravel(tree);
  const loss = (v: Value): Value => {
    const { w, b, c } = unravel(v);
    return ops.sum(ops.mul(ops.sin(ops.mul(w, b)), c));
  };
  const gradient = (v?: Value): Value => vjp(loss, v!)[1](scalar(1, "float64"))[0];
  const names = left(gradient, flat.aval);
  expect(names).toContain("concat");
  expect(names).not.toContain("pad");
});

describe("sums of pads", () => {
  const padded = (x: Value, low: number[], high: number[], value = 0): Value =>
    m.pad(x, { low, high, interior: low.map(() => 0), value });
  const cases: readonly (readonly [string, (x: Value, y: Value) => Value, string])[] = [
    ["neighbours", (x, y) => p.add(padded(x, [3], [0]), padded(y, [0], [3])), "concat"],
    ["neighbours inside", (x, y) => p.add(padded(x, [5], [1]), padded(y, [2], [4])), "concat pad"],
    [
      "three in any order",
      (x, y) => p.add(p.add(padded(x, [6], [0]), padded(y, [0], [6])), padded(p.sin(x), [3], [3])),
      "sin concat",
    ],
    ["overlapping", (x, y) => p.add(padded(x, [2], [0]), padded(y, [0], [2])), "pad pad add"],
    ["with a gap", (x, y) => p.add(padded(x, [4], [0]), padded(y, [0], [4])), "concat"],
    ["of ones", (x, y) => p.add(padded(x, [3], [0], 1), padded(y, [0], [3], 1)), "pad pad add"],
    [
      "that are read, too",
      (x, y) => p.mul(p.add(padded(x, [3], [0]), padded(y, [0], [3])), p.cos(padded(x, [3], [0]))),
      "pad pad add cos mul",
    ],
  ];
  for (const [name, f, expected] of cases)
    test(name, () => expect(left((x, y) => f(x!, y!), a3, a3)).toBe(expected));

  test("along two axes", () => {
    const f = (x?: Value, y?: Value): Value => p.add(padded(x!, [2, 1], [0, 0]), padded(y!, [0, 0], [2, 1]));
    expect(left(f, a23, a23)).toBe("pad pad add");
  });
});

test("readers are counted as equations go", () => {
  const turned = (x: Value): Value => m.permute(p.stopGradient(ops.matmul(x, x)), [1, 0]);
  const once = deadCodeEliminated(identitiesApplied(stage((x) => [turned(x!)], [f32(3, 3)])));
  expect(once.eqns.map(({ prim }) => prim.name)).toEqual(["dot"]);
});

test("an equation with two readers is not duplicated", () => {
  const f = (x: Value): Value[] => {
    const y = ops.matmul(x, x);
    return [y, ops.transpose(y)];
  };
  const after = checked(
    simplified,
    stage((x) => f(x!), [f32(3, 3)]),
  );
  expect(after.eqns.map(({ prim }) => prim.name)).toEqual(["dot", "permute"]);
});

test("outputs that are inputs, constants and each other stay so", () => {
  const constant = tensorOf(a3);
  const f = (x: Value): Value[] => [p.neg(p.neg(x)), constant, p.sin(x), p.add(p.sin(x), zeros(x))];
  const { ins, outs } = checked(
    simplified,
    stage((x) => f(x!), [a3]),
  );
  expect(outs[0]).toBe(ins[0]!);
  expect(outs[1]).toBe(constant);
  expect(outs[2]).toBe(outs[3]!);
});
