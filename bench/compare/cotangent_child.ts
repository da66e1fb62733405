/**
 * This library's works. Threads and BLAS are chosen by the environment (`COTANGENT_THREADS`, `COTANGENT_BLAS`), and so is
 * the device: with `COMPARE_DEVICE=webgpu` everything is computed there (`COTANGENT_WEBGPU` names the provider).
 */
import { webgpuContext } from "../../core/backends/webgpu/open.ts";
import * as ct from "../../mod.ts";
import { queued } from "./gpu_queue.ts";
import {
  adam,
  cnn,
  convInputs,
  convs,
  DISPATCHES,
  longInput,
  mlp,
  type NetworkSpec,
  networkInputs,
  networks,
  parameterSpecs,
  probe,
  ROWS,
  rowsCotangent,
  rowsInput,
  SMALL,
  STAGE_CALLS,
  stageMatrix,
  type Turned,
  uniform,
} from "./inputs.ts";
import { type Prepared, type Serving, serve, training, type Works } from "./protocol.ts";
import { productElements } from "./reference.ts";

type Values = readonly ct.Value[];
const tensor = (data: ct.TypedArray, shape: readonly number[]): ct.Value => ct.tensor(data, { shape });

/** A work whose result is a list of tensors. */
function work(mode: string, run: () => Values): Prepared {
  return { mode, run, show: async () => probe(...(await Promise.all(run().map(floats)))) };
}

const floats = async (x: ct.Value): Promise<Float32Array> => (await x.data()) as Float32Array;

function matmul(n: number, turned: Turned = ""): Prepared {
  const a = tensor(uniform(1, n * n, -1, 1), [n, n]);
  const b = tensor(uniform(2, n * n, -1, 1), [n, n]);
  const run = (): ct.Value =>
    ct.matmul(turned === "tn" ? a.transpose() : a, turned === "nt" ? b.transpose() : b);
  const show = async (): Promise<number[]> => {
    const c = await floats(run());
    return productElements(n, (row, column) => c[row * n + column]!);
  };
  return { mode: "eager", run, show, bytes: 4 * n * n };
}

function batched(count: number): Prepared {
  const shape = [count, SMALL, SMALL];
  const size = count * SMALL * SMALL;
  const [a, b] = [tensor(uniform(1, size, -1, 1), shape), tensor(uniform(2, size, -1, 1), shape)];
  return { ...work("eager", () => [ct.matmul(a, b)]), bytes: 4 * size };
}

function long(name: string, f: (x: ct.Value) => ct.Value, mode: string, size?: number): Prepared {
  const data = longInput(name, size);
  const x = tensor(data, [data.length]);
  const g = mode === "jit" ? ct.jit(f) : f;
  const run = (): ct.Value => g(x);
  const show = async (): Promise<number[]> => {
    const y = await floats(run());
    return name === "sum" ? [y[0]!] : probe(y);
  };
  return { mode, run, show, bytes: name === "sum" ? 4 : 4 * data.length };
}

const affine = (x: ct.Value): ct.Value => x.mul(2).add(1);
const chain = (x: ct.Value): ct.Value => {
  const square = x.mul(x);
  return ct
    .sqrt(ct.exp(ct.neg(square)).add(square))
    .mul(0.5)
    .add(x.div(ct.abs(x).add(1)));
};

/** A compiled function of rows. */
function rowwise(f: (x: ct.Value) => ct.Value, rows: number = ROWS): Prepared {
  const x = tensor(rowsInput(rows), [rows, rows]);
  const g = ct.jit(f);
  return { ...work("jit", () => [g(x)]), bytes: 4 * rows * rows };
}

function layerNormForward(rows: number = ROWS): Prepared {
  const layer = ct.nn.layerNorm(rows);
  const params = layer.init(ct.random.key(0));
  return rowwise((x) => layer.apply(params, x), rows);
}

function layerNorm(): Prepared {
  const layer = ct.nn.layerNorm(ROWS);
  const [x, cotangent] = [tensor(rowsInput(), [ROWS, ROWS]), tensor(rowsCotangent(), [ROWS, ROWS])];
  const params = layer.init(ct.random.key(0));
  const f = ct.jit((x: ct.Value, scale: ct.Value, offset: ct.Value, cotangent: ct.Value): Values => {
    const [y, pullback] = ct.vjp(
      (x: ct.Value, scale: ct.Value, offset: ct.Value) => layer.apply({ scale, offset }, x),
      x,
      scale,
      offset,
    );
    return [y, ...pullback(cotangent)];
  });
  return work("jit", () => f(x, params.scale, params.offset, cotangent));
}

function conv(name: string, direction: "forward" | "backward"): Prepared {
  const spec = convs[name]!;
  const { n, c, s, o } = spec;
  const inputs = convInputs(spec);
  const x = tensor(inputs.x, [n, c, s, s]);
  const w = tensor(inputs.w, [o, c, 3, 3]);
  const cotangent = tensor(inputs.ct, [n, o, s - 2, s - 2]);
  const apply = (x: ct.Value, w: ct.Value): ct.Value => ct.conv(x, w);
  if (direction === "forward") return work("eager", () => [apply(x, w)]);
  const f = ct.jit((x: ct.Value, w: ct.Value, cotangent: ct.Value): Values => {
    const [y, pullback] = ct.vjp(apply, x, w);
    return [y, ...pullback(cotangent)];
  });
  return work("jit", () => f(x, w, cotangent));
}

interface Network {
  readonly x: ct.Value;
  readonly labels: ct.Value;
  readonly direction: ct.Value[];
  params(): ct.Value[];
  loss(params: ct.Value[], x: ct.Value, labels: ct.Value): ct.Value;
}

function network(spec: NetworkSpec): Network {
  const inputs = networkInputs(spec);
  const shapes = parameterSpecs(spec).map(({ shape }) => shape);
  const [channels, height, width] = spec.input;
  const isImage = spec.convs.length > 0;
  return {
    x: tensor(inputs.x, isImage ? [spec.batch, channels, height, width] : [spec.batch, channels]),
    labels: tensor(inputs.labels, [spec.batch]),
    direction: inputs.direction.map((v, i) => tensor(v, shapes[i]!)),
    params: () => inputs.params.map((p, i) => tensor(p, shapes[i]!)),
    loss(params, x, labels) {
      let y = x;
      const layers = params.length / 2;
      for (let i = 0; i < layers; i++) {
        const [w, b] = [params[2 * i]!, params[2 * i + 1]!];
        const stride = spec.convs[i]?.stride;
        if (stride === undefined) {
          y = ct.reshape(y, [spec.batch, w.shape[0]!]).matmul(w).add(b);
        } else {
          const padding = [
            [1, 1],
            [1, 1],
          ] as const;
          y = ct.conv(y, w, { strides: stride, padding }).add(b.reshape([w.shape[0]!, 1, 1]));
        }
        if (i < layers - 1) y = ct.relu(y);
      }
      return ct.nn.softmaxCrossEntropy(y, labels);
    },
  };
}

async function norm(leaves: Values): Promise<number[]> {
  const data = await Promise.all(leaves.map(floats));
  return [Math.hypot(...data.map((leaf) => probe(leaf).at(-1)!))];
}

function adamStep(spec: NetworkSpec): Prepared {
  const { x, labels, params: freshParams, loss } = network(spec);
  const initial = freshParams();
  const optimizer = ct.optim.adam(adam.rate, adam);
  type State = ReturnType<typeof optimizer.init>;
  const step = ct.jit(
    (params: ct.Value[], state: State, x: ct.Value, labels: ct.Value): [ct.Value[], State, ct.Value] => {
      const [value, gradient] = ct.valueAndGrad(loss)(params, x, labels);
      const [updates, next] = optimizer.update(gradient, state, params, {});
      return [ct.optim.applyUpdates(params, updates), next, value];
    },
    { donate: [0, 1] },
  );
  let params: ct.Value[] = [];
  let state: State;
  const begin = (): void => {
    // Copies: the step is given its parameters for good.
    params = initial.map((p) => p.add(0));
    state = optimizer.init(params);
  };
  const { restart, run } = training(begin, (): ct.Value => {
    let value: ct.Value;
    [params, state, value] = step(params, state, x, labels);
    return value;
  });
  const show = async (): Promise<number[]> => {
    restart();
    for (let i = 1; i < adam.steps; i++) run();
    return [(await floats(run()))[0]!];
  };
  return { mode: "jit", run, show };
}

function gradient(): Prepared {
  const { x, labels, params: freshParams, loss } = network(mlp);
  const params = freshParams();
  const f = ct.jit(ct.grad(loss));
  const run = (): Values => f(params, x, labels);
  return { mode: "jit", run, show: () => norm(run()) };
}

function hvp(spec: NetworkSpec, mode: "jit" | "eager"): Prepared {
  const { x, labels, params: freshParams, direction, loss } = network(spec);
  const params = freshParams();
  const product = ct.hvp(loss);
  const f = mode === "jit" ? ct.jit(product) : product;
  const run = (): Values => f(params, direction, x, labels);
  return { mode, run, show: () => norm(run()) };
}

function dispatch(mode: "jit" | "eager", count: number = DISPATCHES): Prepared {
  const [start, y] = [tensor(uniform(1, 64), [8, 8]), tensor(uniform(2, 64), [8, 8])];
  const f = mode === "eager" ? ct.add : ct.jit((x: ct.Value, y: ct.Value) => x.add(y).mul(0.5));
  return work(mode, () => {
    let x = start;
    for (let i = 0; i < count; i++) x = f(x, y);
    return [x];
  });
}

/** `x <- x y` so many times in one compiled function, none of which can be fused: each is a dispatch. */
function stages(count = 100): Prepared {
  const [start, y] = [tensor(uniform(1, 64), [8, 8]), tensor(stageMatrix(), [8, 8])];
  const f = ct.jit((x: ct.Value, y: ct.Value): ct.Value => {
    for (let i = 0; i < count; i++) x = x.matmul(y);
    return x;
  });
  return work("jit", () => {
    let x = start;
    for (let i = 0; i < STAGE_CALLS; i++) x = f(x, y);
    return [x];
  });
}

/** 64 numbers are added up and the sum is read, which waits for the device. */
function read(how: "async" | "sync"): Prepared {
  const x = tensor(uniform(1, 64), [64]);
  const run = async (): Promise<number> => {
    const sum = x.sum();
    return how === "sync" ? sum.item() : (await floats(sum))[0]!;
  };
  return { mode: "eager", run, show: async () => [await run()], isChained: true };
}

/** The device and how to wait for it; nothing for the host. */
async function serving(): Promise<Serving> {
  if (process.env["COMPARE_DEVICE"] !== "webgpu") return {};
  const adapter = process.env["COMPARE_ADAPTER"];
  await ct.init("webgpu", adapter === undefined ? {} : { adapter });
  ct.setDefaultDevice("webgpu");
  const context = webgpuContext()!;
  const settle = async (): Promise<void> => {
    context.flush();
    await context.device.done();
  };
  const queue = { isSoftware: context.gpu.isSoftware, settle };
  return { device: context.device.name, adapt: (prepared) => queued(prepared, queue) };
}

const MATMULS = [128, 256, 512, 1024, 2048, 4096];

const works: Works = {
  ...Object.fromEntries(MATMULS.map((n) => [`matmul-${n}`, () => matmul(n)])),
  "matmul-tn": (n = 512) => matmul(n, "tn"),
  "matmul-nt": (n = 512) => matmul(n, "nt"),
  "matmul-batched": (count = 64) => batched(count),
  affine: (size) => long("affine", affine, "jit", size),
  chain: (size) => long("chain", chain, "jit", size),
  "chain:eager": (size) => long("chain", chain, "eager", size),
  tanh: () => long("tanh", ct.tanh, "eager"),
  exp: () => long("exp", ct.exp, "eager"),
  sum: (size) => long("sum", ct.sum, "eager", size),
  softmax: (rows) => rowwise((x) => ct.softmax(x), rows),
  "layer-norm": layerNorm,
  "layer-norm-forward": layerNormForward,
  "conv-first": () => conv("conv-first", "forward"),
  "conv-first:backward": () => conv("conv-first", "backward"),
  "conv-inner": () => conv("conv-inner", "forward"),
  "conv-inner:backward": () => conv("conv-inner", "backward"),
  ...Object.fromEntries(
    Object.entries(networks).map(([name, spec]) => [name, (batch?: number) => adamStep(spec(batch))]),
  ),
  gradient,
  hvp: () => hvp(mlp, "jit"),
  "hvp:eager": () => hvp(mlp, "eager"),
  dispatch: (count) => dispatch("eager", count),
  "dispatch:host": (count) => ({ ...dispatch("eager", count), isHostOnly: true }),
  "dispatch:jit": (count) => dispatch("jit", count),
  stages,
  "stages:host": (count) => ({ ...stages(count), isHostOnly: true }),
  read: () => read("async"),
  "read:sync": () => read("sync"),
  compile: () => hvp(cnn, "jit"),
};

await serve(works, await serving());
