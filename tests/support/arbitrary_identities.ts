/**
 * Random functions full of what simplification looks for: neutral elements, moves and their opposites, parts that are
 * joined again, repeated and dead values. As in `arbitrary_program.ts`, a draw is a seed and a size.
 */
import { Aval } from "../../core/aval.ts";
import type { DType } from "../../core/dtype.ts";
import { isFloat } from "../../core/dtype.ts";
import * as dots from "../../core/prims/contract.ts";
import * as p from "../../core/prims/elementwise.ts";
import * as m from "../../core/prims/movement.ts";
import { reduceMax, reduceMin, reduceProd } from "../../core/prims/reduce.ts";
import { range } from "../../core/shape.ts";
import { apply, bind1 } from "../../core/trace.ts";
import type { Tensor, Value } from "../../core/value.ts";
import { type Seed, SeededDraw } from "./arbitrary_tensor.ts";

/** One step of a function: the next value from the one drawn, and from another with the same shape. */
type Move = (x: Value, draw: SeededDraw, peer: Value) => Value;

const some = (draw: SeededDraw, n: number): number[] => range(n).filter(() => draw.bool());
const inverse = (perm: readonly number[]): number[] => range(perm.length).map((a) => perm.indexOf(a));

/** One new axis. */
function repeat(x: Value, draw: SeededDraw): Value {
  const at = draw.int(0, x.ndim);
  const shape = x.shape.toSpliced(at, 0, draw.int(1, 3));
  return bind1(m.broadcastP, [x], { shape, axes: range(x.ndim).map((a) => (a < at ? a : a + 1)) });
}

function cut(x: Value, draw: SeededDraw): Value {
  const starts = x.shape.map((n) => (draw.bool() ? 0 : draw.int(0, n)));
  const limits = x.shape.map((n, a) => (draw.bool() ? n : draw.int(starts[a]!, n)));
  return m.slice(x, { starts, limits, strides: x.shape.map(() => draw.int(1, 2)) });
}

function surround(x: Value, draw: SeededDraw): Value {
  const amounts = (): number[] => x.shape.map(() => draw.pick([0, 0, 1, 2]));
  const interior = x.shape.map(() => draw.pick([0, 0, 0, 1]));
  return m.pad(x, { low: amounts(), high: amounts(), interior, value: draw.int(0, 1) });
}

/** A reduction along drawn axes, where none of them is empty. */
function reduce(x: Value, draw: SeededDraw): Value {
  const axes = some(draw, x.ndim);
  return axes.some((a) => x.shape[a] === 0) ? x : draw.pick([m.sumAxes, reduceMax, reduceMin])(x, axes);
}

/** Moves of elements: the result has the bits of the operands. */
const moves: readonly Move[] = [
  (x, draw) => m.permute(x, draw.order(x.ndim)),
  (x, draw) => {
    const perm = draw.order(x.ndim);
    return m.permute(m.permute(x, perm), inverse(perm));
  },
  (x, draw) => bind1(m.reshapeP, [x], { shape: draw.bool() ? [x.size] : [...x.shape].reverse() }),
  (x, draw) => bind1(m.reshapeP, [x], { shape: x.shape.toSpliced(draw.int(0, x.ndim), 0, 1) }),
  (x) => m.reshape(m.reshape(x, [x.size]), x.shape),
  (x, draw) => bind1(m.flipP, [x], { axes: some(draw, x.ndim) }),
  repeat,
  (x, draw) => m.permute(repeat(x, draw), draw.order(x.ndim + 1)),
  cut,
  (x, draw) => cut(cut(x, draw), draw),
  (x, draw) => cut(repeat(x, draw), draw),
  surround,
  (x, draw) => surround(surround(x, draw), draw),
  (x, draw) => cut(surround(x, draw), draw),
  (x, draw, peer) => {
    if (x.ndim === 0) return x;
    const axis = draw.int(0, x.ndim - 1);
    return cut(bind1(m.concatP, [x, peer, x], { axis }), draw);
  },
  // Parts with what may be between them, in any order.
  (x, draw) => {
    if (x.ndim === 0) return x;
    const axis = draw.int(0, x.ndim - 1);
    const parts = range(draw.int(2, 3)).map(() => {
      const start = draw.int(0, x.shape[axis]!);
      return m.sliceAxis(x, axis, start, draw.int(start, x.shape[axis]!));
    });
    return bind1(m.concatP, parts, { axis });
  },
  (x, draw, peer) => (x.ndim === 0 ? x : bind1(m.concatP, [x, peer], { axis: draw.int(0, x.ndim - 1) })),
  // Cut into two parts, and joined again.
  (x, draw) => {
    if (x.ndim === 0) return x;
    const axis = draw.int(0, x.ndim - 1);
    const n = x.shape[axis]!;
    const at = draw.int(0, n);
    return bind1(m.concatP, [m.sliceAxis(x, axis, 0, at), m.sliceAxis(x, axis, at, n)], { axis });
  },
  (x, draw, peer) => {
    const mask = draw.tensor({ shape: draw.bool() ? [] : x.shape }, "bool");
    return p.where(m.broadcast(mask, x.shape, range(mask.ndim)), x, peer);
  },
  (x, draw, peer) => {
    const mask = p.less(x, peer);
    return p.where(mask, draw.bool() ? p.where(mask, x, peer) : x, p.where(mask, x, peer));
  },
  (x) => apply(p.stopGradientP, x),
  (x) => bind1(p.castP, [bind1(p.castP, [x], { dtype: "float64" })], { dtype: x.dtype }),
  (x, _draw, peer) => p.where(p.equal(peer, peer), p.maximum(x, x), p.minimum(peer, peer)),
];

/** Arithmetic: simplification may round otherwise, and change the sign of a zero. */
const arithmetic: readonly Move[] = [
  (x, draw) => p.add(x, p.like(x, draw.int(0, 1))),
  (x, draw) => p.sub(x, p.like(x, draw.int(0, 1))),
  (x, draw) => p.mul(x, p.like(x, draw.int(x.dtype === "uint32" ? 0 : -1, 1))),
  (x) => p.mul(p.like(x, 1), x),
  (x, _draw, peer) => p.add(x, p.neg(peer)),
  (x, _draw, peer) => p.add(p.neg(x), peer),
  (x, _draw, peer) => p.sub(x, p.neg(peer)),
  (x, _draw, peer) => p.neg(p.sub(x, peer)),
  (x, _draw, peer) => p.mul(p.neg(x), p.neg(peer)),
  (x, _draw, peer) => p.add(p.mul(x, peer), p.mul(peer, x)),
  (x) => p.neg(p.neg(x)),
  (x) => p.div(x, p.like(x, 1)),
  (x) => p.maximum(p.add(p.like(x, 2), p.like(x, 1)), x),
  (x) => p.abs(p.abs(x)),
  (x, draw) => m.sumAxes(x, some(draw, x.ndim)),
  reduce,
  (x, draw) => reduce(reduce(x, draw), draw),
  (x, draw) => reduce(repeat(repeat(x, draw), draw), draw),
  (x, draw) => reduceProd(m.slice(x, firstTwo(x)), some(draw, x.ndim)),
  // Matrix products with their operands and results turned.
  (x, draw, peer) => {
    if (x.ndim === 0 || x.ndim > 2) return x;
    const axis = draw.int(0, x.ndim - 1);
    const [a, b] = [draw.order(x.ndim), draw.order(x.ndim)];
    const product = dots.dot(m.permute(x, a), m.permute(peer, b), {
      contract: [[a.indexOf(axis)], [b.indexOf(axis)]],
      batch: [[], []],
    });
    return m.permute(product, draw.order(product.ndim));
  },
  // The same of three axes, one of them shared by both, inside a sum.
  (x, draw, peer) => {
    if (x.ndim !== 3) return x;
    const params: dots.DotParams = { contract: [[1], [1]], batch: [[draw.int(0, 1) * 2], [0]] };
    if (x.shape[params.batch[0][0]!] !== x.shape[0]) return x;
    const product = dots.dot(x, peer, params);
    const turned = draw.bool() ? [0, 2, 1] : draw.order(3);
    return m.permute(p.add(product, p.like(product, 1)), turned);
  },
  // Parts that are padded to the whole and added, in any order.
  (x, draw) => {
    if (x.ndim === 0 || x.shape[0]! < 3) return x;
    const n = x.shape[0]!;
    const parts = draw.order(3).map((i) => [i, i === 2 ? n : i + 1] as const);
    const zeros = x.shape.map(() => 0);
    const padded = parts.map(([start, end]) =>
      m.pad(m.sliceAxis(x, 0, start, end), {
        low: zeros.with(0, start),
        high: zeros.with(0, n - end),
        interior: zeros,
        value: 0,
      }),
    );
    return padded.reduce(p.add);
  },
];

const floats: readonly Move[] = [
  (x) => p.pow(x, p.like(x, 1)),
  (x) => p.pow(p.sin(x), p.like(x, 2)),
  (x, _draw, peer) => p.div(p.neg(x), p.neg(p.add(p.mul(p.sin(peer), p.sin(peer)), p.like(x, 1)))),
  (x) => p.sin(x),
  (x, draw) => p.where(p.less(p.sin(p.like(x, draw.int(-1, 1))), p.like(x, 0.5)), x, p.cos(x)),
];

function firstTwo(x: Value): m.SliceParams {
  return {
    starts: x.shape.map(() => 0),
    limits: x.shape.map((n) => Math.min(n, 2)),
    strides: x.shape.map(() => 1),
  };
}

export interface RandomIdentities {
  readonly avals: readonly Aval[];
  readonly xs: readonly Tensor[];
  readonly f: (...xs: readonly Value[]) => Value[];
}

/** Draws a function of two inputs of one element type; `kind` "moves" leaves every bit as it is. */
export function randomIdentities(seed: Seed, kind: "moves" | "all", dtype: DType): RandomIdentities {
  const draw = new SeededDraw(seed);
  const shapes = [draw.shape(0, 3), draw.shape(0, 3)];
  const avals = shapes.map((shape) => new Aval(shape, dtype));
  const spec = { range: dtype === "uint32" ? ([0, 3] as const) : ([-2, 2] as const) };
  const xs = avals.map((aval) => draw.tensor({ ...spec, shape: aval.shape }, dtype));
  const choices = kind === "moves" ? moves : [...moves, ...arithmetic, ...(isFloat(dtype) ? floats : [])];
  // Replayed with one stream for each call, so that the function is the same under every trace.
  const steps = draw.int(2, 4 * seed.size);
  const replay = { seed: draw.int(0, 2 ** 31 - 1), size: seed.size };
  const f = (...inputs: readonly Value[]): Value[] => {
    const stream = new SeededDraw(replay);
    const values = [...inputs];
    for (let i = 0; i < steps; i++) {
      const x = values[Math.max(stream.int(0, values.length - 1), stream.int(0, values.length - 1))]!;
      const peers = values.filter((y) => y.aval.equals(x.aval));
      const next = stream.pick(choices)(x, stream, stream.pick(peers));
      const isSmall = next.size <= 200 && next.ndim <= 4;
      values.push(isSmall ? next : x);
    }
    return values.slice(-stream.int(1, 2));
  };
  return { avals, xs, f };
}
