/**
 * The works of TensorFlow.js on its wasm backend: one thread, because its threaded build starts in browsers only; with
 * `COMPARE_DEVICE=webgpu` on that backend. Everything is eager. Images are channels-last there; inputs and results are
 * permuted outside the measured time.
 */
import { fileURLToPath } from "node:url";
import { isSoftwareName } from "../../core/backends/webgpu/capabilities.ts";
import { provideNavigator } from "./gpu_navigator.ts";
import { queued } from "./gpu_queue.ts";
import {
  adam,
  type ConvSpec,
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
  type Turned,
  uniform,
} from "./inputs.ts";
import { loadPeer, type Tf, type TfTensor, type TfWasm, type TfWebgpu } from "./peers.ts";
import { type Prepared, type Serving, serve, training, type Works } from "./protocol.ts";
import { productElements } from "./reference.ts";

const isGpu = process.env["COMPARE_DEVICE"] === "webgpu";
const navigatorGpu = isGpu ? await provideNavigator() : null;
const tf = await loadPeer<Tf>("@tensorflow/tfjs-core");
for (const part of ["register_all_gradients.js", "public/chained_ops/register_all_chained_ops.js"])
  await loadPeer<unknown>(`@tensorflow/tfjs-core/dist/${part}`);
if (isGpu) {
  await loadPeer<unknown>("@tensorflow/tfjs-backend-webgpu/dist/index.js");
  // Otherwise it computes small arrays that came from the host there, and what follows from them.
  tf.env().set("WEBGPU_CPU_FORWARD", false);
} else {
  const { setWasmPaths } = await loadPeer<TfWasm>("@tensorflow/tfjs-backend-wasm");
  setWasmPaths(
    `${fileURLToPath(new URL("./node_modules/@tensorflow/tfjs-backend-wasm/wasm-out/", import.meta.url))}`,
  );
}
if (!(await tf.setBackend(isGpu ? "webgpu" : "wasm"))) throw new Error("TensorFlow.js does not start");
await tf.ready();

/** The results of a work, whose tensors are freed when they are read. */
async function results(call: () => readonly TfTensor[]): Promise<Float32Array[]> {
  const tensors = tf.tidy(call);
  const data: Float32Array[] = [];
  for (const y of tensors) data.push(await y.data());
  tf.dispose(tensors);
  return data;
}

function work(call: () => readonly TfTensor[], inputs: readonly TfTensor[]): Prepared {
  const run = (): void => tf.dispose(tf.tidy(call));
  const show = async (): Promise<number[]> => probe(...(await results(call)));
  return { mode: "eager", run, show, release: () => tf.dispose(inputs) };
}

function matmul(n: number, turned: Turned = ""): Prepared {
  const a = tf.tensor(uniform(1, n * n, -1, 1), [n, n]);
  const b = tf.tensor(uniform(2, n * n, -1, 1), [n, n]);
  const call = (): TfTensor[] => [tf.matMul(a, b, turned === "tn", turned === "nt")];
  const show = async (): Promise<number[]> => {
    const [c] = await results(call);
    return productElements(n, (row, column) => c![row * n + column]!);
  };
  return { ...work(call, [a, b]), show, bytes: 4 * n * n };
}

function batched(count: number): Prepared {
  const shape = [count, SMALL, SMALL];
  const size = count * SMALL * SMALL;
  const [a, b] = [tf.tensor(uniform(1, size, -1, 1), shape), tf.tensor(uniform(2, size, -1, 1), shape)];
  return { ...work(() => [tf.matMul(a, b)], [a, b]), bytes: 4 * size };
}

function long(name: string, f: (x: TfTensor) => TfTensor, size?: number): Prepared {
  const data = longInput(name, size);
  const x = tf.tensor(data, [data.length]);
  const prepared = work(() => [f(x)], [x]);
  if (name !== "sum") return { ...prepared, bytes: 4 * data.length };
  return { ...prepared, show: async () => [(await results(() => [f(x)]))[0]![0]!] };
}

function chain(x: TfTensor): TfTensor {
  const square = tf.square(x);
  return tf
    .sqrt(tf.exp(tf.neg(square)).add(square))
    .mul(0.5)
    .add(x.div(tf.abs(x).add(1)));
}

function normalize(...[x, scale, offset]: TfTensor[]): TfTensor {
  const centred = x!.sub(tf.mean(x!, -1, true));
  const variance = tf.mean(tf.square(centred), -1, true);
  return centred
    .mul(tf.rsqrt(variance.add(1e-5)))
    .mul(scale!)
    .add(offset!);
}

/** A function of rows and of arrays as long as a row. */
function rowwise(
  f: (...xs: TfTensor[]) => TfTensor,
  rows: number = ROWS,
  others: readonly TfTensor[] = [],
): Prepared {
  const x = tf.tensor(rowsInput(rows), [rows, rows]);
  return { ...work(() => [f(x, ...others)], [x, ...others]), bytes: 4 * rows * rows };
}

/** A scale of 1 and an offset of 0. */
const scaleAndOffset = (rows: number): [TfTensor, TfTensor] => [
  tf.tensor(new Float32Array(rows).fill(1), [rows]),
  tf.tensor(new Float32Array(rows), [rows]),
];

function layerNorm(): Prepared {
  const [x, ct] = [tf.tensor(rowsInput(), [ROWS, ROWS]), tf.tensor(rowsCotangent(), [ROWS, ROWS])];
  const [scale, offset] = scaleAndOffset(ROWS);
  let y: TfTensor;
  const pull = tf.grads((...xs: TfTensor[]): TfTensor => {
    y = tf.keep(normalize(...xs));
    return y;
  });
  const call = (): TfTensor[] => {
    const cotangents = pull([x, scale, offset], ct);
    const copy = y.reshape([ROWS, ROWS]);
    y.dispose();
    return [copy, ...cotangents];
  };
  return work(call, [x, ct, scale, offset]);
}

/** Elements of an array of the given shape in another order of axes. */
function permuted(data: ArrayLike<number>, shape: readonly number[], axes: readonly number[]): Float32Array {
  const strides = shape.map((_, a) => shape.slice(a + 1).reduce((n, m) => n * m, 1));
  const out = new Float32Array(data.length);
  const sizes = axes.map((a) => shape[a]!);
  const index = sizes.map(() => 0);
  for (let i = 0; i < out.length; i++) {
    out[i] = data[index.reduce((at, k, a) => at + k * strides[axes[a]!]!, 0)]!;
    for (let a = index.length - 1; a >= 0 && ++index[a]! === sizes[a]; a--) index[a] = 0;
  }
  return out;
}

function conv(spec: ConvSpec): Prepared {
  const { n, c, s, o } = spec;
  const inputs = convInputs(spec);
  const t = s - 2;
  const x = tf.tensor(permuted(inputs.x, [n, c, s, s], [0, 2, 3, 1]), [n, s, s, c]);
  const w = tf.tensor(permuted(inputs.w, [o, c, 3, 3], [2, 3, 1, 0]), [3, 3, c, o]);
  const call = (): TfTensor[] => [tf.conv2d(x, w, 1, "valid")];
  const show = async (): Promise<number[]> => {
    const [y] = await results(call);
    return probe(permuted(y!, [n, t, t, o], [0, 3, 1, 2]));
  };
  return { ...work(call, [x, w]), show };
}

interface Network {
  readonly params: TfTensor[];
  readonly inputs: readonly TfTensor[];
  loss(): TfTensor;
}

/** Parameters as they are laid out here: kernels `[3, 3, in, out]`, and a matrix whose rows are pixels, channels last. */
function parameters({ input, convs, dense }: NetworkSpec, data: readonly Float32Array[]): TfTensor[] {
  const specs = parameterSpecs({ batch: 1, input, convs, dense });
  const channels = convs.at(-1)?.outputs ?? 1;
  return specs.map(({ shape }, i) => {
    const [a = 1, b = 1, h = 1, w = 1] = shape;
    if (shape.length === 4)
      return tf.variable(tf.tensor(permuted(data[i]!, shape, [2, 3, 1, 0]), [h, w, b, a]));
    const isFirstDense = convs.length > 0 && i === 2 * convs.length;
    const rows = isFirstDense ? permuted(data[i]!, [channels, a / channels, b], [1, 0, 2]) : data[i]!;
    return tf.variable(tf.tensor(rows, shape));
  });
}

function network(spec: NetworkSpec): Network {
  const inputs = networkInputs(spec);
  const { batch } = spec;
  const oneHot = new Float32Array(batch * 10);
  inputs.labels.forEach((label, i) => {
    oneHot[i * 10 + label] = 1;
  });
  const [channels, height, width] = spec.input;
  const x =
    spec.convs.length > 0
      ? tf.tensor(permuted(inputs.x, [batch, channels, height, width], [0, 2, 3, 1]), [
          batch,
          height,
          width,
          channels,
        ])
      : tf.tensor(inputs.x, [batch, channels]);
  const labels = tf.tensor(oneHot, [batch, 10]);
  const params = parameters(spec, inputs.params);
  const loss = (): TfTensor => {
    let y = x;
    for (let i = 0; i < params.length; i += 2) {
      const layer = spec.convs[i / 2];
      if (layer) y = tf.conv2d(y, params[i]!, layer.stride, 1);
      else y = tf.matMul(y.reshape([batch, params[i]!.shape[0]!]), params[i]!);
      y = tf.add(y, params[i + 1]!);
      if (i < params.length - 2) y = tf.relu(y);
    }
    return tf.losses.softmaxCrossEntropy(labels, y);
  };
  return { params, inputs: [x, labels], loss };
}

function adamStep(spec: NetworkSpec): Prepared {
  const make = (): { step(): TfTensor; dispose(): void } => {
    const { params, inputs, loss } = network(spec);
    const optimizer = tf.train.adam(adam.rate, adam.beta1, adam.beta2, adam.epsilon);
    return {
      step: () => optimizer.minimize(loss, true, params),
      dispose() {
        optimizer.dispose();
        tf.dispose([params, inputs]);
      },
    };
  };
  let made = make();
  const begin = (): void => {
    made.dispose();
    made = make();
  };
  const steps = training(begin, () => made.step());
  const run = (): void => steps.run().dispose();
  const show = async (): Promise<number[]> => {
    steps.restart();
    for (let i = 1; i < adam.steps; i++) run();
    return [(await results(() => [steps.run()]))[0]![0]!];
  };
  return { mode: "eager", run, show, release: () => made.dispose() };
}

function gradient(): Prepared {
  const { params, inputs, loss } = network(mlp);
  const call = (): TfTensor[] => Object.values(tf.variableGrads(loss, params).grads);
  const show = async (): Promise<number[]> => [
    Math.hypot(...(await results(call)).map((leaf) => probe(leaf).at(-1)!)),
  ];
  return { ...work(call, [...params, ...inputs]), show };
}

function dispatch(count: number = DISPATCHES): Prepared {
  const [start, y] = [tf.tensor(uniform(1, 64), [8, 8]), tf.tensor(uniform(2, 64), [8, 8])];
  const call = (): TfTensor[] => {
    let x = tf.add(start, y);
    for (let i = 1; i < count; i++) {
      const next = tf.add(x, y);
      x.dispose();
      x = next;
    }
    return [x];
  };
  return work(call, [start, y]);
}

/** 64 numbers are added up and the sum is read. */
function read(): Prepared {
  const x = tf.tensor(uniform(1, 64), [64]);
  const run = async (): Promise<number> => (await results(() => [tf.sum(x)]))[0]![0]!;
  return { mode: "eager", run, show: async () => [await run()], isChained: true, release: () => x.dispose() };
}

const NO_FILTER_GRADIENT = "its wasm backend has no gradient of a kernel (Conv2DBackpropFilter)";
const NO_SECOND = "second derivatives of softmax are missing (tfjs#3252)";
const NO_JIT = "it has no compiler";

const MATMULS = [128, 256, 512, 1024, 2048, 4096];

const works: Works = {
  ...Object.fromEntries(MATMULS.map((n) => [`matmul-${n}`, () => matmul(n)])),
  "matmul-tn": (n = 512) => matmul(n, "tn"),
  "matmul-nt": (n = 512) => matmul(n, "nt"),
  "matmul-batched": (count = 64) => batched(count),
  affine: (size) => long("affine", (x) => x.mul(2).add(1), size),
  chain: NO_JIT,
  "chain:eager": (size) => long("chain", chain, size),
  tanh: () => long("tanh", tf.tanh),
  exp: () => long("exp", tf.exp),
  sum: (size) => long("sum", (x) => tf.sum(x), size),
  softmax: (rows) => rowwise((x) => tf.softmax(x!), rows),
  "layer-norm": layerNorm,
  "layer-norm-forward": (rows = ROWS) => rowwise(normalize, rows, scaleAndOffset(rows)),
  "conv-first": () => conv(convs["conv-first"]!),
  "conv-first:backward": NO_FILTER_GRADIENT,
  "conv-inner": () => conv(convs["conv-inner"]!),
  "conv-inner:backward": NO_FILTER_GRADIENT,
  ...Object.fromEntries(
    Object.entries(networks).map(([name, spec]) => [name, (batch?: number) => adamStep(spec(batch))]),
  ),
  gradient,
  hvp: NO_SECOND,
  "hvp:eager": NO_SECOND,
  dispatch,
  "dispatch:host": (count) => ({ ...dispatch(count), isHostOnly: true }),
  "dispatch:jit": NO_JIT,
  stages: NO_JIT,
  "stages:host": NO_JIT,
  read,
  "read:sync": "it cannot read at once outside browsers",
  compile: NO_JIT,
};

function serving(): Serving {
  if (navigatorGpu === null) return {};
  const backend = tf.backend() as TfWebgpu;
  const settle = async (): Promise<void> => {
    // As its own reads do.
    if (backend.commandEncoder !== null) {
      backend.endComputePassEncoder();
      backend.submitQueue();
    }
    await backend.queue.onSubmittedWorkDone();
  };
  const device = navigatorGpu.name;
  const queue = { isSoftware: isSoftwareName(device), settle, check: navigatorGpu.check };
  return { device, adapt: (prepared) => queued(prepared, queue) };
}

await serve(works, serving());
