/** Conjugate gradients: a linear system solved by products, stopped early, at a radius, or where the curvature is negative. */
import { jit } from "../autodiff/jit.ts";
import type { LinearOperator } from "../autodiff/operator.ts";
import { zerosLike } from "../core/create.ts";
import { ShapeError } from "../core/errors.ts";
import { add, div, dot, mul, stack, sub } from "../core/ops.ts";
import type { Value } from "../core/value.ts";
import { checkOptions, countingNumber, nonNegative, type Range } from "./ranges.ts";

/**
 * When conjugate gradients end.
 *
 * @since 0.2.0
 */
export interface ConjugateGradientOptions {
  /** Size of the residual, relative to the right side, that is small enough; default 1e-5. */
  readonly tolerance?: number;
  /** Products at most; default 250. */
  readonly maxIterations?: number;
  /** No longer solution is wanted: the iteration ends where it leaves this ball; default none. */
  readonly radius?: number;
}

/**
 * How conjugate gradients ended: the residual became small; iterations ran out; the solution reached the radius; a
 * direction has no positive curvature; or a product has no finite number of it.
 *
 * @since 0.2.0
 */
export type ConjugateGradientOutcome = "converged" | "limit" | "radius" | "negative curvature" | "not finite";

/**
 * A solution, and what is known of it.
 *
 * @since 0.2.0
 */
export interface ConjugateGradientResult {
  readonly solution: Value;
  /** b - A x. */
  readonly residual: Value;
  readonly iterations: number;
  readonly outcome: ConjugateGradientOutcome;
  /** How much `x A x / 2 - b x` is below 0: what a step of that length promises to gain. */
  readonly gain: number;
}

/** What one iteration works on. */
interface Iterate {
  readonly x: Value;
  /** b - A x. */
  readonly r: Value;
  readonly p: Value;
  /** r r. */
  readonly rr: Value;
}

/** One iteration with q = A p, and the numbers that the host decides by: p q, and the next r r. */
const advance = jit(({ x, r, p, rr }: Iterate, q: Value): readonly [Iterate, Value] => {
  const pq = dot(p, q);
  const alpha = div(rr, pq);
  const next = sub(r, mul(alpha, q));
  const nextRr = dot(next, next);
  const beta = div(nextRr, rr);
  return [{ x: add(x, mul(alpha, p)), r: next, p: add(next, mul(beta, p)), rr: nextRr }, stack([pq, nextRr])];
});

const radiusRange: Range = { text: "a positive number", holds: (x) => x > 0 };

/**
 * Solves `A x = b` for a symmetric operator by conjugate gradients from zero, with the truncations that a Newton method
 * needs: within a radius the iteration follows the path of growing length and ends on the ball's surface, along the last
 * direction, also where that has negative curvature.
 *
 * Without a radius it ends before a direction of negative curvature; if that is the first, the solution is b itself: a step
 * downhill. One number pair is read per iteration.
 *
 * Cost: one product and about 10 n flops per iteration; memory: four vectors.
 * Shapes: `b`, solution and residual: `[n]`, n the size of the operator.
 * Units: none.
 *
 * @param operator a symmetric operator
 * @param b the right side
 * @throws {RangeError} if an option is out of range
 * @throws {ShapeError} if `b` does not fit the operator
 * @example Two unknowns, two iterations
 * ```ts
 * const A = ct.operator.hessianOperator((x: ct.Value) => x.mul(x).mul(ct.tensor([1, 5])).sum(), ct.tensor([0, 0]));
 * const { solution, iterations } = ct.optim.conjugateGradient(A, ct.tensor([2, 10]));
 * assertClose(solution, [1, 1]);
 * assert(iterations <= 2);
 * ```
 * @source Hestenes & Stiefel 1952, "Methods of conjugate gradients for solving linear systems"
 * @source Steihaug 1983, "The conjugate gradient method and trust regions in large scale optimization"
 * @since 0.2.0
 */
export function conjugateGradient(
  operator: LinearOperator,
  b: Value,
  options: ConjugateGradientOptions = {},
): ConjugateGradientResult {
  const { tolerance = 1e-5, maxIterations = 250, radius = Infinity } = options;
  checkOptions("conjugate gradients", {
    tolerance: [tolerance, nonNegative],
    maxIterations: [maxIterations, countingNumber],
    radius: [radius, radiusRange],
  });
  if (b.ndim !== 1 || b.size !== operator.size || b.dtype !== operator.dtype)
    throw new ShapeError(
      "conjugateGradient",
      `Cannot solve with ${b.aval}: the operator has size ${operator.size} and type ${operator.dtype}, such a vector is needed`,
    );
  let at: Iterate = { x: zerosLike(b), r: b, p: b, rr: dot(b, b) };
  let rr = at.rr.item();
  const small = tolerance * tolerance * rr;
  // |x|², x p and |p|² by their recurrences: r is orthogonal to all earlier directions.
  let [xx, xp, pp] = [0, 0, rr];
  const result = (outcome: ConjugateGradientOutcome, iterations: number, { x, r } = at) => ({
    solution: x,
    residual: r,
    iterations,
    outcome,
    gain: gainOf(x, b, r),
  });
  if (!Number.isFinite(rr)) return result("not finite", 0);
  if (rr <= small) return result("converged", 0);
  for (let iteration = 1; iteration <= maxIterations; iteration++) {
    const q = operator.apply(at.p);
    const [next, numbers] = advance(at, q);
    const [pq, nextRr] = numbers.dataSync() as unknown as readonly [number, number];
    if (!Number.isFinite(pq)) return result("not finite", iteration);
    const alpha = rr / pq;
    const isNegative = !(pq > 0);
    if (isNegative && radius === Infinity) {
      const moved = iteration === 1 ? { ...at, x: b, r: sub(b, q) } : at;
      return result("negative curvature", iteration, moved);
    }
    const nextXx = xx + 2 * alpha * xp + alpha * alpha * pp;
    if (isNegative || nextXx >= radius * radius) {
      // |x + t p| = radius for the t > 0
      const room = radius * radius - xx;
      const t = room / (xp + Math.sqrt(xp * xp + pp * room));
      const moved = { ...at, x: add(at.x, mul(t, at.p)), r: sub(at.r, mul(t, q)) };
      return result(isNegative ? "negative curvature" : "radius", iteration, moved);
    }
    if (!Number.isFinite(nextRr)) return result("not finite", iteration);
    const beta = nextRr / rr;
    at = next;
    xx = nextXx;
    xp = beta * (xp + alpha * pp);
    pp = nextRr + beta * beta * pp;
    rr = nextRr;
    if (rr <= small) return result("converged", iteration);
  }
  return result("limit", maxIterations);
}

/** b x - x A x / 2 = x (b + r) / 2, as A x = b - r. */
function gainOf(x: Value, b: Value, r: Value): number {
  return dot(x, add(b, r)).item() / 2;
}
