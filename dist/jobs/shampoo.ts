/** Shampoo with its inverse roots divided among workers; everything else of it is at each of them. */
import { jit } from "../../autodiff/jit.ts";
import { add } from "../../core/ops.ts";
import { ravel } from "../../core/ravel.ts";
import type { Value } from "../../core/value.ts";
import { type ShampooMatrices, type ShampooState, shampoo, shampooRoot } from "../../optim/shampoo.ts";
import type { Problem } from "../jobs.ts";
import type { ShampooMethod } from "../preconditioned.ts";
import { scoreAndGradientOf } from "./compute.ts";
import type { Preconditioner } from "./preconditioned.ts";

type State = ShampooState;

/** What workers compute for a plan with Shampoo on parameters of which `unravel` makes a tree. */
export function shampooPreconditioner<B>(
  { learningRate, ...options }: ShampooMethod,
  problem: Problem<B>,
  unravel: (theta: Value) => unknown,
): Preconditioner<B> {
  const method = shampoo(learningRate, options);
  const scoreAndGradient = scoreAndGradientOf(problem);
  const initial = method.init(unravel(problem.initial));
  // The p of the p-th roots, as `optim.shampoo` has it.
  const powers = initial.statistics.flatMap((blocks) =>
    blocks.flatMap((block) => block.map(() => 2 * block.length)),
  );
  const moments = new Map<string, (state: State, mean: Value) => readonly Value[]>();
  /** A program for each division: the products that only others need are not computed. */
  const momentsOf = (own: readonly number[]): ((state: State, mean: Value) => readonly Value[]) => {
    const known =
      moments.get(own.join()) ??
      jit((state: State, mean: Value): readonly Value[] => {
        const all = method.moments(state, unravel(mean)).flat(2);
        return own.map((i) => all[i]!);
      });
    moments.set(own.join(), known);
    return known;
  };
  const step = jit((theta: Value, state: State, mean: Value): [Value, State] => {
    const [updates, next] = method.step(unravel(mean), state, unravel(theta));
    return [add(theta, ravel(updates)[0]), next];
  });
  return {
    sizes: initial.statistics.flat(2).map((matrix) => matrix.shape[0]!),
    init: () => initial,
    sample(theta, batch) {
      const [[loss, sums], gradient] = scoreAndGradient(theta, batch);
      return { gradient, factors: null, scores: [loss, ...sums] };
    },
    accumulated: (state) => state,
    roots(state, mean, own) {
      const chosen = momentsOf(own)(state as State, mean);
      return Object.fromEntries(
        own.map((i, j) => [i, shampooRoot(chosen[j]!, powers[i]!, options.epsilon)] as const),
      );
    },
    installed: (state, roots) => ({
      ...(state as State),
      roots: numbered((state as State).roots, roots as Readonly<Record<string, Value>>),
    }),
    step: (theta, state, mean) => step(theta, state as State, mean),
  };
}

/** Matrices by their numbers in the places of a structure. */
function numbered(places: ShampooMatrices, matrices: Readonly<Record<string, Value>>): ShampooMatrices {
  let i = 0;
  return places.map((blocks) => blocks.map((block) => block.map(() => matrices[i++]!)));
}
