/**
 * The FOSI update where no worker has all of V. Two sums over workers take the place of the products with V:
 *
 *     g1 = Vᵀ V g;  vel <- momentum(g1, vel);  raw = base(g - g1)            after the first sum
 *     theta += s (raw - Vᵀ V raw) - alpha Vᵀ (r ∘ V vel)                after the second
 *
 * With rows of V the sums are over vectors of n numbers, with columns over k + l and 2 (k + l) numbers.
 */
import { add, concat, matmul, mul, slice, sub } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { accumulated, type FosiState } from "../../optim/fosi_state.ts";
import type { CurvaturePlan } from "../plan.ts";
import type { baseOf } from "./method.ts";

/** The state of a worker: its rows of V and r, everything else whole; or its columns of all that has columns. */
type State = FosiState<unknown>;

/** One update in three pieces, with a sum over workers between them. */
export interface CutUpdate {
  /** This worker's part of the first sum. */
  inside(state: State, gradient: Value): Value;
  /** After the first sum: the next state, the direction of the base, and this worker's part of the second sum. */
  direction(
    state: State,
    gradient: Value,
    inside: Value,
    theta: Value,
  ): readonly [state: State, raw: Value, part: Value];
  /** After the second sum: what is added to the parameters. */
  update(state: State, raw: Value, correction: Value): Value;
}

/** The products with V, by how it is cut. */
interface Cut {
  inside(space: State, g: Value): Value;
  /** g1 from the first sum. */
  project(space: State, sum: Value): Value;
  correction(space: State, velocity: Value, raw: Value, alpha: number): Value;
  update(space: State, raw: Value, sum: Value, alpha: number): Value;
}

const cuts: Readonly<Record<"rows" | "columns", Cut>> = {
  // Worker j has the rows Vⱼ and their rates rⱼ: Vᵀ V = Σ Vⱼᵀ Vⱼ.
  rows: {
    inside: ({ vectors: V }, g) => matmul(matmul(V, g), V),
    project: (_space, sum) => sum,
    // Vⱼᵀ (s Vⱼ raw + alpha rⱼ ∘ Vⱼ vel): the projection and the Newton step share one reduction.
    correction({ vectors: V, rates, scale }, velocity, raw, alpha) {
      const newton = mul(alpha, mul(rates, matmul(V, velocity)));
      return matmul(add(mul(scale, matmul(V, raw)), newton), V);
    },
    update: ({ scale }, raw, sum) => sub(mul(scale, raw), sum),
  },
  // Worker p has the columns Vₚ of all rows: V g = Σ Vₚ gₚ, and the rest is local to the columns.
  columns: {
    inside: ({ vectors: V }, g) => matmul(V, g),
    project: ({ vectors: V }, sum) => matmul(sum, V),
    correction: ({ vectors: V }, velocity, raw) => concat([matmul(V, raw), matmul(V, velocity)]),
    update({ vectors: V, rates, scale }, raw, sum, alpha) {
      const pairs = V.shape[0]!;
      const [inRaw, inVelocity] = [slice(sum, [0], [pairs]), slice(sum, [pairs], [2 * pairs])];
      const db = sub(raw, matmul(inRaw, V));
      const d1 = matmul(mul(rates, inVelocity), V);
      return sub(mul(scale, db), mul(alpha, d1));
    },
  },
};

/** The update of a curvature that is cut over workers. */
export function cutUpdate(
  { alpha, beta, momentum }: CurvaturePlan,
  layout: "rows" | "columns",
  base: ReturnType<typeof baseOf>,
): CutUpdate {
  const cut = cuts[layout];
  return {
    inside: cut.inside,
    direction(state, gradient, inside, theta) {
      const g1 = cut.project(state, inside);
      const velocity = accumulated(momentum, beta, g1, state.velocity);
      const [raw, baseState] = base.update(sub(gradient, g1), state.base, theta, {});
      const next = { ...state, count: add(state.count, 1), base: baseState, velocity };
      return [next, raw, cut.correction(state, velocity, raw, alpha)];
    },
    update: (state, raw, correction) => cut.update(state, raw, correction, alpha),
  };
}
