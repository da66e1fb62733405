/**
 * The price of curvature in gradients: Hessian-vector products of an MLP on the reference kernels, interleaved with
 * gradients so that both see the same machine. Prints medians and their ratio.
 *
 *     bun bench/curvature.ts
 */
import * as ct from "../mod.ts";

const model = ct.nn.mlp([784, 64, 10], { activation: "relu" });
const [theta, unravel] = ct.tree.ravel(model.init(ct.random.key(0)));
const x = ct.random.uniform(ct.random.key(1), [64, 784]);
const y = ct.tensor(Int32Array.from({ length: 64 }, (_, i) => i % 10));
const loss = (p: ct.Value): ct.Value => ct.nn.softmaxCrossEntropy(model.apply(unravel(p), x), y);
const v = ct.random.normal(ct.random.key(2), [theta.size]);
const H = ct.operator.hessianOperator(loss, theta);

const work: Readonly<Record<string, () => void>> = {
  loss: () => loss(theta),
  gradient: () => ct.grad(loss)(theta),
  "hvp(f)(p, v)": () => ct.hvp(loss)(theta, v),
  "hessianOperator.apply(v)": () => H.apply(v),
};
const times = new Map(Object.keys(work).map((name) => [name, [] as number[]]));
for (let round = 0; round < 60; round++) {
  for (const [name, f] of Object.entries(work)) {
    const start = performance.now();
    f();
    if (round >= 10) times.get(name)!.push(performance.now() - start);
  }
}
const median = (list: readonly number[]): number =>
  list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)]!;
const gradient = median(times.get("gradient")!);
for (const [name, list] of times) {
  console.log(
    `${name.padEnd(26)}${median(list).toFixed(2).padStart(8)} ms  ${(median(list) / gradient).toFixed(2)} gradients`,
  );
}
