/**
 * Random programs: functions made of differentiable primitives with random shapes, as data that prints and shrinks. Each
 * step takes earlier values and is bounded and smooth where it is used, so that derivatives of any order exist.
 */
import "../../core/ops.ts";
import { Aval } from "../../core/aval.ts";
import type { AnyPrimitive } from "../../core/primitive.ts";
import { primitives } from "../../core/primitive.ts";
import { type Shape, sizeOf, withoutAxes } from "../../core/shape.ts";
import { bind, scalar } from "../../core/trace.ts";
import type { Tensor, Value } from "../../core/value.ts";
import { type Seed, SeededDraw } from "./arbitrary_tensor.ts";

/** One equation: a primitive of earlier values (by position) and constants. */
interface Step {
  readonly primitive: AnyPrimitive;
  readonly ins: readonly (number | Tensor)[];
  readonly params: unknown;
}

/** A drawn function of float64 values. */
export interface RandomFunction {
  readonly steps: readonly Step[];
  readonly avals: readonly Aval[];
  /** The point: one value per input. */
  readonly xs: readonly Tensor[];
  /** The last values, as many as `outputs` says. */
  readonly f: (...xs: readonly Value[]) => Value[];
  /** The sum of all elements of the outputs: a scalar function. */
  readonly loss: (...xs: readonly Value[]) => Value;
}

const records = new Map(primitives().map((primitive) => [primitive.name, primitive]));

function named(name: string): AnyPrimitive {
  const primitive = records.get(name);
  if (primitive === undefined)
    throw new Error(`Cannot draw a program: there is no primitive "${name}", one is needed`);
  return primitive;
}

/** Smooth on all of [-1, 1] and beyond, with values of about that size. */
const unary: readonly string[] = ["sin", "cos", "tanh", "atan", "erf", "neg"];
const binary: readonly string[] = ["add", "sub", "mul"];

type Choice = (draw: SeededDraw, shapes: readonly Shape[], at: number) => Step | null;

const step = (name: string, ins: readonly (number | Tensor)[], params: unknown = null): Step => ({
  primitive: named(name),
  ins,
  params,
});
const axesOf = (draw: SeededDraw, shape: Shape): number[] => shape.map((_, a) => a).filter(() => draw.bool());

const choices: readonly Choice[] = [
  (draw, _shapes, at) => step(draw.pick(unary), [at]),
  (draw, _shapes, at) => step(draw.pick(unary), [at]),
  // Two values of one shape, perhaps the same value twice.
  (draw, shapes, at) => {
    const peers = shapes.flatMap((shape, i) => (String(shape) === String(shapes[at]) ? [i] : []));
    return step(draw.pick(binary), [at, draw.pick(peers)]);
  },
  (draw, shapes, at) => {
    const other = draw.tensor({ shape: shapes[at]!, range: [0.5, 1.5] }, "float64");
    return draw.bool() ? step("div", [at, other]) : step("mul", [other, at]);
  },
  (draw, shapes, at) => {
    const mask = draw.tensor({ shape: shapes[at]! }, "bool");
    const peers = shapes.flatMap((shape, i) => (String(shape) === String(shapes[at]) ? [i] : []));
    return step("where", [mask, at, draw.pick(peers)]);
  },
  (draw, shapes, at) => {
    const shape = shapes[at]!;
    return step("reshape", [at], { shape: draw.bool() ? [sizeOf(shape)] : shape.toReversed() });
  },
  (draw, shapes, at) => step("permute", [at], { perm: draw.order(shapes[at]!.length) }),
  (draw, shapes, at) => step("flip", [at], { axes: axesOf(draw, shapes[at]!) }),
  (draw, shapes, at) => step("sum", [at], { axes: axesOf(draw, shapes[at]!) }),
  (draw, shapes, at) => {
    const shape = shapes[at]!;
    if (shape.length >= 3) return null;
    const place = draw.int(0, shape.length);
    const axes = shape.map((_, a) => (a < place ? a : a + 1));
    return step("broadcast", [at], { shape: shape.toSpliced(place, 0, draw.int(1, 2)), axes });
  },
  (draw, shapes, at) => {
    const shape = shapes[at]!;
    const starts = shape.map((n) => draw.int(0, n - 1));
    const limits = shape.map((n, a) => draw.int(starts[a]! + 1, n));
    return step("slice", [at], { starts, limits, strides: shape.map(() => draw.int(1, 2)) });
  },
  (draw, shapes, at) => {
    const shape = shapes[at]!;
    if (sizeOf(shape) > 24) return null;
    const amounts = (): number[] => shape.map(() => draw.int(0, 1));
    return step("pad", [at], { low: amounts(), high: amounts(), interior: amounts(), value: draw.int(0, 1) });
  },
  (draw, shapes, at) => {
    const shape = shapes[at]!;
    if (shape.length === 0 || sizeOf(shape) > 24) return null;
    const axis = draw.int(0, shape.length - 1);
    const rest = String(withoutAxes(shape, [axis]));
    const fits = shapes.flatMap((s, i) =>
      s.length === shape.length && String(withoutAxes(s, [axis])) === rest ? [i] : [],
    );
    return step("concat", [at, draw.pick(fits)], { axis });
  },
  // A contraction over one pair of axes of one size, or an outer product.
  (draw, shapes, at) => {
    const other = draw.int(0, shapes.length - 1);
    const [x, y] = [shapes[at]!, shapes[other]!];
    const pairs = x.flatMap((n, a) => y.flatMap((m, b) => (n === m ? [[a, b] as const] : [])));
    const [a, b] = pairs.length > 0 ? draw.pick(pairs) : [];
    const contract = a === undefined ? [[], []] : [[a], [b]];
    if (x.length + y.length - 2 * contract[0]!.length > 3 || sizeOf(x) * sizeOf(y) > 144) return null;
    return step("dot", [at, other], { contract, batch: [[], []] });
  },
  (draw, shapes, at) => {
    const { length } = shapes[at]!;
    return length === 0
      ? null
      : step("cumsum", [at], { axis: draw.int(0, length - 1), reverse: draw.bool() });
  },
  (draw, shapes, at) => {
    const shape = shapes[at]!;
    if (shape.length === 0) return null;
    const axis = draw.int(0, shape.length - 1);
    const indices = draw.tensor({ shape: [draw.int(1, 3)], range: [0, shape[axis]! - 1] }, "int32");
    return step("gather", [at, indices], { axis, batchDims: 0 });
  },
];

/** Draws a function of one to three inputs with up to `largest` steps. */
export function randomFunction(seed: Seed, largest = 8): RandomFunction {
  const draw = new SeededDraw(seed);
  const avals = Array.from({ length: draw.int(1, 3) }, () => new Aval(draw.shape(0, 2), "float64"));
  const xs = avals.map(({ shape }) => draw.tensor({ shape, range: [-1, 1] }, "float64"));
  const shapes: Shape[] = avals.map((aval) => aval.shape);
  const steps: Step[] = [];
  const wanted = draw.int(1, Math.ceil((largest * seed.size) / 3));
  while (steps.length < wanted) {
    // Late values more often, so that programs are deep.
    const at = Math.max(draw.int(0, shapes.length - 1), draw.int(0, shapes.length - 1));
    const next = draw.pick(choices)(draw, shapes, at);
    if (next === null) continue;
    const [out] = next.primitive.shape(
      next.ins.map((i) => (typeof i === "number" ? new Aval(shapes[i]!, "float64") : i.aval)),
      next.params,
    );
    steps.push(next);
    shapes.push(out!.shape);
  }
  const outputs = draw.int(1, 2);
  const f = (...inputs: readonly Value[]): Value[] => {
    const values = [...inputs];
    for (const { primitive, ins, params } of steps) {
      const args = ins.map((i) => (typeof i === "number" ? values[i]! : i));
      values.push(bind(primitive, args, params)[0]!);
    }
    return values.slice(-outputs);
  };
  const loss = (...inputs: readonly Value[]): Value =>
    f(...inputs)
      .map(
        (y) =>
          bind(named("sum"), [bind(named("sin"), [y], null)[0]!], { axes: y.shape.map((_, a) => a) })[0]!,
      )
      .reduce((sum, y) => bind(named("add"), [sum, y], null)[0]!, scalar(0, "float64") as Value);
  return { steps, avals, xs, f, loss };
}
