/**
 * Whether memory stays bounded where nothing is freed by hand and nothing waits, each work in a fresh process:
 *
 *     bun memory.ts                 all works
 *     bun memory.ts eager           one of them, in this process
 *
 * Prints the resident memory when a tenth of the steps is done and at the end: the two must not differ by more than what
 * a collector leaves behind between two of its runs.
 */
import * as ct from "../../mod.ts";

/** 100,000 steps on 64 KiB tensors, three new ones a step: 19 GB in all. */
function eager(mark: (step: number, steps: number) => void): void {
  const steps = 100_000;
  const target = ct.random.uniform(ct.random.key(0), [128, 128]);
  let x = ct.random.uniform(ct.random.key(1), [128, 128]);
  for (let step = 1; step <= steps; step++) {
    x = x.sub(x.sub(target).mul(0.01));
    mark(step, steps);
  }
}

/** 10,000 steps of Adam on an MLP 784-64-10, batch 64: 1.3 MB of new parameters and moments and 0.6 MB of others a step. */
function training(donate: readonly number[]): (mark: (step: number, steps: number) => void) => void {
  return (mark) => {
    const steps = 10_000;
    const model = ct.nn.mlp([784, 64, 10], { activation: "relu" });
    const x = ct.random.uniform(ct.random.key(1), [64, 784]);
    const y = ct.tensor(Int32Array.from({ length: 64 }, (_, i) => i % 10));
    const optimizer = ct.optim.adam(1e-3);
    type Params = ReturnType<typeof model.init>;
    type State = ReturnType<typeof optimizer.init>;
    const loss = (p: Params): ct.Value => ct.nn.softmaxCrossEntropy(model.apply(p, x), y);
    const plain = (params: Params, state: State): [Params, State, ct.Value] => {
      const [value, gradient] = ct.valueAndGrad(loss)(params);
      const [updates, next] = optimizer.update(gradient, state, params, {});
      return [ct.optim.applyUpdates(params, updates), next, value];
    };
    const step = ct.jit(plain, { donate });
    let params = model.init(ct.random.key(0));
    let state = optimizer.init(params);
    for (let i = 1; i <= steps; i++) {
      [params, state] = step(params, state);
      mark(i, steps);
    }
  };
}

const works: Readonly<Record<string, (mark: (step: number, steps: number) => void) => void>> = {
  eager,
  jit: training([]),
  "jit-donate": training([0, 1]),
};

function run(name: string): void {
  const work = works[name];
  if (!work) throw new Error(`Cannot watch "${name}": one of ${Object.keys(works).join(", ")} is needed`);
  const start = performance.now();
  const megabytes = (): string => `${(process.memoryUsage.rss() / 1e6).toFixed(0)} MB`;
  let tenth = "";
  work((step, steps) => {
    if (step === steps / 10) tenth = megabytes();
  });
  const cells = [
    name,
    tenth,
    megabytes(),
    `${((process.resourceUsage().maxRSS * 1024) / 1e6).toFixed(0)} MB`,
    `${((performance.now() - start) / 1000).toFixed(1)} s`,
  ];
  console.log(`| ${cells.join(" | ")} |`);
}

const [name] = process.argv.slice(2);
if (name !== undefined) run(name);
else {
  console.log("| work | at 10 % | at 100 % | peak | time |\n|-|-|-|-|-|");
  for (const one of Object.keys(works)) {
    const child = Bun.spawn([process.execPath, import.meta.path, one], {
      stdout: "inherit",
      stderr: "inherit",
    });
    await child.exited;
  }
}
