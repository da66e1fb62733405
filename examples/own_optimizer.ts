/**
 * Inventing an optimizer. A method is a record of two pure functions, `init` and `update`; once it exists it can be
 * chained with the parts that are there, put inside FOSI, or run on any tree of parameters.
 *
 * The method here follows the sign of a gradient average, with a step that shrinks where signs keep changing.
 */
import * as ct from "../mod.ts";

/** What the method remembers: two trees like the parameters. */
interface SteadyState {
  readonly mean: unknown;
  readonly agreement: unknown;
}

/** m <- b m + (1 - b) g; a <- b a + (1 - b) sign(g); the direction is sign(m) |a|. */
function scaleBySteadiness(beta: number): ct.optim.GradientTransformation<SteadyState> {
  const blend = (old: ct.Value, fresh: ct.Value): ct.Value => old.mul(beta).add(fresh.mul(1 - beta));
  return {
    name: "scaleBySteadiness",
    init: (params) => ({
      mean: ct.tree.map(ct.zerosLike, params),
      agreement: ct.tree.map(ct.zerosLike, params),
    }),
    update(gradients, state) {
      // Rest arguments of `map` are leaves at the same places of the other trees.
      const mean = ct.tree.map((g, m) => blend(m!, g), gradients, state.mean);
      const agreement = ct.tree.map((g, a) => blend(a!, g.sign()), gradients, state.agreement);
      const direction = ct.tree.map((m, a) => m.sign().mul(a!.abs()), mean, agreement);
      return [direction, { mean, agreement }];
    },
  };
}

const steady = (learningRate: number): ct.optim.GradientTransformation<unknown> =>
  ct.optim.chain(
    ct.optim.clipByGlobalNorm(10),
    scaleBySteadiness(0.8),
    ct.optim.scaleByLearningRate(
      ct.optim.exponentialSchedule({ from: learningRate, steps: 100, decay: 0.3 }),
    ),
  ) as ct.optim.GradientTransformation<unknown>;

// Rosenbrock's valley, in a tree of two parameters. The minimum is 0, at (1, 1).
interface Point {
  readonly x: ct.Value;
  readonly y: ct.Value;
}
const valley = ({ x, y }: Point): ct.Value =>
  ct.add(ct.pow(ct.sub(1, x), 2), ct.mul(20, ct.pow(ct.sub(y, ct.mul(x, x)), 2)));

function run(optimizer: ct.optim.GradientTransformation<unknown>, steps: number): readonly number[] {
  let point: Point = { x: ct.tensor(-1), y: ct.tensor(1.5) };
  let state = optimizer.init(point);
  return Array.from({ length: steps }, () => {
    const [value, gradient] = ct.valueAndGrad(valley)(point);
    const [updates, next] = optimizer.update(gradient, state, point, {});
    [point, state] = [ct.optim.applyUpdates(point, updates), next];
    return value.item();
  });
}

const steps = process.env["COTANGENT_TINY"] === "1" ? 30 : 300;
const methods = { steady: steady(0.1), adam: ct.optim.adam(0.1), "heavy ball": ct.optim.momentum(1e-3, 0.9) };
console.log(
  `losses in Rosenbrock's valley\n${"step".padStart(6)}${Object.keys(methods)
    .map((name) => name.padStart(14))
    .join("")}`,
);
const curves = Object.values(methods).map((m) => run(m as ct.optim.GradientTransformation<unknown>, steps));
for (let i = 0; i < steps; i += steps / 10) {
  const row = curves.map((curve) => curve[i]!.toExponential(2).padStart(14)).join("");
  console.log(`${String(i).padStart(6)}${row}`);
}
