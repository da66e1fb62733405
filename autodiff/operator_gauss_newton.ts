/** Curvature of a model's outputs under a loss: the Gauss-Newton matrix, and the two matrices named after Fisher. */
import { ShapeError } from "../core/errors.ts";
import type { Likelihood } from "../core/likelihood.ts";
import { mul, stopGradient, sum } from "../core/ops.ts";
import { deadCodeEliminated } from "../core/passes/dce.ts";
import { evalProgram, type Program, Recorder } from "../core/program.ts";
import * as random from "../core/random.ts";
import { ravel } from "../core/ravel.ts";
import { currentTrace, withTrace } from "../core/trace.ts";
import type { Value } from "../core/value.ts";
import { isCompiled } from "./jit.ts";
import { linearizeLeaves } from "./linearize.ts";
import type { LinearOperator } from "./operator_algebra.ts";
import { operatorAt } from "./operator_point.ts";
import { transposeProgram } from "./transpose.ts";
import { gradientOf } from "./vjp.ts";

/**
 * The generalized Gauss-Newton matrix at a point, as an operator on raveled vectors: `Jᵀ H J` with J the Jacobian of the
 * outputs by the parameters and H the Hessian of the loss by the outputs.
 *
 * It is the Hessian of `loss(outputs(params))` with the outputs replaced by their linear approximation, so it is positive
 * semidefinite where the loss is convex in the outputs. Outputs and loss are linearized once at the point. Where both
 * functions were made by `jit`, products are recorded and compiled once for all points and batches of one shape.
 *
 * Shapes: `size` is the number of elements of `params`; `apply` takes and returns `[size]`.
 * Units: none.
 * Determinism: the same bits for the same inputs on one backend.
 *
 * @param outputs the model: a tensor from a tree and the batch
 * @param loss scalar function of the outputs and the batch, convex in the outputs
 * @param params the point, a tree of one float type
 * @param rest later arguments of both functions: the batch
 * @throws {ShapeError} if the loss is not a scalar, or a vector has another size
 * @throws {DTypeError} if the leaves are not of one float type
 * @example Least squares: JᵀJ
 * ```ts
 * const outputs = (w: ct.Value, x: ct.Value) => x.matmul(w);
 * const loss = (z: ct.Value) => z.mul(z).sum().mul(0.5);
 * const G = ct.operator.gaussNewtonOperator(outputs, loss, ct.tensor([1, 1]), ct.tensor([[1, 2], [0, 1]]));
 * assertClose(G.apply(ct.tensor([1, 0])), [1, 2]);
 * ```
 * @source Schraudolph 2002, "Fast curvature matrix-vector products for second-order gradient descent"
 * @since 0.2.0
 */
export function gaussNewtonOperator<P, A extends readonly unknown[]>(
  outputs: (p: P, ...rest: A) => Value,
  loss: (z: Value, ...rest: A) => Value,
  params: P,
  ...rest: A
): LinearOperator {
  return operatorAt<P, A>(
    {
      op: "gaussNewtonOperator",
      noun: "Gauss-Newton matrix",
      tags: ["symmetric", "positive semidefinite"],
      keys: isCompiled(outputs) && isCompiled(loss) ? [gaussNewtonOperator, outputs, loss] : null,
      derive: (at, batch) => linearizedProduct(outputs, (z) => loss(z, ...batch), at, batch),
    },
    params,
    rest,
  );
}

/**
 * The Fisher matrix of a model at a point, as an operator on raveled vectors: the mean over the batch of `g gᵀ` where g is
 * the gradient of an example's loss for a target drawn from what the model says, in expectation over these targets.
 *
 * It is computed as the Gauss-Newton matrix of the likelihood's loss, which is the same where the outputs are natural
 * parameters: then the Hessian by the outputs is the same for all targets. So it is for `categorical`, `bernoulli` and
 * `gaussian`; another likelihood must have this property. `outputs` made by `jit` is recorded and compiled once for all
 * points and batches of one shape.
 *
 * Shapes: `size` is the number of elements of `params`; `apply` takes and returns `[size]`.
 * Units: none.
 *
 * @param outputs the model: what the likelihood needs from a tree and the inputs of a batch
 * @param likelihood its loss is a mean over the batch; no targets are needed
 * @param params the point, a tree of one float type
 * @param rest later arguments of `outputs`: the inputs
 * @throws {ShapeError} if a vector has another size
 * @throws {DTypeError} if the leaves are not of one float type
 * @example One normal number with mean w x: the Fisher information of w is the mean of x²
 * ```ts
 * const outputs = (w: ct.Value, x: ct.Value) => x.mul(w);
 * const F = ct.operator.fisherOperator(outputs, ct.nn.gaussian, ct.tensor([5]), ct.tensor([[1], [3]]));
 * assertClose(F.apply(ct.tensor([1])), [5]);
 * ```
 * @source Martens 2020, "New insights and perspectives on the natural gradient method"
 * @since 0.2.0
 */
export function fisherOperator<P, A extends readonly unknown[]>(
  outputs: (p: P, ...rest: A) => Value,
  likelihood: Likelihood,
  params: P,
  ...rest: A
): LinearOperator {
  return operatorAt<P, A>(
    {
      op: "fisherOperator",
      noun: "Fisher matrix",
      tags: ["symmetric", "positive semidefinite"],
      keys: isCompiled(outputs) ? [fisherOperator, outputs, likelihood] : null,
      derive: (at, batch) => linearizedProduct(outputs, lossOfAnyTargets(likelihood), at, batch),
    },
    params,
    rest,
  );
}

/** The loss for some targets: of natural parameters the Hessian is the same for all. */
function lossOfAnyTargets(likelihood: Likelihood): (z: Value) => Value {
  return (z) => likelihood.loss(z, likelihood.sample(random.key(0), stopGradient(z)));
}

/**
 * The empirical Fisher matrix at a point, as an operator on raveled vectors: the mean over the batch of `g gᵀ` where g is
 * the gradient of an example's own loss. It is cheap and positive semidefinite, and in general neither the Fisher matrix
 * nor near the Hessian: its targets are those of the data.
 *
 * Shapes: `losses` returns one number per example, `[n]`; `size` is the number of elements of `params`; `apply` takes
 * and returns `[size]`.
 * Units: none.
 *
 * @param losses the loss of every example, not their mean; made by `jit` it is compiled once for all points and batches
 * @param params the point, a tree of one float type
 * @param rest later arguments of `losses`: the batch
 * @throws {ShapeError} if `losses` returns a scalar, or a vector has another size
 * @throws {DTypeError} if the leaves are not of one float type
 * @example Gradients 2 and 4: the mean of their squares
 * ```ts
 * const losses = (w: ct.Value, x: ct.Value) => x.mul(w.sum());
 * const F = ct.operator.empiricalFisherOperator(losses, ct.tensor([0]), ct.tensor([2, 4]));
 * assertClose(F.apply(ct.tensor([1])), [10]);
 * ```
 * @source Kunstner et al. 2019, "Limitations of the empirical Fisher approximation"
 * @since 0.2.0
 */
export function empiricalFisherOperator<P, A extends readonly unknown[]>(
  losses: (p: P, ...rest: A) => Value,
  params: P,
  ...rest: A
): LinearOperator {
  return operatorAt<P, A>(
    {
      op: "empiricalFisherOperator",
      noun: "empirical Fisher matrix",
      tags: ["symmetric", "positive semidefinite"],
      keys: isCompiled(losses) ? [empiricalFisherOperator, losses] : null,
      derive: (at, batch) => linearizedProduct(losses, halfMeanSquare, at, batch),
    },
    params,
    rest,
  );
}

/** Its Hessian is I / n, so the Gauss-Newton matrix of numbers with gradients g is the mean of g gᵀ. */
function halfMeanSquare(losses: Value): Value {
  if (losses.ndim === 0)
    throw new ShapeError(
      "empiricalFisherOperator",
      `Cannot take the empirical Fisher matrix of a function that returns ${losses.aval}: the loss of each example is needed`,
    );
  return mul(0.5 / losses.size, sum(mul(losses, losses)));
}

/** v -> Jᵀ H J v as a program of v: both linearized at the point, the outer one transposed. */
function linearizedProduct<P, A extends readonly unknown[]>(
  outputs: (p: P, ...rest: A) => Value,
  loss: (z: Value) => Value,
  params: P,
  rest: A,
): Program {
  const [flat, unravel] = ravel(params);
  const model = linearizeLeaves((x) => [outputs(unravel(x!), ...rest)], [flat]);
  const gradient = gradientOf(loss);
  const slope = linearizeLeaves((z) => [gradient(z!)], [model.outs[0]!]);
  const J = deadCodeEliminated(model.program);
  const H = deadCodeEliminated(slope.program);
  const recorder = new Recorder("gaussNewton", { parent: currentTrace(), linearOnly: true });
  const v = recorder.input(flat.aval);
  const product = withTrace(recorder, () => {
    const [dz] = evalProgram(J, [v]);
    const [dg] = dz ? evalProgram(H, [dz]) : [null];
    return dg ? transposeProgram(J, [dg])[0]! : null;
  });
  return deadCodeEliminated(recorder.finish([v], [product]));
}
