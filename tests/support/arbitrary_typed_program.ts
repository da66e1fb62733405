/**
 * Random programs of every element type, for code generators: shapes that do and do not fill vectors, reductions along
 * any axes, values that follow them, layouts of layouts. Decisions (comparisons, rounding, casts to integers) are made
 * only of values that every backend computes to the same bit, so that a result is right or wrong, not a matter of luck.
 */
import "../../core/ops.ts";
import { type DType, isFloat } from "../../core/dtype.ts";
import { type AnyPrimitive, primitives } from "../../core/primitive.ts";
import { type Eqn, type Program, Var } from "../../core/program.ts";
import { range, type Shape, sizeOf, withoutAxes } from "../../core/shape.ts";
import { scalar } from "../../core/trace.ts";
import type { Tensor } from "../../core/value.ts";
import { type Seed, SeededDraw } from "./arbitrary_tensor.ts";

export interface TypedProgram {
  readonly program: Program;
  readonly args: readonly Tensor[];
}

const records = new Map(primitives().map((primitive) => [primitive.name, primitive]));

/** A value of the program: exact if it is the same to the bit however it is computed. */
interface Known {
  readonly v: Var;
  readonly exact: boolean;
}

const sizes: readonly number[] = [1, 1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 31, 33];
const smooth: readonly string[] = [
  "tanh",
  "sin",
  "cos",
  "sigmoid",
  "atan",
  "erf",
  "exp",
  "softplus",
  "expm1",
];
const exactUnary: readonly string[] = ["neg", "abs", "sign", "stopGradient"];
const rounding: readonly string[] = ["floor", "ceil", "round", "sign"];
const arithmetic: readonly string[] = ["add", "sub", "mul", "maximum", "minimum"];
const comparisons: readonly string[] = ["equal", "notEqual", "less", "lessEqual"];
const logical: readonly string[] = ["logicalAnd", "logicalOr"];
const dtypes: readonly DType[] = ["float32", "float32", "float32", "float64", "int32", "uint32", "bool"];

class Drawing {
  readonly draw: SeededDraw;
  readonly eqns: Eqn[] = [];
  readonly known: Known[] = [];
  readonly #largest: number;

  constructor(seed: Seed, largest: number) {
    this.draw = new SeededDraw(seed);
    this.#largest = largest;
  }

  pick(accepts: (known: Known) => boolean): Known | null {
    const found = this.known.filter(accepts);
    // Late values more often, so that programs are deep.
    return found.length === 0
      ? null
      : found[Math.max(this.draw.int(0, found.length - 1), this.draw.int(0, found.length - 1))]!;
  }

  apply(name: string, ins: readonly (Known | Tensor)[], params: unknown = null, exact?: boolean): Known {
    const prim: AnyPrimitive = records.get(name)!;
    const atoms = ins.map((x) => ("v" in x ? x.v : x));
    const [aval] = prim.shape(
      atoms.map((atom) => atom.aval),
      params,
    );
    const v = new Var(aval!);
    this.eqns.push({ prim, ins: atoms, outs: [v], params });
    const result = { v, exact: exact ?? ins.every((x) => !("v" in x) || x.exact) };
    this.known.push(result);
    return result;
  }

  /** Another value of the same type and shape: one that is there, or a broadcast constant. */
  peer(x: Known, exact = false): Known {
    const found = this.pick((y) => y.v.aval.equals(x.v.aval) && (!exact || y.exact));
    if (found && this.draw.int(0, 3) > 0) return found;
    const { dtype, shape } = x.v.aval;
    const value = isFloat(dtype)
      ? Math.fround(this.draw.unit() * 2 - 1)
      : this.draw.int(0, dtype === "bool" ? 1 : 5);
    return this.apply("broadcast", [scalar(value, dtype)], { shape, axes: [] }, true);
  }

  axes(shape: Shape): number[] {
    return range(shape.length).filter(() => this.draw.bool());
  }

  fits(shape: Shape): boolean {
    return sizeOf(shape) <= this.#largest && shape.length <= 4;
  }
}

/** Keeps a float bounded after it grew. */
function bounded(d: Drawing, x: Known): void {
  if (isFloat(x.v.aval.dtype)) d.apply(d.draw.pick(["tanh", "atan", "sigmoid"]), [x], null, false);
}

type Choice = (d: Drawing) => void;

const choices: readonly Choice[] = [
  (d) => {
    const x = d.pick(({ v }) => isFloat(v.aval.dtype));
    if (x) bounded(d, d.apply(d.draw.pick(smooth), [x], null, false));
  },
  (d) => {
    const x = d.pick(({ v }) => v.aval.dtype !== "bool");
    if (x) {
      const y = d.apply(d.draw.pick(arithmetic), [x, d.peer(x)]);
      if (d.draw.bool()) bounded(d, y);
    }
  },
  (d) => {
    const x = d.pick(({ v, exact }) => exact && v.aval.dtype !== "bool");
    if (x) d.apply(d.draw.pick(comparisons), [x, d.peer(x, true)]);
  },
  (d) => {
    const x = d.pick(({ v, exact }) => exact && v.aval.dtype === "float32");
    if (x) d.apply(d.draw.pick(rounding), [x]);
  },
  (d) => {
    const x = d.pick(({ v }) => v.aval.dtype === "bool");
    if (!x) return;
    if (d.draw.bool()) d.apply("logicalNot", [x]);
    else d.apply(d.draw.pick(logical), [x, d.peer(x)]);
  },
  (d) => {
    const x = d.pick(({ v }) => v.aval.dtype === "bool");
    if (!x) return;
    const then = d.pick(({ v }) => String(v.aval.shape) === String(x.v.aval.shape));
    if (then) d.apply("where", [x, then, d.peer(then)]);
  },
  (d) => {
    const x = d.pick(({ v, exact }) => exact && v.aval.dtype !== "uint32");
    if (x) d.apply("cast", [x], { dtype: d.draw.pick<DType>(["float32", "float64", "int32", "bool"]) });
  },
  (d) => {
    const x = d.pick(({ v }) => v.aval.dtype !== "bool");
    if (x) d.apply(d.draw.pick(exactUnary.slice(0, 1 + d.draw.int(0, 3))), [x]);
  },
  (d) => {
    const x = d.pick(({ v }) => v.aval.dtype !== "bool");
    if (!x) return;
    const y = d.apply("sum", [x], { axes: d.axes(x.v.aval.shape) }, !isFloat(x.v.aval.dtype));
    bounded(d, y);
  },
  (d) => {
    const x = d.pick(({ v }) => v.aval.dtype !== "bool" && sizeOf(v.aval.shape) > 0);
    if (x) d.apply(d.draw.bool() ? "reduceMax" : "reduceMin", [x], { axes: d.axes(x.v.aval.shape) });
  },
  (d) => {
    const x = d.pick(({ v }) => v.aval.dtype !== "bool" && v.aval.size <= 64);
    if (!x) return;
    const y = d.apply("reduceProd", [x], { axes: d.axes(x.v.aval.shape) }, !isFloat(x.v.aval.dtype));
    bounded(d, y);
  },
  // Rows brought to sum 1, and rows brought to mean 0: values that follow a reduction.
  (d) => {
    const x = d.pick(({ v }) => isFloat(v.aval.dtype) && v.aval.ndim > 0 && v.aval.size > 0);
    if (!x) return;
    const { shape } = x.v.aval;
    const axes = d.draw.bool() ? [shape.length - 1] : d.axes(shape);
    if (axes.length === 0) return;
    const kept = range(shape.length).filter((a) => !axes.includes(a));
    const repeat = (y: Known): Known => d.apply("broadcast", [y], { shape, axes: kept }, false);
    const top = repeat(d.apply("reduceMax", [x], { axes }));
    const power = d.apply("exp", [d.apply("sub", [x, top], null, false)], null, false);
    d.apply("div", [power, repeat(d.apply("sum", [power], { axes }, false))], null, false);
  },
  (d) => {
    const x = d.pick(({ v }) => v.aval.ndim < 4);
    if (!x) return;
    const { shape } = x.v.aval;
    const place = d.draw.int(0, shape.length);
    const wanted = shape.toSpliced(place, 0, d.draw.pick(sizes));
    if (d.fits(wanted))
      d.apply("broadcast", [x], { shape: wanted, axes: shape.map((_, a) => (a < place ? a : a + 1)) });
  },
  (d) => {
    const x = d.pick(() => true)!;
    d.apply("permute", [x], { perm: d.draw.order(x.v.aval.ndim) });
  },
  (d) => {
    const x = d.pick(() => true)!;
    d.apply("flip", [x], { axes: d.axes(x.v.aval.shape) });
  },
  (d) => {
    const x = d.pick(() => true)!;
    const { shape, size } = x.v.aval;
    const even = shape.findIndex((n) => n % 2 === 0 && n > 0);
    const halved = even < 0 ? [1, size] : shape.toSpliced(even, 1, 2, shape[even]! / 2);
    d.apply("reshape", [x], {
      shape: d.draw.pick([[size], shape.toReversed(), d.fits(halved) ? halved : [size]]),
    });
  },
  (d) => {
    const x = d.pick(() => true)!;
    const { shape } = x.v.aval;
    const starts = shape.map((n) => d.draw.int(0, Math.max(0, n - 1)));
    const limits = shape.map((n, a) => d.draw.int(Math.min(n, starts[a]! + 1), n));
    d.apply("slice", [x], { starts, limits, strides: shape.map(() => d.draw.int(1, 2)) });
  },
  (d) => {
    const x = d.pick(({ v }) => v.aval.size <= 300);
    if (!x) return;
    const amounts = (): number[] => x.v.aval.shape.map(() => d.draw.int(0, 2));
    const params = {
      low: amounts(),
      high: amounts(),
      interior: x.v.aval.shape.map(() => d.draw.int(0, 1)),
      value: d.draw.int(0, 1),
    };
    if (d.fits(records.get("pad")!.shape([x.v.aval], params)[0]!.shape)) d.apply("pad", [x], params);
  },
  (d) => {
    const x = d.pick(({ v }) => v.aval.ndim > 0 && v.aval.size <= 600);
    if (!x) return;
    const axis = d.draw.int(0, x.v.aval.ndim - 1);
    const rest = (y: Known): string => `${y.v.aval.dtype} ${withoutAxes(y.v.aval.shape, [axis])}`;
    const y = d.pick((z) => z.v.aval.ndim === x.v.aval.ndim && rest(z) === rest(x) && z.v.aval.size <= 600)!;
    d.apply("concat", [x, y], { axis });
  },
  (d) => {
    const x = d.pick(({ v }) => v.aval.dtype !== "bool" && v.aval.ndim > 0);
    if (!x) return;
    const pairs = d.known.flatMap((y) =>
      y.v.aval.dtype !== x.v.aval.dtype
        ? []
        : x.v.aval.shape.flatMap((n, a) => y.v.aval.shape.flatMap((m, b) => (n === m ? [{ y, a, b }] : []))),
    );
    const { y, a, b } = d.draw.pick(pairs);
    if (x.v.aval.size * y.v.aval.size > 200_000) return;
    const shape = [...withoutAxes(x.v.aval.shape, [a]), ...withoutAxes(y.v.aval.shape, [b])];
    if (!d.fits(shape)) return;
    const product = d.apply(
      "dot",
      [x, y],
      { contract: [[a], [b]], batch: [[], []] },
      !isFloat(x.v.aval.dtype),
    );
    bounded(d, product);
  },
];

/** Draws a program of up to `length` drawn steps whose values have at most `largest` elements. */
export function typedProgram(seed: Seed, length = 12, largest = 3000): TypedProgram {
  const d = new Drawing(seed, largest);
  const { draw } = d;
  const args = Array.from({ length: draw.int(1, 3) }, () => {
    const shape = Array.from({ length: draw.int(0, 3) }, () => draw.pick(sizes));
    const dtype = draw.pick(dtypes);
    return draw.tensor(
      { shape: d.fits(shape) ? shape : shape.slice(0, 2), range: isFloat(dtype) ? [-2, 2] : [0, 6] },
      dtype,
    );
  });
  const ins = args.map((x) => new Var(x.aval));
  for (const v of ins) d.known.push({ v, exact: true });
  const wanted = draw.int(1, length);
  for (let i = 0; i < wanted; i++) draw.pick(choices)(d);
  const outs = Array.from({ length: draw.int(1, 3) }, () => d.pick(() => true)!.v);
  outs.push(d.known.at(-1)!.v);
  return { program: { ins, eqns: d.eqns, outs }, args };
}
