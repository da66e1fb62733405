/**
 * The library under another runtime: one small use of each part, through its front door alone. Run it with Deno (or
 * Bun); it ends with an error when a number is wrong.
 */
import * as ct from "../../mod.ts";

let checks = 0;

function check(condition: boolean, what: string): void {
  checks++;
  if (!condition) throw new Error(`Cannot accept ${what}: the check is false, true is needed`);
}

function close(actual: ct.Value, expected: readonly number[], what: string, tolerance = 1e-5): void {
  const data = [...actual.dataSync()];
  const isClose = data.every(
    (x, i) => Math.abs(x - expected[i]!) <= tolerance * (1 + Math.abs(expected[i]!)),
  );
  check(data.length === expected.length && isClose, `${what}: ${data} against ${expected}`);
}

const f64 = (data: ct.Nested): ct.Value => ct.tensor(data, { dtype: "float64" });

// Tensors: values with shapes, and errors with fields.
const matrix = ct.tensor([
  [1, 2],
  [3, 4],
]);
close(matrix.matmul(matrix), [7, 10, 15, 22], "matmul");
check(String(matrix.aval) === "f32[2,2]", "the text of an abstract value");
try {
  ct.add(ct.ones([2]), ct.ones([3]));
  check(false, "a sum of shapes that differ");
} catch (error) {
  check(error instanceof ct.ShapeError && error.op === "add", "the error of shapes that differ");
}

// Transforms: d x³ = 3 x², d² x³ = 6 x.
const cubes = (x: ct.Value): ct.Value => x.mul(x).mul(x).sum();
const x = f64([1, 2]);
close(ct.grad(cubes)(x), [3, 12], "grad");
close(ct.hvp(cubes)(x, f64([1, 10])), [6, 120], "hvp");
close(ct.jvp(cubes, [x], [f64([1, 1])])[1], [15], "jvp");
close(ct.vmap(ct.grad((t: ct.Value) => t.sin()))(x), [Math.cos(1), Math.cos(2)], "vmap of grad");
ct.checkGrads((t: ct.Value) => t.exp().mul(t.tanh()).sum(), [x]);
checks++;
const program = ct.makeProgram(ct.grad((t: ct.Value) => t.sin()))(f64(0));
check(program.toString().includes("cos"), "a program as text");

// Optimizers: ½ (x₀² + 100 x₁²) has its minimum at 0.
const bowl = (t: ct.Value): ct.Value =>
  t
    .mul(t)
    .mul(f64([0.5, 50]))
    .sum();
const adam = ct.optim.adam(0.1);
let point: ct.Value = f64([1, 1]);
let adamState = adam.init(point);
for (let i = 0; i < 300; i++) {
  const [updates, next] = adam.update(ct.grad(bowl)(point), adamState, point, {});
  point = ct.optim.applyUpdates(point, updates);
  adamState = next;
}
close(point, [0, 0], "the end of Adam", 1e-2);

const newton = ct.optim.fosi(ct.optim.sgd(0.5), { k: 1, alpha: 1, momentum: "none", clip: 1, warmup: 1 });
const start = f64([1, 1]);
const hessian = (): ReturnType<typeof ct.operator.hessianOperator> =>
  ct.operator.hessianOperator(bowl, start);
close(hessian().apply(f64([1, 1])), [1, 100], "the Hessian as an operator");
const [step, state] = newton.update(ct.grad(bowl)(start), newton.init(start), start, { hessian });
close(start.add(step), [0.5, 0], "a step of FOSI");
close(state.values, [100], "the curvature that FOSI found");

// A plan, run in this process: two workers whose quadratics have their minima at 0 and 2 meet at 1.
const plan = ct.dist.makePlan({
  version: 1,
  workers: 2,
  parameters: 1,
  rounds: 40,
  localSteps: 2,
  seed: 0,
  update: { name: "sgd", learningRate: 0.2 },
  sync: { k: "gradient" },
});
const meeting: ct.dist.Problem<number> = {
  initial: f64([5]),
  score: (theta, center) => ({ loss: theta.sub(center).pow(2).sum(), sums: [] }),
  batch: (rank) => 2 * rank,
  curvatureBatch: (rank) => 2 * rank,
};
const setup = ct.dist.trainingSetup(plan, meeting);
const run = await ct.dist.runLocal(setup);
close(run.hub["theta"] as ct.Value, [1], "where two workers meet");
const same = ct.dist.runSequential(setup).hub["theta"] as ct.Value;
check(Object.is(same.item(), (run.hub["theta"] as ct.Value).item()), "the bits of a run without messages");
check(ct.dist.showPlan(plan).startsWith("2 workers"), "a plan as text");
const faulty = ct.dist.simulate({ ...setup, seed: 3, faults: { lossRate: 0.05, crashRate: 0.01 } });
check(faulty.violations.length === 0, `a run with faults: ${faulty.violations.join("; ")}`);

// Bytes, and random bits as JAX makes them (jax.random.bits of key 10).
const { tree } = ct.io.decode<{ w: ct.Value }>(ct.io.encode({ w: matrix }));
close(tree.w, [1, 2, 3, 4], "safetensors, there and back");
check(
  String(ct.random.bits(ct.random.key(10), [4]).toArray()) === "169096361,1572511259,2689743692,2228103506",
  "random bits",
);

// Compiled functions, on large values that live in the memory of the kernels.
const wide = ct.linspace(-1, 1, 100_000);
const curved = ct.jit((x: ct.Value, v: ct.Value) =>
  ct
    .hvp((y: ct.Value) => y.mul(y).mul(y).sum())(x, v)
    .sum(),
);
close(curved(wide, ct.ones([100_000])), [0], "a compiled Hessian-vector product", 1e-2);
close(ct.jit((x: ct.Value) => ct.softmax(x).sum())(wide), [1], "a compiled softmax");
const square = wide.slice([0], [90_000]).reshape([300, 300]);
const [a, b] = [ct.matmul(square, square), ct.matmul(square.transpose(), square.transpose()).transpose()];
close(a.sub(b).norm().div(a.norm()), [0], "a large product and its transpose");
check(curved.stats().traces === 1 && ct.backendInfo()["backend"] === "cpu", "what compiled it");
check(ct.memory()["cpu"]!.liveBytes > 0, "the memory in use");

console.log(`deno smoke: ${checks} checks`);
