/**
 * Logistic regression on badly scaled features: heavy ball alone, and inside FOSI, which takes Newton steps along the
 * few directions of large curvature. Prints both curves as text.
 */
import * as ct from "../mod.ts";

const isTiny = process.env["COTANGENT_TINY"] === "1";
const [examples, features, steps] = isTiny ? [40, 6, 20] : [400, 30, 200];

// Features whose scales span two orders of magnitude, and labels from a hidden weight vector.
const float64 = { dtype: "float64" } as const;
const keys = ct.random.split(ct.random.key(1), 3);
const scales = ct.tensor(
  Array.from({ length: features }, (_, j) => 10 ** ((-2 * j) / (features - 1))),
  float64,
);
const X = ct.random.normal(keys[0]!, [examples, features], float64).mul(scales);
const hidden = ct.random.normal(keys[1]!, [features], float64).mul(5);
const y = ct.random.bernoulli(keys[2]!, X.matmul(hidden).sigmoid());

const loss = (w: ct.Value): ct.Value =>
  ct.nn.sigmoidBinaryCrossEntropy(X.matmul(w), y).add(w.mul(w).sum().mul(0.5e-4));
const valueAndGradient = ct.valueAndGrad(loss);

/** The losses along a run. A transformation that needs no curvature ignores the last argument. */
function minimize<S>(optimizer: ct.optim.GradientTransformation<S, ct.optim.FosiExtra>): readonly number[] {
  let w: ct.Value = ct.zeros([features], float64);
  let state = optimizer.init(w);
  return Array.from({ length: steps }, () => {
    const at = w;
    const [value, gradient] = valueAndGradient(at);
    const extra = { hessian: () => ct.operator.hessianOperator(loss, at) };
    const [updates, next] = optimizer.update(gradient, state, at, extra);
    [w, state] = [ct.optim.applyUpdates(at, updates), next];
    return value.item();
  });
}

// The largest step that plain descent bears is 2 / (largest eigenvalue): that limit is what FOSI removes.
const H = ct.operator.hessianOperator(loss, ct.zeros([features], float64));
const steepest = ct.optim.lanczos(H, { k: 1, key: ct.random.key(2) }).values.dataSync()[0]!;
const heavyBall = ct.optim.momentum(1 / steepest, 0.9);
const k = Math.min(8, features - 2);
const curves = {
  "heavy ball": minimize(heavyBall),
  [`fosi, k = ${k}`]: minimize(
    ct.optim.fosi(heavyBall, { k, alpha: 0.5, beta: 0.5, clip: 10, warmup: 5, period: 25 }),
  ),
};

const best = Math.min(...Object.values(curves).flat());
for (const [name, curve] of Object.entries(curves)) {
  console.log(`\n${name}: loss above the best one seen, on a logarithmic scale`);
  for (let i = 0; i < steps; i += Math.ceil(steps / 12)) {
    const gap = curve[i]! - best;
    const bar = "#".repeat(Math.max(0, Math.round(4 * (6 + Math.log10(gap + 1e-12)))));
    console.log(`${String(i).padStart(5)}  ${gap.toExponential(2).padStart(9)}  ${bar}`);
  }
  console.log(`  end  ${(curve.at(-1)! - best).toExponential(2).padStart(9)}`);
}
