/** Gauss-Newton and Fisher matrices as operators, against matrices made of Jacobians and of single gradients. */
import { expect, test } from "bun:test";
import { hessian, jacrev } from "../../autodiff/hvp.ts";
import { jit } from "../../autodiff/jit.ts";
import {
  damped,
  empiricalFisherOperator,
  fisherOperator,
  gaussNewtonOperator,
  hessianOperator,
  type LinearOperator,
  meanOperator,
} from "../../autodiff/operator.ts";
import { gradientOf } from "../../autodiff/vjp.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { eye, tensor } from "../../core/create.ts";
import { DTypeError, ShapeError } from "../../core/errors.ts";
import { bernoulli, categorical, gaussian, type Likelihood } from "../../core/likelihood.ts";
import { add, logSoftmax, matmul, mean, mul, reshape, slice, sub, sum, tanh } from "../../core/ops.ts";
import * as random from "../../core/random.ts";
import { ravel } from "../../core/ravel.ts";
import { leaves } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import { assertClose } from "../support/tolerance.ts";

type Params = { readonly v: Value; readonly w: Value };

const draw = (i: number, shape: readonly number[]): Value =>
  random.normal(random.foldIn(random.key(11), i), shape, { dtype: "float64" });
const paramsAt = (i: number): Params => ({ v: draw(i, [4, 3]), w: draw(i + 1, [2, 4]) });
const model = ({ v, w }: Params, x: Value): Value => matmul(tanh(matmul(x, w)), v);

/** The rows of the matrix, by products with unit vectors. */
function matrixOf(operator: LinearOperator): Value {
  return vmap((v: Value) => operator.apply(v))(eye(operator.size, undefined, { dtype: operator.dtype }));
}

/** A Jacobian of n outputs as a matrix [n, all parameters]. */
function jacobianOf(f: (p: Params) => Value, p: Params): Value {
  const blocks = leaves(jacrev((q: Params) => reshape(f(q), [-1]))(p));
  return vmap((...rows: Value[]) => ravel(rows)[0])(...blocks);
}

test("the Gauss-Newton product is that of the matrix JᵀHJ, plain and compiled, recorded once for all points", () => {
  let recorded = 0;
  const outputs = (p: Params, x: Value): Value => {
    recorded++;
    return model(p, x);
  };
  // Convex in the outputs but not quadratic, and it reads the batch too.
  const loss = (z: Value, x: Value): Value =>
    add(sum(mul(logSoftmax(z), -0.3)), mul(mean(x), sum(mul(z, z))));
  const [compiledOutputs, compiledLoss] = [jit(outputs), jit(loss)];
  for (const i of [0, 10, 20]) {
    const [p, x] = [paramsAt(i), draw(i + 2, [5, 2])];
    const J = jacobianOf((q) => model(q, x), p);
    const H = reshape(hessian((z: Value) => loss(z, x))(model(p, x)), [15, 15]);
    const expected = matmul(matmul(J.transpose(), H), J);
    assertClose(matrixOf(gaussNewtonOperator(outputs, loss, p, x)), expected, "plain");
    const compiled = gaussNewtonOperator(compiledOutputs, compiledLoss, p, x);
    assertClose(matrixOf(compiled), expected, "compiled, transformed");
    const v = ravel(paramsAt(i + 5))[0];
    assertClose(compiled.apply(v), matmul(expected, v), "compiled");
    assertClose(compiled.transpose().apply(v), matmul(expected, v), "transposed");
  }
  const before = recorded;
  gaussNewtonOperator(compiledOutputs, compiledLoss, paramsAt(30), draw(32, [5, 2])).apply(
    ravel(paramsAt(40))[0],
  );
  expect(recorded).toBe(before);
});

test("the Gauss-Newton matrix of a linear model is the Hessian of its loss", () => {
  const x = draw(1, [6, 3]);
  const y = draw(2, [6]);
  const outputs = (w: Value): Value => matmul(x, w);
  const loss = (z: Value): Value => mean(mul(sub(z, y), tanh(sub(z, y))));
  const w = draw(3, [3]);
  const G = matrixOf(gaussNewtonOperator(outputs, loss, w));
  assertClose(G, matrixOf(hessianOperator((p: Value) => loss(outputs(p)), w)), "linear model");
});

test("a loss that is linear in the outputs has the Gauss-Newton matrix zero", () => {
  const w = draw(1, [2]);
  for (const wrap of [<F extends (...args: never[]) => unknown>(f: F): F => f, jit]) {
    const operator = gaussNewtonOperator(
      wrap((p: Value) => tanh(p)),
      wrap((z: Value) => sum(z)),
      w,
    );
    assertClose(operator.apply(w), tensor([0, 0], { dtype: "float64" }), "zero");
  }
});

test("the Fisher matrix is the expectation of g gᵀ over the targets that the model gives", () => {
  const x = draw(2, [1, 2]);
  const p = paramsAt(3);
  const gradientFor = (likelihood: Likelihood, y: Value): Value =>
    ravel(gradientOf((q: Params) => likelihood.loss(model(q, x), y))(p))[0];
  const outer = (g: Value): Value => mul(reshape(g, [-1, 1]), g);
  const z = model(p, x);
  const logits = Array.from(z.dataSync());

  const shares = logits.map((a) => 1 / logits.reduce((total, b) => total + Math.exp(b - a), 0));
  const overClasses = shares
    .map((share, c) => mul(share, outer(gradientFor(categorical, tensor([c], { dtype: "int32" })))))
    .reduce((a, b) => add(a, b));
  assertClose(matrixOf(fisherOperator(model, categorical, p, x)), overClasses, "categorical");

  const overAnswers = Array.from({ length: 8 }, (_, bits) => {
    const y = [0, 1, 2].map((i) => (bits >> i) & 1);
    const chance = y.reduce((c, yi, i) => c / (1 + Math.exp(yi === 1 ? -logits[i]! : logits[i]!)), 1);
    return mul(chance, outer(gradientFor(bernoulli, tensor([y], { dtype: "float64" }))));
  }).reduce((a, b) => add(a, b));
  assertClose(matrixOf(fisherOperator(model, bernoulli, p, x)), overAnswers, "bernoulli");

  // The errors e of a normal distribution have mean 0 and covariance I: ± sqrt(3) along each axis have them too.
  const overErrors = Array.from({ length: 6 }, (_, i) => {
    const e = [0, 1, 2].map((axis) => (axis === i >> 1 ? Math.sqrt(3) * (i % 2 === 0 ? 1 : -1) : 0));
    return mul(1 / 6, outer(gradientFor(gaussian, add(z, tensor([e], { dtype: "float64" })))));
  }).reduce((a, b) => add(a, b));
  assertClose(matrixOf(fisherOperator(model, gaussian, p, x)), overErrors, "gaussian");
});

test("the Fisher matrix of a batch is the mean of those of its examples, and Gauss-Newton's for any targets", () => {
  const x = draw(4, [3, 2]);
  const p = paramsAt(5);
  const outputs = jit(model);
  const y = tensor([2, 0, 1], { dtype: "int32" });
  const ofBatch = matrixOf(fisherOperator(outputs, categorical, p, x));
  const ofExamples = [0, 1, 2].map((i) =>
    matrixOf(fisherOperator(outputs, categorical, p, slice(x, [i, 0], [i + 1, 2]))),
  );
  assertClose(
    ofBatch,
    mul(
      1 / 3,
      ofExamples.reduce((a, b) => add(a, b)),
    ),
    "mean of examples",
  );
  const G = gaussNewtonOperator(model, (z) => categorical.loss(z, y), p, x);
  assertClose(ofBatch, matrixOf(G), "as Gauss-Newton");
});

test("the empirical Fisher matrix is the mean of g gᵀ of the examples", () => {
  const x = draw(6, [5, 2]);
  const p = paramsAt(7);
  const losses = (q: Params, batch: Value): Value => mul(-1, logSoftmax(model(q, batch)).sum({ axis: 1 }));
  const expected = [0, 1, 2, 3, 4]
    .map((i) => {
      const g = ravel(gradientOf((q: Params) => sum(losses(q, slice(x, [i, 0], [i + 1, 2]))))(p))[0];
      return mul(1 / 5, mul(reshape(g, [-1, 1]), g));
    })
    .reduce((a, b) => add(a, b));
  assertClose(matrixOf(empiricalFisherOperator(losses, p, x)), expected, "plain");
  const v = ravel(paramsAt(9))[0];
  assertClose(empiricalFisherOperator(jit(losses), p, x).apply(v), matmul(expected, v), "compiled");
  expect(() => empiricalFisherOperator((q: Params) => sum(losses(q, x)), p)).toThrow(ShapeError);
});

test("compiled products are kept apart by the functions that they are of", () => {
  const w = draw(1, [3]);
  const outputs = [jit((p: Value) => mul(2, p)), jit((p: Value) => mul(3, p))];
  const losses = [jit((z: Value) => mul(0.5, sum(mul(z, z)))), jit((z: Value) => mul(5, sum(mul(z, z))))];
  for (const [i, output] of outputs.entries())
    for (const [j, loss] of losses.entries()) {
      const factor = [4, 9][i]! * [1, 10][j]!;
      assertClose(gaussNewtonOperator(output, loss, w).apply(w), mul(factor, w), "Gauss-Newton");
    }
  // The same functions under other kinds.
  assertClose(hessianOperator(losses[1]!, w).apply(w), mul(10, w), "Hessian");
  assertClose(fisherOperator(outputs[1]!, gaussian, w).apply(w), mul(3, w), "Fisher of three examples");
  assertClose(empiricalFisherOperator(outputs[1]!, w).apply(w), mul(3, w), "empirical Fisher");
});

test("an operator keeps its tags where they hold", () => {
  const G = gaussNewtonOperator(tanh, (z: Value) => sum(mul(z, z)), draw(1, [3]));
  const H = hessianOperator((w: Value) => sum(tanh(w)), draw(1, [3]));
  const tags = (operator: LinearOperator): string => [...operator.tags].join();
  expect(tags(G)).toBe("symmetric,positive semidefinite");
  expect(tags(damped(G, 0.1))).toBe("symmetric,positive semidefinite");
  expect(tags(damped(G, -0.1))).toBe("symmetric");
  expect(tags(meanOperator([G, H]))).toBe("symmetric");
  expect(tags(meanOperator([() => G, G]))).toBe("symmetric,positive semidefinite");
});

test("damping adds a multiple of the identity", () => {
  const H = hessianOperator((w: Value) => sum(mul(w, tanh(w))), draw(1, [3]));
  const expected = add(matrixOf(H), mul(0.7, eye(3, undefined, { dtype: "float64" })));
  assertClose(matrixOf(damped(H, 0.7)), expected, "damped");
  assertClose(matrixOf(damped(H, 0.7).transpose()), expected, "transposed");
  expect(() => damped(H, Number.NaN)).toThrow("Cannot damp an operator: lambda is NaN");
});

test("the mean over the parts of a batch, weighted by their sizes, is the operator of the batch", () => {
  const x = draw(8, [7, 2]);
  const p = paramsAt(9);
  const loss = jit((q: Params, batch: Value): Value => mul(1 / batch.shape[0]!, sum(tanh(model(q, batch)))));
  const expected = matrixOf(hessianOperator(loss, p, x));
  const bounds = [
    [0, 3],
    [3, 6],
    [6, 7],
  ] as const;
  let made = 0;
  const parts = bounds.map(([from, to]) => () => {
    made++;
    return hessianOperator(loss, p, slice(x, [from, 0], [to, 2]));
  });
  const weights = bounds.map(([from, to]) => to - from);
  const lazy = meanOperator(parts, { weights });
  assertClose(matrixOf(lazy), expected, "made for each product");
  assertClose(matrixOf(lazy.transpose()), expected, "transposed");
  const eager = meanOperator(
    parts.map((part) => part()),
    { weights },
  );
  made = 0;
  assertClose(matrixOf(eager), expected, "made once");
  expect(made).toBe(0);
  lazy.apply(ravel(p)[0]);
  expect(made).toBe(3);
  assertClose(
    matrixOf(meanOperator([parts[0]!, parts[1]!], { weights: [1, 0] })),
    matrixOf(parts[0]!()),
    "a part of weight 0 is left out",
  );
});

test("a mean of operators that do not fit is refused", () => {
  const of = (x: Value): LinearOperator => hessianOperator((w: Value) => sum(mul(w, w)), x);
  const [a, b, c] = [of(draw(1, [2])), of(draw(1, [3])), of(tensor([1, 2]))];
  expect(() => meanOperator([])).toThrow("there are 0");
  expect(() => meanOperator([a, b])).toThrow(ShapeError);
  expect(() => meanOperator([a, c])).toThrow(DTypeError);
  expect(() => meanOperator([a, () => b]).apply(draw(1, [2]))).toThrow(ShapeError);
  for (const weights of [[1], [0, 0], [1, -1], [1, Number.NaN]])
    expect(() => meanOperator([a, a], { weights })).toThrow(RangeError);
});

test("vectors of another size and points that are not floats are refused by the name of the operator", () => {
  const G = gaussNewtonOperator(tanh, (z: Value) => sum(mul(z, z)), draw(1, [3]));
  expect(() => G.apply(draw(1, [4]))).toThrow(
    "Cannot apply the Gauss-Newton matrix to f64[4]: f64[3] is needed",
  );
  const whole = tensor([1, 2], { dtype: "int32" });
  expect(() => fisherOperator((w: Value) => w, gaussian, whole)).toThrow(
    "Cannot take the Fisher matrix at i32[2]",
  );
});
