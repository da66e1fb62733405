/**
 * Consensus ADMM as a plan: workers with different data take local steps and agree once per round. The plan prints
 * itself and runs here in one process; then the same plan runs on a simulated network that loses and repeats messages,
 * with peers that crash, and ends with the same bits.
 */
import * as ct from "../mod.ts";

const isTiny = process.env["COTANGENT_TINY"] === "1";
const [workers, rows, n, rounds] = isTiny ? [2, 8, 3, 4] : [4, 40, 10, 40];
const float64 = { dtype: "float64" } as const;

// Worker i sees A_i w* + noise; the rows of different workers point different ways.
const hidden = ct.random.normal(ct.random.key(1), [n], float64);
const parts = Array.from({ length: workers }, (_, rank) => {
  const keys = ct.random.split(ct.random.foldIn(ct.random.key(2), rank), 3);
  const slant = ct.exp(ct.random.normal(keys[0]!, [n], float64));
  const A = ct.random.normal(keys[1]!, [rows, n], float64).mul(slant);
  return { A, b: A.matmul(hidden).add(ct.random.normal(keys[2]!, [rows], float64).mul(0.1)) };
});
type Part = (typeof parts)[number];
const squares = (w: ct.Value, { A, b }: Part): ct.Value => ct.nn.mse(A.matmul(w), b).mul(0.5);

const problem: ct.dist.Problem<Part> = {
  initial: ct.zeros([n], float64),
  score: (w, part) => ({ loss: squares(w, part), sums: [] }),
  batch: (rank) => parts[rank]!,
  curvatureBatch: (rank) => parts[rank]!,
  evaluate: (w) => [parts.reduce((sum, part) => sum + squares(w, part).item(), 0) / workers],
};

const plan = ct.dist.makePlan({
  version: 1,
  workers,
  parameters: n,
  rounds,
  localSteps: 5,
  seed: 0,
  update: { name: "sgd", learningRate: 0.02 },
  sync: { k: "consensus", sigma: 1, relative: false },
  evaluateEvery: Math.ceil(rounds / 8),
});
console.log(ct.dist.showPlan(plan, float64));

const setup = ct.dist.trainingSetup(plan, problem);
const { hub, reason } = await ct.dist.runLocal(setup);
const theta = hub["theta"] as ct.Value;
const mean = (w: ct.Value): number => problem.evaluate!(w)[0]!;
const distance = theta.sub(hidden).norm().item() / hidden.norm().item();
console.log(
  `\nin one process: ${reason}, mean loss ${mean(problem.initial).toFixed(4)} -> ${mean(theta).toFixed(4)}`,
);
console.log(`distance from the hidden weights: ${(100 * distance).toFixed(2)} %`);

const faults = { lossRate: 0.1, duplicateRate: 0.1, maxDelay: 5, crashRate: 0.003 };
for (const seed of [1, 2, 3]) {
  const result = ct.dist.simulate({ ...setup, seed, faults });
  if (result.violations.length > 0) throw new Error(ct.dist.report(result));
  const { messages, lost, duplicated, crashes } = result.stats;
  const end = result.values?.hub["theta"] as ct.Value;
  const bits = (w: ct.Value): string => new Uint8Array(w.dataSync().buffer).toHex();
  console.log(
    `seed ${seed}: ${messages} messages, ${lost} lost, ${duplicated} repeated, ${crashes} crashes; ` +
      `${bits(end) === bits(theta) ? "the same bits" : "OTHER BITS"}`,
  );
  if (bits(end) !== bits(theta)) process.exitCode = 1;
}
