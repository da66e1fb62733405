/** Averages of parameters along a run. */
import { add, mul, sub } from "../core/ops.ts";
import { map } from "../core/tree.ts";
import { checkOptions, fraction } from "./ranges.ts";
import { biasCorrection, type CountState, type GradientTransformation, zeroCount } from "./transformation.ts";

/**
 * The average and how many parameters are in it.
 *
 * @since 0.2.0
 */
export interface EmaState extends CountState {
  /** Average of the parameters, bias-corrected where that was asked for: a tree like them. */
  readonly average: unknown;
}

/**
 * Keeps an exponential moving average of the parameters; updates pass through unchanged. The last part of a chain: it
 * averages what the parameters will be after the updates it sees.
 *
 * `a <- decay a + (1 - decay) p` from zero, divided by `1 - decay^t` so that the weights of all p add up to 1; without
 * correction a starts at the first parameters.
 *
 * Shapes: any tree of float tensors; the state holds one more.
 * Units: those of the parameters.
 *
 * @param decay weight of the past; 0.999 averages about a thousand steps
 * @throws {RangeError} if the decay is not in [0, 1)
 * @source Polyak & Juditsky 1992, "Acceleration of stochastic approximation by averaging"
 * @example The mean of two points, the newer with more weight
 * ```ts
 * const optimizer = ct.optim.chain(ct.optim.sgd(1), ct.optim.ema(0.5));
 * let x: ct.Value = ct.tensor(0);
 * let state = optimizer.init(x);
 * for (const gradient of [-3, -6]) {
 *   const [updates, next] = optimizer.update(ct.tensor(gradient), state, x, {});
 *   [x, state] = [ct.optim.applyUpdates(x, updates), next];
 * }
 * assertClose(x, 9);
 * assertClose(ct.optim.averaged<ct.Value>(state[1]), (3 + 2 * 9) / 3, 1e-6);
 * ```
 * @since 0.2.0
 */
export function ema(
  decay: number,
  options: { readonly biasCorrection?: boolean } = {},
): GradientTransformation<EmaState> {
  const { biasCorrection: isCorrected = true } = options;
  checkOptions("an average", { decay: [decay, fraction] });
  return {
    name: "ema",
    init: (params) => ({ count: zeroCount(), average: params }),
    update(updates, state, params) {
      const count = add(state.count, 1);
      // The corrected average by itself: a <- a + (p - a) (1 - decay) / (1 - decay^t), so the first step forgets the start.
      const average = map(
        (a, p, u) => {
          const weight = isCorrected ? mul(1 - decay, biasCorrection(decay, count, a.dtype)) : 1 - decay;
          return add(a, mul(weight, sub(add(p!, u!), a)));
        },
        state.average,
        params,
        updates,
      );
      return [updates, { count, average }];
    },
  };
}

/**
 * The averaged parameters in the state of `ema`; before the first update, the parameters that it started with.
 *
 * Shapes: like the parameters.
 * Units: those of the parameters.
 *
 * @param state the part of a chain's state that is of `ema`
 * @example No update yet
 * ```ts
 * const x = { w: ct.tensor([1, 2]) };
 * assertClose(ct.optim.averaged<typeof x>(ct.optim.ema(0.9).init(x)).w, [1, 2]);
 * ```
 * @since 0.2.0
 */
export function averaged<P>(state: EmaState): P {
  return state.average as P;
}
