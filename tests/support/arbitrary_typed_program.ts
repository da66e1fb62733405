/**
 * Random programs of every primitive and every element type, for code generators: shapes that do and do not fill
 * vectors, reductions along any axes, values that follow them, layouts of layouts. The reference computes each value as
 * it is drawn, with a bound on what another right backend may give; see rounding.ts.
 */
import "../../core/ops.ts";
import "../../core/random.ts";
import { type DType, isFloat, makeArray } from "../../core/dtype.ts";
import { type AnyPrimitive, primitives } from "../../core/primitive.ts";
import { dilatedSize, windowCount } from "../../core/prims/pool.ts";
import { type Atom, type Eqn, type Program, Var } from "../../core/program.ts";
import { range, type Shape, sameShape, sizeOf, withoutAxes } from "../../core/shape.ts";
import { adopt, scalar } from "../../core/trace.ts";
import { storage, type Tensor } from "../../core/value.ts";
import { type Seed, SeededDraw } from "./arbitrary_tensor.ts";
import { type Approximate, applied, largest } from "./rounding.ts";

export interface TypedProgram {
  readonly program: Program;
  readonly args: readonly Tensor[];
  /** Of each output. */
  readonly expected: readonly Approximate[];
}

/** What to draw. */
export interface TypedProgramOptions {
  /** Drawn steps, of one to about ten equations; default 18. */
  readonly length?: number;
  /** Most elements of a value; default 3000. */
  readonly largest?: number;
  /** Where the inputs' shapes come from; default: up to four small axes. */
  readonly shapes?: readonly Shape[];
  /** Most multiplications of a contraction; default 200,000. */
  readonly multiplications?: number;
}

/** Whether the library defines it: tests and examples of the documentation define primitives in this process too. */
const isOwn = ({ name, kernel }: AnyPrimitive): boolean => kernel !== undefined && !name.startsWith("docs_");

/** Every primitive there was when this file was read: tests may define more. */
export const known: ReadonlyMap<string, AnyPrimitive> = new Map(
  primitives()
    .filter(isOwn)
    .map((primitive) => [primitive.name, primitive]),
);

/** A value of the program. */
interface Known extends Approximate {
  readonly atom: Atom;
}

type Accepts = (x: Known) => boolean;

const words = (text: string): readonly string[] => text.split(" ");
const sizes: readonly number[] = [1, 1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 31, 33, 64, 100];
const functions = words(
  "tanh sin cos tan sigmoid atan erf erfc exp softplus expm1 sinh cosh asin acos erfInv log log1p sqrt rsqrt",
);
const bounding = words("tanh atan sigmoid sin");
const rounding = words("floor ceil round sign");
const arithmetic = words("add sub mul maximum minimum");
const comparisons = words("equal notEqual less lessEqual");
const dtypes: readonly DType[] = ["float32", "float32", "float32", "float64", "int32", "uint32", "bool"];
const everyDtype: readonly DType[] = ["float32", "float64", "int32", "uint32", "bool"];

const hasType =
  (...list: readonly DType[]): Accepts =>
  ({ value }) =>
    list.includes(value.dtype);
const floats = [Number.NaN, Infinity, -Infinity, -0, 0, 1e-40, 0.5, 1, -1];
/** Numbers that are easy to get wrong. */
const specials: Readonly<Record<Exclude<DType, "bool">, readonly number[]>> = {
  float32: floats,
  float64: floats,
  float16: [Number.NaN, Infinity, -Infinity, -0, 0, 2 ** -24, 0.5, 65504, -1],
  int32: [-(2 ** 31), 2 ** 31 - 1, -1, 0, 7],
  uint32: [2 ** 32 - 1, 2 ** 31, 2 ** 24 + 1, 0, 7],
};

const isFloating: Accepts = ({ value }) => isFloat(value.dtype);
const isNumeric: Accepts = ({ value }) => value.dtype !== "bool";
const isExact: Accepts = ({ error }) => error === 0;
const both =
  (...list: readonly Accepts[]): Accepts =>
  (x) =>
    list.every((accepts) => accepts(x));
const sizedAtMost =
  (most: number, least = 0): Accepts =>
  ({ value }) =>
    value.size <= most && value.size >= least;
const hasAxes: Accepts = ({ value }) => value.ndim > 0;

/** Ends a step that cannot be taken. */
const refusal = new Error("this step cannot be taken");

class Drawing {
  readonly draw: SeededDraw;
  readonly eqns: Eqn[] = [];
  readonly values: Known[] = [];
  readonly most: number;
  readonly multiplications: number;

  constructor(seed: Seed, { largest: most = 3000, multiplications = 200_000 }: TypedProgramOptions) {
    this.draw = new SeededDraw(seed);
    this.most = most;
    this.multiplications = multiplications;
  }

  /** Takes a step, or leaves all as it was. */
  attempt(step: (d: Drawing) => unknown): void {
    const [eqns, values] = [this.eqns.length, this.values.length];
    try {
      step(this);
    } catch (error) {
      if (error !== refusal) throw error;
      this.eqns.length = eqns;
      this.values.length = values;
    }
  }

  pick(...list: readonly Accepts[]): Known {
    const found = this.values.filter(both(...list));
    if (found.length === 0) throw refusal;
    // Late values more often, so that programs are deep.
    const late = Math.max(this.draw.int(0, found.length - 1), this.draw.int(0, found.length - 1));
    return found[late]!;
  }

  applyAll(name: string, args: readonly Known[], params: unknown = null): Known[] {
    const prim = known.get(name)!;
    const outs = prim.shape(
      args.map((x) => x.value.aval),
      params,
    );
    if (outs.some((aval) => aval.size > this.most || aval.ndim > 5)) throw refusal;
    const results = applied(prim, args, params);
    if (results === null) throw refusal;
    const vars = outs.map((aval) => new Var(aval));
    this.eqns.push({ prim, ins: args.map(({ atom }) => atom), outs: vars, params });
    const made = results.map((result, i) => ({ ...result, atom: vars[i]! }));
    this.values.push(...made);
    return made;
  }

  apply(name: string, args: readonly Known[], params: unknown = null): Known {
    return this.applyAll(name, args, params)[0]!;
  }

  constant(value: Tensor): Known {
    return { atom: value, value, error: 0 };
  }

  number(dtype: DType): number {
    const { draw } = this;
    if (dtype === "bool") return draw.int(0, 1);
    if (draw.int(0, 19) === 0) return draw.pick(specials[dtype]);
    return isFloat(dtype) ? Math.fround(draw.unit() * 2 - 1) : draw.int(0, 5);
  }

  filled(value: number, { dtype, shape }: { readonly dtype: DType; readonly shape: Shape }): Known {
    return this.apply("broadcast", [this.constant(scalar(value, dtype))], { shape, axes: [] });
  }

  /** Another value of the same type and shape: one that is there, a constant, or a repeated number. */
  peer(x: Known): Known {
    const { aval } = x.value;
    const choice = this.draw.int(0, 7);
    if (choice === 0 && aval.size <= 600) return this.constant(this.data(aval.shape, aval.dtype));
    if (choice > 2) {
      const found = this.values.filter((y) => y.value.aval.equals(aval));
      if (found.length > 0) return this.draw.pick(found);
    }
    return this.filled(this.number(aval.dtype), aval);
  }

  /** Elements of an input or a constant; half of the floats have few bits, so that sums of them are exact. */
  data(shape: Shape, dtype: DType): Tensor {
    const x = this.draw.tensor({ shape, range: isFloat(dtype) ? [-2, 2] : [0, 6] }, dtype);
    if (!isFloat(dtype) || this.draw.bool()) return x;
    const steps = 2 ** this.draw.pick([0, 2, 5]);
    const data = storage(x);
    for (let i = 0; i < data.length; i++) data[i] = Math.round(data[i]! * steps) / steps;
    return x;
  }

  /** Some value's elements under a shape: read through views where they are not, a constant where there is nothing. */
  fit(shape: Shape, dtype: DType, ...list: readonly Accepts[]): Known {
    const accepts = both(hasType(dtype), ...list);
    const same = this.values.filter((x) => accepts(x) && sameShape(x.value.shape, shape));
    if (same.length > 0 && this.draw.int(0, 2) > 0) return this.draw.pick(same);
    const wanted = sizeOf(shape);
    const found = this.values.filter((x) => accepts(x) && x.value.size > 0);
    if (found.length === 0 || (wanted <= 600 && this.draw.int(0, 5) === 0))
      return this.constant(this.data(shape, dtype));
    let x = this.draw.pick(found);
    const flat = (y: Known): Known =>
      y.value.ndim === 1 ? y : this.apply("reshape", [y], { shape: [y.value.size] });
    x = flat(x);
    const size = x.value.size;
    if (size < wanted) {
      const times = Math.ceil(wanted / size);
      const repeated = this.draw.bool()
        ? { shape: [times, size], axes: [1] }
        : { shape: [size, times], axes: [0] };
      x = flat(this.apply("broadcast", [x], repeated));
    }
    const spare = x.value.size - wanted;
    if (spare > 0) {
      const start = this.draw.int(0, spare);
      x = this.apply("slice", [x], { starts: [start], limits: [start + wanted], strides: [1] });
    }
    return sameShape(x.value.shape, shape) ? x : this.apply("reshape", [x], { shape });
  }

  /** Integers of a shape in [0, size). */
  indices(shape: Shape, size: number): Known {
    if (size === 0 && sizeOf(shape) > 0) throw refusal;
    if (size === 0 || this.draw.bool())
      return this.constant(this.draw.tensor({ shape, range: [0, Math.max(0, size - 1)] }, "int32"));
    const x = this.fit(shape, "int32");
    const [low, high] = [this.filled(0, x.value), this.filled(size - 1, x.value)];
    return this.apply("minimum", [this.apply("maximum", [x, low]), high]);
  }

  someAxes(shape: Shape): number[] {
    const axes = range(shape.length).filter(() => this.draw.bool());
    return this.draw.int(0, 3) === 0 ? axes.reverse() : axes;
  }

  shape(): Shape {
    const shape: number[] = [];
    for (let rank = this.draw.int(0, 4); rank > 0; rank--) {
      const isSquare = shape.length > 0 && this.draw.int(0, 3) === 0;
      const n = this.draw.int(0, 59) === 0 ? 0 : isSquare ? shape.at(-1)! : this.draw.pick(sizes);
      if (sizeOf([...shape, Math.max(1, n)]) <= this.most) shape.push(n);
    }
    return shape;
  }

  /** Draws of a domain, larger or smaller. */
  domain(name: string): ReturnType<AnyPrimitive["domain"]> {
    const { draw } = this;
    return known
      .get(name)!
      .domain(new SeededDraw({ seed: draw.int(0, 2 ** 31 - 1), size: draw.pick([2, 4, 8, 12]) }));
  }
}

// --- moves and reductions ----------------------------------------------------------------------------------------

type Unary = (d: Drawing, x: Known) => Known;

function concatenated(d: Drawing, x: Known): Known {
  if (x.value.ndim === 0) throw refusal;
  const axis = d.draw.int(0, x.value.ndim - 1);
  const rest = ({ value }: Known): string => `${value.dtype} ${withoutAxes(value.shape, [axis])}`;
  const isPart: Accepts = (y) => y.value.ndim === x.value.ndim && rest(y) === rest(x);
  const parts = Array.from({ length: d.draw.int(0, 2) }, () => d.pick(isPart));
  return d.apply("concat", [...parts, x], { axis });
}

const moves: readonly Unary[] = [
  (d, x) => {
    const { shape } = x.value;
    const place = d.draw.int(0, shape.length);
    const wanted = shape.toSpliced(place, 0, d.draw.pick(sizes));
    return d.apply("broadcast", [x], { shape: wanted, axes: shape.map((_, a) => (a < place ? a : a + 1)) });
  },
  (d, x) => d.apply("permute", [x], { perm: d.draw.order(x.value.ndim) }),
  (d, x) => d.apply("flip", [x], { axes: d.someAxes(x.value.shape) }),
  (d, x) => {
    const { shape, size } = x.value;
    const even = shape.findLastIndex((n) => n % 2 === 0 && n > 0);
    const pair = d.draw.int(0, Math.max(0, shape.length - 2));
    return d.apply("reshape", [x], {
      shape: d.draw.pick([
        [size],
        shape.toReversed(),
        even < 0 ? [1, ...shape] : shape.toSpliced(even, 1, 2, shape[even]! / 2),
        shape.length < 2 ? [size, 1] : shape.toSpliced(pair, 2, shape[pair]! * shape[pair + 1]!),
        shape.filter((n) => n !== 1),
      ]),
    });
  },
  (d, x) => {
    const { shape } = x.value;
    const starts = shape.map((n) => d.draw.int(0, Math.max(0, n - 1)));
    const least = d.draw.int(0, 19) === 0 ? 0 : 1;
    const limits = shape.map((n, a) => d.draw.int(Math.min(n, starts[a]! + least), n));
    return d.apply("slice", [x], { starts, limits, strides: shape.map(() => d.draw.int(1, 3)) });
  },
  (d, x) => {
    const { shape, dtype } = x.value;
    const amounts = (most: number): number[] => shape.map(() => d.draw.int(0, most));
    const special = isFloat(dtype) && d.draw.int(0, 15) === 0 ? d.draw.pick([Infinity, -Infinity]) : null;
    const value = special ?? d.draw.pick([0, d.number(dtype)]);
    return d.apply("pad", [x], { low: amounts(2), high: amounts(2), interior: amounts(1), value });
  },
  concatenated,
];

function reduced(d: Drawing, x: Known): Known {
  const name = d.draw.pick(["sum", "sum", "sum", "reduceMax", "reduceMin", "reduceProd", "cumsum", "argmax"]);
  const { shape } = x.value;
  if (name === "cumsum" || name === "argmax") {
    if (shape.length === 0) throw refusal;
    const axis = d.draw.int(0, shape.length - 1);
    if (name === "cumsum") return d.apply(name, [x], { axis, reverse: d.draw.bool() });
    if (shape[axis] === 0) throw refusal;
    return d.apply(d.draw.pick(["argmax", "argmin"]), [x], { axis });
  }
  const axes = d.someAxes(shape);
  if (name !== "sum" && name !== "reduceProd" && axes.some((a) => shape[a] === 0)) throw refusal;
  return bounded(d, d.apply(name, [x], { axes }));
}

/** Brings a large float back, mostly. */
function bounded(d: Drawing, x: Known): Known {
  const size = isFloating(x) ? largest(x.value) : 0;
  if (size > 100 && d.draw.int(0, 3) > 0)
    return d.apply("mul", [x, d.filled(Math.fround(1 / size), x.value)]);
  return size > 8 && d.draw.bool() ? d.apply(d.draw.pick(bounding), [x]) : x;
}

/** The result of a reduction along the axes again, mostly where it came from: else reversed, or along other axes. */
function repeated(d: Drawing, y: Known, shape: Shape, axes: readonly number[]): Known {
  let kept = range(shape.length).filter((a) => !axes.includes(a));
  const choice = d.draw.int(0, 7);
  if (choice === 0) y = d.apply("flip", [y], { axes: d.someAxes(y.value.shape) });
  if (choice === 1 && kept.length === 1)
    kept = [d.draw.pick(range(shape.length).filter((a) => shape[a] === shape[kept[0]!]))];
  return d.apply("broadcast", [y], { shape, axes: kept });
}

// --- contractions ------------------------------------------------------------------------------------------------

/** Two values that are there, over one axis of each. */
function product(d: Drawing): void {
  const x = d.pick(isNumeric, hasAxes);
  const pairs = d.values.flatMap((y) =>
    y.value.dtype !== x.value.dtype
      ? []
      : x.value.shape.flatMap((n, a) => y.value.shape.flatMap((m, b) => (n === m ? [{ y, a, b }] : []))),
  );
  const { y, a, b } = d.draw.pick(pairs);
  if ((x.value.size * y.value.size) / Math.max(1, x.value.shape[a]!) > d.multiplications) throw refusal;
  bounded(d, d.apply("dot", [x, y], { contract: [[a], [b]], batch: [[], []] }));
}

/** Several axes of each kind, in any order. */
function contraction(d: Drawing): void {
  const { draw } = d;
  const kind = (): number[] => Array.from({ length: draw.int(0, 2) }, () => draw.pick(sizes.slice(0, -2)));
  const [batch, contract, rows, columns] = [kind(), kind(), kind(), kind()];
  if (sizeOf([...batch, ...contract, ...rows, ...columns]) > d.multiplications) throw refusal;
  const side = (free: readonly number[]) => {
    const axes = [...batch, ...contract, ...free];
    const order = draw.order(axes.length);
    const places = (from: number, count: number): number[] =>
      range(count).map((i) => order.indexOf(from + i));
    return {
      shape: order.map((a) => axes[a]!),
      batch: places(0, batch.length),
      contract: places(batch.length, contract.length),
    };
  };
  const [x, y] = [side(rows), side(columns)];
  if (sizeOf(x.shape) > d.most || sizeOf(y.shape) > d.most) throw refusal;
  const dtype = draw.pick<DType>(["float32", "float32", "float64", "int32", "uint32"]);
  bounded(
    d,
    d.apply("dot", [d.fit(x.shape, dtype), d.fit(y.shape, dtype)], {
      contract: [x.contract, y.contract],
      batch: [x.batch, y.batch],
    }),
  );
}

/** One of the three convolutions. */
function convolution(d: Drawing): void {
  const { draw } = d;
  const axes = range(draw.int(1, 3));
  const each = (list: readonly number[]): number[] => axes.map(() => draw.pick(list));
  const [batch, groups] = [draw.int(1, 3), draw.pick([1, 1, 1, 2, 3])];
  const [channels, outs] = [draw.pick([1, 2, 3, 4, 5, 8]), draw.pick([1, 2, 3, 4, 7, 8, 16])];
  const [input, kernel] = [each([1, 2, 3, 5, 7, 8, 9, 12]), each([1, 1, 2, 3, 3, 5])];
  const [strides, dilation, inputDilation] = [each([1, 1, 2, 3]), each([1, 1, 2]), each([1, 1, 1, 2])];
  const [low, high] = [each([0, 0, 1, 2, -1]), each([0, 0, 1, 2, -1])];
  const span = kernel.map((n, a) => dilatedSize(n, dilation[a]!));
  const inside = input.map((n, a) => dilatedSize(n, inputDilation[a]!));
  const padding = axes.map((a) => [low[a]!, Math.max(high[a]!, span[a]! - inside[a]! - low[a]!)] as const);
  const output = axes.map((a) =>
    windowCount(padding[a]![0] + inside[a]! + padding[a]![1], span[a]!, strides[a]!),
  );
  const shapes = {
    input: [batch, groups * channels, ...input],
    kernel: [groups * outs, channels, ...kernel],
    output: [batch, groups * outs, ...output],
  };
  if (sizeOf(shapes.output) * channels * sizeOf(kernel) > d.multiplications) throw refusal;
  const dtype = draw.pick<DType>(["float32", "float32", "float32", "float64", "int32"]);
  const [name, x, y, size] = draw.pick([
    ["conv", shapes.input, shapes.kernel, output],
    ["convInput", shapes.output, shapes.kernel, input],
    ["convKernel", shapes.input, shapes.output, kernel],
  ] as const);
  const params = { strides, padding, dilation, inputDilation, groups, size };
  bounded(d, d.apply(name, [d.fit(x, dtype), d.fit(y, dtype)], params));
}

/** Windows, and what goes with them. */
function pooling(d: Drawing): void {
  const name = d.draw.pick(
    words("maxPool maxPoolIndex poolGather poolScatter sumPool sumPoolTranspose maxPool sumPool"),
  );
  const { args, params } = d.domain(name);
  const dtype = d.draw.pick<DType>(["float32", "float32", "float64", "int32", "uint32"]);
  const accepts: Accepts = name === "maxPoolIndex" ? isExact : () => true;
  const ins = args.map((spec) => {
    if (spec.dtype !== "int32") return d.fit(spec.shape, dtype, accepts);
    // Indices outside are read as zeros, and dropped.
    return d.draw.bool() ? d.fit(spec.shape, "int32") : d.indices(spec.shape, spec.range![1] + 1);
  });
  bounded(d, d.apply(name, ins, params));
}

// --- steps -------------------------------------------------------------------------------------------------------

type Step = (d: Drawing) => unknown;

function smooth(d: Drawing): void {
  bounded(d, d.apply(d.draw.pick(functions), [d.pick(isFloating)]));
}

const steps: readonly Step[] = [
  smooth,
  smooth,
  smooth,
  (d) => {
    const x = d.pick(isFloating);
    const size = Math.max(1, largest(x.value));
    const scaled = d.apply("mul", [x, d.filled(Math.fround(0.9 / size), x.value)]);
    d.apply(d.draw.pick(words("asin acos erfInv log1p tan")), [scaled]);
  },
  (d) => {
    const x = d.pick(isFloating);
    const positive = d.apply("add", [d.apply("abs", [x]), d.filled(0.5, x.value)]);
    const name = d.draw.pick(words("log sqrt rsqrt pow div atan2"));
    if (name === "pow") bounded(d, d.apply(name, [positive, d.peer(x)]));
    else if (name === "div" || name === "atan2") d.apply(name, [d.peer(x), positive]);
    else d.apply(name, [positive]);
  },
  (d) => {
    const x = d.pick(isNumeric);
    const y = d.apply(d.draw.pick(arithmetic), [x, d.peer(x)]);
    if (d.draw.bool()) bounded(d, y);
  },
  (d) => {
    const x = d.pick(isNumeric);
    d.apply(d.draw.pick(arithmetic), [d.peer(x), x]);
  },
  (d) => {
    const x = d.pick(isNumeric);
    bounded(d, d.apply("div", [x, d.peer(x)]));
  },
  (d) => {
    const x = d.pick(() => true);
    d.apply(d.draw.pick(comparisons), [x, d.peer(x)]);
  },
  (d) => d.apply(d.draw.pick(rounding), [d.pick(isFloating)]),
  (d) => {
    const x = d.pick(hasType("bool"));
    if (d.draw.bool()) d.apply("logicalNot", [x]);
    else d.apply(d.draw.pick(["logicalAnd", "logicalOr"]), [x, d.peer(x)]);
  },
  (d) => {
    const mask = d.pick(hasType("bool"));
    const x = d.pick(({ value }) => sameShape(value.shape, mask.value.shape));
    d.apply("where", [mask, x, d.peer(x)]);
  },
  // One decision for all elements.
  (d) => {
    const mask = d.fit([], "bool");
    const x = d.pick(() => true);
    const spread = d.apply("broadcast", [mask], { shape: x.value.shape, axes: [] });
    d.apply("where", [spread, x, d.peer(x)]);
  },
  (d) => d.apply("cast", [d.pick(() => true)], { dtype: d.draw.pick(everyDtype) }),
  (d) => d.apply("cast", [d.pick(hasType("bool", "int32", "uint32"))], { dtype: d.draw.pick(everyDtype) }),
  (d) => d.apply(d.draw.pick(words("neg abs sign")), [d.pick(isNumeric)]),
  (d) => d.apply("stopGradient", [d.pick(() => true)]),
  (d) => reduced(d, d.pick(isNumeric)),
  (d) => reduced(d, d.pick(isNumeric)),
  (d) => reduced(d, reduced(d, d.pick(isNumeric))),
  // Views of views, and what reduces them.
  (d) => {
    let x = d.pick(isNumeric);
    for (let i = d.draw.int(1, 4); i > 0; i--) x = d.draw.pick(moves)(d, x);
    if (d.draw.bool()) x = d.apply("mul", [x, d.peer(x)]);
    reduced(d, x);
  },
  (d) =>
    d.draw.pick(moves)(
      d,
      d.pick(() => true),
    ),
  (d) =>
    d.draw.pick(moves)(
      d,
      d.pick(() => true),
    ),
  (d) =>
    d.draw.pick(moves)(
      d,
      d.draw.pick(moves)(
        d,
        d.pick(() => true),
      ),
    ),
  // Rows brought to sum 1: values that follow a reduction.
  (d) => {
    const x = d.pick(isFloating, hasAxes, sizedAtMost(Infinity, 1));
    const { shape } = x.value;
    const axes = d.draw.bool() ? [shape.length - 1] : d.someAxes(shape);
    if (axes.length === 0) throw refusal;
    const repeat = (y: Known): Known => repeated(d, y, shape, axes);
    const power = d.apply("exp", [d.apply("sub", [x, repeat(d.apply("reduceMax", [x], { axes }))])]);
    d.apply("div", [power, repeat(d.apply("sum", [power], { axes }))]);
  },
  // Rows brought to mean 0 and variance 1.
  (d) => {
    const x = d.pick(isFloating, hasAxes, sizedAtMost(Infinity, 1));
    const { shape } = x.value;
    const axes = d.draw.bool() ? [shape.length - 1] : d.someAxes(shape);
    if (axes.length === 0) throw refusal;
    const count = sizeOf(axes.map((a) => shape[a]!));
    const mean = (y: Known): Known => {
      const sum = d.apply("sum", [y], { axes });
      return d.apply("mul", [sum, d.filled(Math.fround(1 / count), sum.value)]);
    };
    const repeat = (y: Known): Known => repeated(d, y, shape, axes);
    const centred = d.apply("sub", [x, repeat(mean(x))]);
    const variance = mean(d.apply("mul", [centred, centred]));
    const scale = d.apply("rsqrt", [d.apply("add", [variance, d.filled(0.125, variance.value)])]);
    d.apply("mul", [centred, repeat(scale)]);
  },
  product,
  contraction,
  convolution,
  pooling,
  (d) => {
    const x = d.pick(hasAxes);
    const { shape } = x.value;
    const axis = d.draw.int(0, shape.length - 1);
    const batchDims = d.draw.int(0, 2) > 0 ? 0 : d.draw.int(0, axis);
    const rest = Array.from({ length: d.draw.int(0, 2) }, () => d.draw.pick(sizes.slice(0, 9)));
    const indices = d.indices([...shape.slice(0, batchDims), ...rest], shape[axis]!);
    d.apply("gather", [x, indices], { axis, batchDims });
  },
  (d) => {
    const x = d.pick(isNumeric);
    const { shape } = x.value;
    const axis = d.draw.int(0, shape.length);
    const batchDims = d.draw.int(0, 2) > 0 ? 0 : d.draw.int(0, axis);
    const index = shape.slice(axis, axis + d.draw.int(0, 2));
    const size = d.draw.pick(sizes.slice(0, 12));
    const indices = d.indices([...shape.slice(0, batchDims), ...index], size);
    bounded(d, d.apply("scatterAdd", [indices, x], { axis, batchDims, size }));
  },
  (d) => {
    const x = d.pick(hasAxes);
    const isPeer: Accepts = ({ value }) => sameShape(value.shape, x.value.shape);
    const companions = Array.from({ length: d.draw.int(0, 2) }, () => d.pick(isPeer));
    d.applyAll("sort", [x, ...companions], { axis: d.draw.int(0, x.value.ndim - 1) });
  },
  // Random bits, perhaps as numbers in [0, 1).
  (d) => {
    const shape = d.draw.shape(0, 2);
    const keys = d.draw.shape(0, 1);
    let key = d.fit([...keys, 2], "uint32");
    if (d.draw.bool()) key = d.apply("foldIn", [key, d.fit(keys, d.draw.pick(["int32", "uint32"]))]);
    const bits = d.apply("randomBits", [key], { shape, words: d.draw.pick([1, 2]) });
    if (d.draw.bool()) return;
    const high = d.apply("div", [bits, d.filled(256, bits.value)]);
    const wide = d.apply("cast", [high], { dtype: "float32" });
    d.apply("mul", [wide, d.filled(2 ** -24, wide.value)]);
  },
  (d) => {
    const shape = d.shape();
    if (sizeOf(shape) <= 600) d.values.push(d.constant(d.data(shape, d.draw.pick(dtypes))));
  },
];

/** Puts in a few elements that are easy to get wrong. */
function withSpecials(x: Tensor, draw: SeededDraw): Tensor {
  const { dtype, size } = x;
  if (dtype === "bool" || size === 0 || draw.int(0, 11) > 0) return x;
  const data = makeArray(dtype, size);
  data.set(storage(x));
  for (let i = draw.int(1, 4); i > 0; i--) data[draw.int(0, size - 1)] = draw.pick(specials[dtype]);
  return adopt(data, x.shape, dtype);
}

/** Draws a program. */
export function typedProgram(seed: Seed, options: TypedProgramOptions = {}): TypedProgram {
  const d = new Drawing(seed, options);
  const { draw } = d;
  const { length = 18, shapes } = options;
  const args = Array.from({ length: draw.int(1, 3) }, () => {
    const shape = shapes ? draw.pick(shapes) : d.shape();
    return withSpecials(d.data(shape, draw.pick(dtypes)), draw);
  });
  const ins = args.map((x) => new Var(x.aval));
  args.forEach((value, i) => {
    d.values.push({ atom: ins[i]!, value, error: 0 });
  });
  for (let i = draw.int(1, length); i > 0; i--) d.attempt(draw.pick(steps));
  const outs = Array.from({ length: draw.int(1, 6) }, () => d.pick(() => true));
  outs.push(d.values.at(-1)!);
  return {
    program: { ins, eqns: d.eqns, outs: outs.map(({ atom }) => atom) },
    args,
    expected: outs,
  };
}
