/**
 * The curvature of a small network, before and after training: the ends of the Hessian's spectrum by Lanczos, from
 * Hessian-vector products alone. Training leaves a few large eigenvalues far above a crowd near zero, which is what
 * makes a Newton step in a small space worth its price.
 */
import * as ct from "../mod.ts";

const isTiny = process.env["COTANGENT_TINY"] === "1";
const [points, hidden, steps, k] = isTiny ? [30, 4, 10, 3] : [200, 16, 400, 8];

// Two spirals: class c at angle t + pi c, radius t.
const labels = ct.tensor(
  Array.from({ length: points }, (_, i) => i % 2),
  { dtype: "int32" },
);
const inputs = ct.tensor(
  Array.from({ length: points }, (_, i) => {
    const t = 0.5 + (3 * i) / points;
    return [t * Math.cos(2 * t + Math.PI * (i % 2)), t * Math.sin(2 * t + Math.PI * (i % 2))];
  }),
);

const model = ct.nn.mlp([2, hidden, hidden, 2], { activation: "tanh" });
type Params = ReturnType<typeof model.init>;
const loss = (params: Params): ct.Value =>
  ct.nn.softmaxCrossEntropy(model.apply(params, inputs), labels).add(ct.nn.l2(params).mul(1e-4));

function showSpectrum(title: string, params: Params): void {
  const H = ct.operator.hessianOperator(loss, params);
  const { values, residuals, tridiagonal } = ct.optim.lanczos(H, {
    k,
    l: 2,
    order: Math.min(H.size, 60),
    key: ct.random.key(7),
  });
  const right = ct.nn.accuracy(model.apply(params, inputs), labels).item();
  console.log(`\n${title}: loss ${loss(params).item().toFixed(4)}, ${(100 * right).toFixed(0)} % right`);
  console.log(`${H.size} parameters, ${tridiagonal.diagonal.length} products`);
  const found = [...values.dataSync()];
  const errors = [...residuals.dataSync()];
  const longest = Math.max(...found.map(Math.abs));
  found.forEach((value, i) => {
    const bar = "#".repeat(Math.round((40 * Math.abs(value)) / longest));
    const kind = i < 2 ? "smallest" : "largest ";
    console.log(`  ${kind} ${value.toFixed(5).padStart(10)} ± ${errors[i]!.toExponential(0)}  ${bar}`);
  });
}

let params = model.init(ct.random.key(0));
showSpectrum("before training", params);

const optimizer = ct.optim.adam(0.02);
let state = optimizer.init(params);
for (let i = 0; i < steps; i++) {
  const [updates, next] = optimizer.update(ct.grad(loss)(params), state, params, {});
  [params, state] = [ct.optim.applyUpdates(params, updates), next];
}
showSpectrum(`after ${steps} steps of Adam`, params);
