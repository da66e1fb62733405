/**
 * Memory of compiled training steps, of which nothing is disposed: prints one JSON object. The argument is the number
 * of steps.
 */
import * as ct from "../../mod.ts";

export interface Usage {
  /** Of this process. */
  readonly residentBytes: number;
  /** What tensors hold on the device, alive or not yet collected, and what waits to be used again. */
  readonly liveBytes: number;
  readonly pooledBytes: number;
  /** What the driver says is used of the card, by anybody; null where it does not say. */
  readonly cardBytes: number | null;
}
export interface MemoryResult {
  readonly steps: number;
  readonly seconds: number;
  readonly atTenth: Usage;
  readonly atEnd: Usage;
  readonly loss: number;
}

function cardBytes(): number | null {
  try {
    const { stdout, exitCode } = Bun.spawnSync([
      "nvidia-smi",
      "--query-gpu=memory.used",
      "--format=csv,noheader,nounits",
    ]);
    return exitCode === 0 ? Number(stdout.toString().split("\n")[0]) * 2 ** 20 : null;
  } catch {
    return null;
  }
}

function usage(): Usage {
  const { liveBytes = 0, pooledBytes = 0 } = ct.memory()["webgpu"] ?? {};
  return { residentBytes: process.memoryUsage.rss(), liveBytes, pooledBytes, cardBytes: cardBytes() };
}

async function train(steps: number): Promise<MemoryResult> {
  const adapter = process.env["COMPARE_ADAPTER"];
  await ct.init("webgpu", adapter === undefined ? {} : { adapter });
  ct.setDefaultDevice("webgpu");
  const model = ct.nn.mlp([784, 64, 10], { activation: "relu" });
  const x = ct.random.uniform(ct.random.key(1), [64, 784]);
  const y = ct.tensor(Int32Array.from({ length: 64 }, (_, i) => i % 10));
  const optimizer = ct.optim.adam(1e-3);
  type Params = ReturnType<typeof model.init>;
  type State = ReturnType<typeof optimizer.init>;
  const loss = (p: Params): ct.Value => ct.nn.softmaxCrossEntropy(model.apply(p, x), y);
  const step = ct.jit((params: Params, state: State): [Params, State, ct.Value] => {
    const [value, gradient] = ct.valueAndGrad(loss)(params);
    const [updates, next] = optimizer.update(gradient, state, params, {});
    return [ct.optim.applyUpdates(params, updates), next, value];
  });
  let params = model.init(ct.random.key(0));
  let state = optimizer.init(params);
  let value: ct.Value = ct.tensor(0);
  let atTenth: Usage | undefined;
  const start = performance.now();
  for (let i = 1; i <= steps; i++) {
    [params, state, value] = step(params, state);
    // A program looks at its loss from time to time.
    if (i % 100 === 0) await value.data();
    if (i === Math.floor(steps / 10)) atTenth = usage();
  }
  const [last] = await value.data();
  const seconds = (performance.now() - start) / 1000;
  return { steps, seconds, atTenth: atTenth ?? usage(), atEnd: usage(), loss: Number(last) };
}

if (import.meta.main) console.log(JSON.stringify(await train(Number(process.argv[2]))));
