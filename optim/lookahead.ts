/** Lookahead: fast weights explore, slow weights follow. */
import { add, equal, mul, sub, where } from "../core/ops.ts";
import { map } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import { checkOptions, countingNumber, unitInterval } from "./ranges.ts";
import { decayOf, type GradientTransformation, type NoExtra, zeroCount } from "./transformation.ts";

/**
 * How often the slow weights follow, and how far.
 *
 * @since 0.2.0
 */
export interface LookaheadOptions {
  /** Steps of the base method between two of the slow weights; default 5. */
  readonly k?: number;
  /** Fraction of the way that the slow weights go; default 0.5. */
  readonly alpha?: number;
}

/**
 * What lookahead remembers.
 *
 * @since 0.2.0
 */
export interface LookaheadState<S> {
  /** Steps since the slow weights moved; i32[]. */
  readonly taken: Value;
  /** The slow weights: a tree like the parameters. */
  readonly slow: unknown;
  readonly base: S;
}

/**
 * Lookahead over any base method: every k steps the parameters go back to a point on the way.
 *
 * `theta <- theta + base(g)`; every k steps `phi <- phi + alpha (theta - phi); theta <- phi`. The state of the base method
 * goes on as it is. Evaluate a model at the slow weights: `state.slow`.
 *
 * Shapes: any tree of float tensors; the state holds one more.
 * Units: k in steps.
 *
 * @throws {RangeError} if an option is out of range
 * @source Zhang et al. 2019, "Lookahead optimizer: k steps forward, 1 step back"
 * @example Two steps forward, one step back
 * ```ts
 * const optimizer = ct.optim.lookahead(ct.optim.sgd(1), { k: 2 });
 * const x = ct.tensor(0);
 * const [first, state] = optimizer.update(ct.tensor(-1), optimizer.init(x), x, {});
 * assertClose(first, 1);
 * assertClose(optimizer.update(ct.tensor(-1), state, first, {})[0], 0);
 * ```
 * @since 0.2.0
 */
export function lookahead<S, X extends object = NoExtra>(
  base: GradientTransformation<S, X>,
  options: LookaheadOptions = {},
): GradientTransformation<LookaheadState<S>, X> {
  const { k = 5, alpha = 0.5 } = options;
  checkOptions("lookahead", { k: [k, countingNumber], alpha: [alpha, unitInterval] });
  return {
    name: `lookahead(${base.name})`,
    ...decayOf([base]),
    init: (params) => ({ taken: zeroCount(), slow: params, base: base.init(params) }),
    update(updates, state, params, extra) {
      const taken = add(state.taken, 1);
      const isDue = equal(taken, k);
      const [made, baseState] = base.update(updates, state.base, params, extra);
      const slow = map(
        (phi, p, u) => where(isDue, add(phi, mul(alpha, sub(add(p!, u!), phi))), phi),
        state.slow,
        params,
        made,
      );
      return [
        map((u, phi, p) => where(isDue, sub(phi!, p!), u), made, slow, params),
        { taken: where(isDue, 0, taken), slow, base: baseState },
      ];
    },
  };
}
