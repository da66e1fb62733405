/**
 * Programs with so many elements that threads take part, that long rows are cut into pieces or read only once, and that
 * columns are taken in blocks: the values of the reference, and the same bits for any number of threads.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import type { Aval } from "../../core/aval.ts";
import { cpu } from "../../core/backends/cpu/backend.ts";
import { engine, setThreads } from "../../core/backends/cpu/engine.ts";
import { type DType, isFloat, makeArray, type TypedArray } from "../../core/dtype.ts";
import * as ops from "../../core/ops.ts";
import { deadCodeEliminated, type Program, show, stage, Var } from "../../core/program.ts";
import { range, type Shape, sizeOf, stridesOf, withoutAxes } from "../../core/shape.ts";
import { adopt } from "../../core/trace.ts";
import { storage, type Tensor } from "../../core/value.ts";
import { SeededDraw, seeds } from "../support/arbitrary_tensor.ts";
import { known, typedProgram } from "../support/arbitrary_typed_program.ts";
import { oneEquation } from "../support/one_equation.ts";
import { propWith } from "../support/prop.ts";
import { approximated, assertApproximates } from "../support/rounding.ts";
import { assertSameBits } from "../support/tolerance.ts";

const { pool, threads: usual } = engine();
const MOST_THREADS = 3;

/** How often work was divided while so many workers were ready. */
const divided = new Array<number>(MOST_THREADS).fill(0);
const run = pool.run.bind(pool);

beforeAll(async () => {
  pool.run = (kernel, work, threads) => {
    divided[Math.min(pool.ready, threads - 1)]!++;
    run(kernel, work, threads);
  };
  // Workers start when work is divided, and are ready some time after.
  const x = adopt(new Float32Array(2 ** 20), [2 ** 20], "float32");
  setThreads(MOST_THREADS);
  while (pool.obstacle === null && pool.ready < MOST_THREADS - 1) {
    sums(x, [0]);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
});

afterAll(() => {
  pool.run = run;
  setThreads(usual);
});

// Elements that pass the limits for threads; rows around those for pieces and for a second pass; many columns.
const shapes: readonly Shape[] = [
  [131_077],
  [400, 401],
  [3, 70_001],
  [1, 131_073],
  [2, 65_536],
  [7, 30_011],
  [9, 16_383],
  [9, 16_384],
  [9, 16_385],
  [64, 2100],
  [70, 2049],
  [1000, 200],
  [16_385, 8],
  [20_000, 9],
  [40_000, 5],
  [2, 300, 257],
  [20, 1024, 8],
  [5, 3, 10_000],
  // Factors of products that threads share.
  [96, 130],
  [130, 257],
  [257, 96],
  [8, 64, 96],
];

propWith(
  { runs: 15, timeoutMs: 600_000 },
  "a large program gives the values of the reference, and the same bits for any number of threads",
  seeds(3),
  (seed) => {
    const drawn = typedProgram(seed, { shapes, length: 8, largest: 400_000, multiplications: 5_000_000 });
    const program = deadCodeEliminated(drawn.program);
    setThreads(1);
    const executable = cpu.compile(program);
    const text = `${show(program)}\n${executable.show()}`;
    const alone = executable.run(drawn.args);
    drawn.expected.forEach((expected, i) => {
      assertApproximates(alone[i]!, expected, `output ${i} of\n${text}\n`);
    });
    for (let threads = 2; threads <= MOST_THREADS; threads++) {
      setThreads(threads);
      for (const way of [executable, cpu.compile(program)]) {
        way.run(drawn.args).forEach((y, i) => {
          assertSameBits(y, alone[i]!, `output ${i} with ${threads} threads of\n${text}\n`);
        });
      }
    }
  },
);

/** Products of many sizes and layouts: on two threads, a product is cut into other pieces than on one. */
propWith({ runs: 20 }, "products have the same bits for any number of threads", seeds(), (seed) => {
  const draw = new SeededDraw(seed);
  const [batch, m, k, n] = [draw.pick([1, 1, 3]), draw.int(1, 300), draw.int(1, 300), draw.int(1, 300)];
  const dtype = draw.pick(["float32", "float64", "int32"] as const);
  const [swapsX, swapsY] = [draw.bool(), draw.bool()];
  const range = dtype === "int32" ? ([-9, 9] as const) : ([-1, 1] as const);
  const x = draw.tensor({ shape: [batch, ...(swapsX ? [k, m] : [m, k])], range }, dtype);
  const y = draw.tensor({ shape: [batch, ...(swapsY ? [n, k] : [k, n])], range }, dtype);
  const params = {
    contract: [[swapsX ? 1 : 2], [swapsY ? 2 : 1]],
    batch: [[0], [0]],
  };
  const results = [1, 2, 3].map((threads) => {
    setThreads(threads);
    return compute("dot", [x, y], params);
  });
  for (const result of results) assertSameBits(result, results[0]!, `${x.aval} times ${y.aval}`);
});

/** Joins of rows, several in one pass. */
function joins(x: Aval, names: readonly string[]): Program {
  const v = new Var(x);
  const axes = [x.ndim - 1];
  const square = oneEquation(known.get("mul")!, [x, x], null).eqns[0]!;
  const eqns = [
    { ...square, ins: [v, v] },
    ...[v, square.outs[0]!].flatMap((joined) =>
      names.map((name) => ({ ...oneEquation(known.get(name)!, [x], { axes }).eqns[0]!, ins: [joined] })),
    ),
  ];
  return { ins: [v], eqns, outs: eqns.slice(1).map((eqn) => eqn.outs[0]!) };
}

for (const dtype of ["float32", "float64", "int32", "uint32"] satisfies DType[]) {
  test(`rows of ${dtype} in pieces`, () => {
    const names = ["sum", "reduceMax", "reduceMin", ...(isFloat(dtype) ? [] : ["reduceProd"])];
    const draw = new SeededDraw({ seed: 1, size: 1 });
    for (const shape of [[65_536], [3, 98_309], [9, 65_537]]) {
      const x = draw.tensor({ shape, range: [1, 9] }, dtype);
      const program = joins(x.aval, names);
      const executable = cpu.compile(program);
      const results = range(MOST_THREADS).map((i) => {
        setThreads(i + 1);
        return executable.run([x]);
      });
      const values = approximated(program, [x])!;
      program.outs.forEach((v, i) => {
        assertApproximates(results[0]![i]!, values.get(v)!, `${program.eqns[i + 1]!.prim.name} of ${x.aval}`);
        for (const one of results) assertSameBits(one[i]!, results[0]![i]!, `${x.aval}`);
      });
    }
  });
}

/** Shapes and orders of axes: tiles that are whole and that are not, columns powers of two apart, too few for tiles. */
const permuted: readonly { readonly shape: Shape; readonly perm: readonly number[] }[] = [
  { shape: [512, 256], perm: [1, 0] },
  { shape: [309, 415], perm: [1, 0] },
  { shape: [3, 9001], perm: [1, 0] },
  { shape: [30_001, 4], perm: [1, 0] },
  { shape: [17, 65], perm: [1, 0] },
  { shape: [6, 33, 21, 20], perm: [0, 2, 3, 1] },
  { shape: [6, 21, 20, 33], perm: [0, 3, 1, 2] },
  { shape: [20, 30, 50], perm: [2, 1, 0] },
  { shape: [20, 30, 50], perm: [1, 2, 0] },
];

for (const dtype of ["float32", "float64", "int32", "uint32", "bool"] satisfies DType[]) {
  test(`permuted axes of ${dtype}, alone and with operands in other orders`, () => {
    for (const { shape, perm } of permuted) {
      const target = perm.map((axis) => shape[axis]!);
      const last = target.length - 1;
      // Small integers, so that every type computes without rounding.
      let salt = 0;
      const drawn = (shape: Shape): Tensor => {
        const data = makeArray(dtype, sizeOf(shape));
        salt += 12_345;
        for (let i = 0; i < data.length; i++) data[i] = ((i * 7919 + salt) % 9) % (dtype === "bool" ? 2 : 9);
        return adopt(data, shape, dtype);
      };
      const column = drawn(target.map((n, axis) => (axis === last ? 1 : n)));
      const args = [drawn(shape), drawn(shape), drawn(target), drawn([target[last]!]), column];
      const program = stage(
        (x, other, same, row, column) => {
          const [turned, alike] = [ops.permute(x!, perm), ops.permute(other!, perm)];
          if (dtype === "bool") return [turned, ops.logicalAnd(turned, ops.logicalOr(same!, row!))];
          return [turned, ops.add(ops.mul(turned, row!), ops.sub(ops.mul(alike, same!), column!))];
        },
        args.map((x) => x.aval),
      );
      const [x, other, same, row, col] = args.map((x) => storage(x)) as TypedArray[];
      const strides = stridesOf(shape);
      const sources = Int32Array.from({ length: sizeOf(shape) }, (_, i) => {
        let [rest, at] = [i, 0];
        for (let axis = last; axis >= 0; axis--) {
          at += (rest % target[axis]!) * strides[perm[axis]!]!;
          rest = Math.floor(rest / target[axis]!);
        }
        return at;
      });
      const [turned, computed] = [makeArray(dtype, x!.length), makeArray(dtype, x!.length)];
      const width = target[last]!;
      sources.forEach((at, i) => {
        const [a, b, c] = [x![at]!, other![at]!, same![i]!];
        const [d, e] = [row![i % width]!, col![Math.floor(i / width)]!];
        turned[i] = a;
        computed[i] = dtype === "bool" ? a & (c | d) : a * d + (b * c - e);
      });
      const executable = cpu.compile(program);
      for (let threads = 1; threads <= MOST_THREADS; threads++) {
        setThreads(threads);
        const results = executable.run(args);
        const [one, two] = results.map((y) => storage(y));
        expect(
          one!.findIndex((value, i) => value !== turned[i]),
          `[${shape}] by ${perm}`,
        ).toBe(-1);
        expect(
          two!.findIndex((value, i) => value !== computed[i]),
          `[${shape}] by ${perm}`,
        ).toBe(-1);
      }
    }
  });
}

test("threads took part", () => {
  console.log(`fused large: work was divided ${divided} times with 0, 1 and 2 workers ready`);
  expect(pool.obstacle).toBeNull();
  for (const times of divided.slice(1)) expect(times).toBeGreaterThan(0);
});

// ------------------------------------------------------------------------------------------------------------ sums

function compute(name: string, args: readonly Tensor[], params: unknown): Tensor {
  const avals = args.map((x) => x.aval);
  return cpu.compile(oneEquation(known.get(name)!, avals, params)).run(args)[0]!;
}

function sums(x: Tensor, axes: readonly number[]): Tensor {
  return compute("sum", [x], { axes });
}

/** Sums of the elements and of their absolute values, in float64. */
function exactSums(x: Tensor, axes: readonly number[]): readonly [sums: Float64Array, sizes: Float64Array] {
  const { shape } = x;
  const kept = withoutAxes(shape, axes);
  const strides = stridesOf(shape);
  const inner = stridesOf(kept);
  const places = shape.map((_, a) => a).filter((a) => !axes.includes(a));
  const [total, size] = [new Float64Array(sizeOf(kept)), new Float64Array(sizeOf(kept))];
  storage(x).forEach((element: number, i: number) => {
    const at = places.reduce((sum, a, b) => sum + (Math.floor(i / strides[a]!) % shape[a]!) * inner[b]!, 0);
    total[at]! += element;
    size[at]! += Math.abs(element);
  });
  return [total, size];
}

const million: readonly (readonly [Shape, ...number[][]])[] = [
  [[1_000_000], [0]],
  [[1000, 1000], [0], [1], [0, 1]],
  [[4, 250_000], [0], [1]],
  [[100_000, 10], [0], [1]],
  [[100, 100, 100], [1], [0, 2]],
];

for (const [shape, ...reductions] of million) {
  for (const range of [
    [0, 1],
    [-1, 1],
  ] as const) {
    test(`sums of a million float32 in [${shape}] from [${range}]`, () => {
      const x = new SeededDraw({ seed: 1, size: 1 }).tensor({ shape, range }, "float32");
      for (const axes of reductions) {
        const [total, size] = exactSums(x, axes);
        const computed = storage(sums(x, axes));
        const worst = total.reduce(
          (most, sum, i) => Math.max(most, Math.abs(computed[i]! - sum) / size[i]!),
          0,
        );
        expect(worst).toBeLessThan(1e-6);
      }
    });
  }
}
