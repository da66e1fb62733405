/** L-BFGS: a quasi-Newton method that remembers the last steps and how the gradient changed along them. */
import { zeros } from "../core/create.ts";
import { abs, add, concat, dot, max, mul, neg, reshape, slice, sub, sum } from "../core/ops.ts";
import { ravel } from "../core/ravel.ts";
import { adopt, scalar } from "../core/trace.ts";
import type { Value } from "../core/value.ts";
import { type LinePoint, wolfeSearch } from "./line_search.ts";
import { checkOptions, countingNumber, fraction, nonNegative, positive } from "./ranges.ts";
import { type CountState, type GradientTransformation, zeroCount } from "./transformation.ts";

/**
 * The constants of L-BFGS.
 *
 * @since 0.2.0
 */
export interface LbfgsOptions {
  /** The step that each line search tries first; default 1, the quasi-Newton step. */
  readonly learningRate?: number;
  /** Iterations in one update, each a direction and a line search; default 20. */
  readonly maxIterations?: number;
  /** Evaluations after which an update ends; default 1.25 maxIterations. */
  readonly maxEvaluations?: number;
  /** An update ends where no element of the gradient is larger; default 1e-7. */
  readonly toleranceGradient?: number;
  /** An update ends where neither the parameters nor the value change by more; default 1e-9. */
  readonly toleranceChange?: number;
  /** Pairs of steps and changes that are remembered; default 100. */
  readonly historySize?: number;
  /** c1: the part of the decrease that the slope promises which a line search must reach; default 1e-4. */
  readonly decrease?: number;
  /** c2: the part of the slope at the start that a line search may leave; default 0.9, near 0 for an exact search. */
  readonly curvature?: number;
  /** Evaluations in a line search beyond the first; default 25. */
  readonly maxLineEvaluations?: number;
}

/**
 * What L-BFGS remembers, in rows: the newest pair is the last row, unused rows are the first and zero.
 *
 * @since 0.2.0
 */
export interface LbfgsState extends CountState {
  /** Number of rows in use; i32[]. */
  readonly pairs: Value;
  /** Steps s; [m, n]. */
  readonly steps: Value;
  /** Changes of the gradient y; [m, n]. */
  readonly changes: Value;
  /** The products s y; f64[m]. */
  readonly products: Value;
  /** s y / y y of the newest pair: the inverse Hessian before the pairs act on it; f64[]. */
  readonly scale: Value;
}

/**
 * What L-BFGS needs besides gradients: the function on the batch of the update.
 *
 * @since 0.2.0
 */
export interface LbfgsExtra {
  /** Value and gradient at any parameters, as `valueAndGrad` gives them. */
  valueAndGradient(params: unknown): readonly [value: Value, gradient: unknown];
  /** The value at the parameters of the update, where it is known: it saves one evaluation. */
  readonly value?: Value;
}

/**
 * L-BFGS with a line search for the strong Wolfe conditions.
 *
 * `s <- x' - x; y <- g' - g; p <- p - t H g` with H the inverse Hessian that the last pairs (s, y) tell, t from the line
 * search. One update makes up to `maxIterations` such iterations on one function. Pairs are taken on one batch, so a batch
 * that changes between updates does not spoil them. The host reads numbers after every evaluation: it does not work inside
 * jit, while the function may be compiled.
 *
 * Cost per iteration: about 4 m n flops beside the evaluations, most often one. Memory: 2 m n elements from the start.
 * Shapes: any tree of tensors of one float type with n elements; the state holds 2 m n.
 * Units: none.
 *
 * @throws {RangeError} if an option is out of range
 * @throws {DTypeError} if the parameters are of several element types
 * @source Liu & Nocedal 1989, "On the limited memory BFGS method for large scale optimization"
 * @source Nocedal & Wright 2006, "Numerical optimization", algorithms 3.5, 3.6, 7.4
 * @example A quadratic, solved by one update
 * ```ts
 * const loss = (x: ct.Value) => x.sub(3).mul(x.sub(3)).mul(ct.tensor([1, 10])).sum();
 * const optimizer = ct.optim.lbfgs();
 * const x = ct.tensor([0, 0]);
 * const extra = { valueAndGradient: ct.valueAndGrad(loss) };
 * const [updates] = optimizer.update(ct.grad(loss)(x), optimizer.init(x), x, extra);
 * assertClose(x.add(updates), [3, 3], 1e-4);
 * ```
 * @since 0.2.0
 */
export function lbfgs(options: LbfgsOptions = {}): GradientTransformation<LbfgsState, LbfgsExtra> {
  const { learningRate = 1, maxIterations = 20, historySize = 100, maxLineEvaluations = 25 } = options;
  const { toleranceGradient = 1e-7, toleranceChange = 1e-9 } = options;
  const { maxEvaluations = Math.floor(1.25 * maxIterations) } = options;
  const { decrease = 1e-4, curvature = 0.9 } = options;
  checkOptions("L-BFGS", {
    learningRate: [learningRate, positive],
    maxIterations: [maxIterations, countingNumber],
    maxEvaluations: [maxEvaluations, countingNumber],
    toleranceGradient: [toleranceGradient, nonNegative],
    toleranceChange: [toleranceChange, nonNegative],
    historySize: [historySize, countingNumber],
    decrease: [decrease, fraction],
    curvature: [curvature, fraction],
    maxLineEvaluations: [maxLineEvaluations, countingNumber],
  });
  return {
    name: "lbfgs",
    init(params) {
      const [flat] = ravel(params);
      const rows = zeros([historySize, flat.size], { dtype: flat.dtype });
      return {
        count: zeroCount(),
        pairs: zeroCount(),
        steps: rows,
        changes: rows,
        products: zeros([historySize], { dtype: "float64" }),
        scale: scalar(1, "float64"),
      };
    },
    update(gradients, state, params, { valueAndGradient, value }) {
      const [origin, unravel] = ravel(params);
      const evaluate = (x: Value): Pick<LinePoint, "value" | "gradient"> => {
        const [f, g] = valueAndGradient(unravel(x));
        return { value: f.item(), gradient: ravel(g)[0] };
      };
      let x = origin;
      let at = {
        value: (value ?? valueAndGradient(params)[0]).item(),
        gradient: ravel(gradients)[0],
      };
      let [evaluations, memory] = [1, state];
      let isFirst = state.count.item() === 0;
      for (let iteration = 0; iteration < maxIterations; iteration++) {
        if (!(largest(at.gradient) > toleranceGradient)) break;
        const direction = neg(inverseProduct(memory, at.gradient));
        const start: LinePoint = { ...at, step: 0, slope: dot(at.gradient, direction).item() };
        if (!(start.slope <= -toleranceChange)) break;
        // Nothing is known of the length of the first step: its elements sum up to the learning rate at most.
        const shrink = isFirst ? Math.min(1, 1 / sum(abs(at.gradient)).item()) : 1;
        const reach = largest(direction);
        const along = (step: number): LinePoint => {
          const there = evaluate(add(x, mul(step, direction)));
          return { ...there, step, slope: dot(there.gradient, direction).item() };
        };
        const found = wolfeSearch(along, start, learningRate * shrink, {
          decrease,
          curvature,
          most: maxLineEvaluations,
          narrowest: toleranceChange / reach,
        });
        const { point } = found;
        const step = mul(point.step, direction);
        memory = remembered(memory, step, sub(point.gradient, at.gradient));
        const gain = Math.abs(point.value - at.value);
        x = add(x, step);
        at = point;
        isFirst = false;
        evaluations += found.evaluations;
        if (evaluations >= maxEvaluations) break;
        if (Math.abs(point.step) * reach <= toleranceChange || gain < toleranceChange) break;
      }
      return [unravel(sub(x, origin)), { ...memory, count: add(state.count, 1) }];
    },
  };
}

function largest(x: Value): number {
  return max(abs(x)).item();
}

/** Pairs at almost a right angle, by the cosine, say nothing sure of the curvature; wider ones, that it is negative. */
const LEAST_COSINE = 1e-8;

/** The state with one more pair, the oldest forgotten; the same state where the pair has no positive curvature. */
function remembered(state: LbfgsState, step: Value, change: Value): LbfgsState {
  const product = dot(step, change).item();
  const square = dot(change, change).item();
  if (!(product > LEAST_COSINE * Math.sqrt(square * dot(step, step).item()))) return state;
  const [rows, n] = state.steps.shape as readonly [number, number];
  const pushed = (history: Value, row: Value): Value =>
    concat([slice(history, [1, 0], [rows, n]), reshape(row, [1, n])]);
  const products = state.products.dataSync();
  return {
    ...state,
    pairs: scalar(Math.min(state.pairs.item() + 1, rows), "int32"),
    steps: pushed(state.steps, step),
    changes: pushed(state.changes, change),
    products: adopt(Float64Array.of(...products.slice(1), product), [rows], "float64"),
    scale: scalar(product / square, "float64"),
  };
}

/** H g by the two loops over the pairs, newest first and back. */
function inverseProduct({ pairs, steps, changes, products, scale }: LbfgsState, gradient: Value): Value {
  const [rows, n] = steps.shape as readonly [number, number];
  const used = Array.from({ length: pairs.item() }, (_, i) => rows - 1 - i);
  const row = (history: Value, i: number): Value => reshape(slice(history, [i, 0], [i + 1, n]), [n]);
  const sy = products.dataSync();
  const weights = new Map<number, number>();
  let q = gradient;
  for (const i of used) {
    // a = s q / s y; q <- q - a y
    const a = dot(row(steps, i), q).item() / sy[i]!;
    weights.set(i, a);
    q = sub(q, mul(a, row(changes, i)));
  }
  q = mul(scale.item(), q);
  for (const i of used.toReversed()) {
    // b = y q / s y; q <- q + (a - b) s
    const b = dot(row(changes, i), q).item() / sy[i]!;
    q = add(q, mul(weights.get(i)! - b, row(steps, i)));
  }
  return q;
}
