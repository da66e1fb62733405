/**
 * The works of TensorFlow.js on its wasm backend: one thread, because its threaded build starts in browsers only.
 * Everything is eager. Images are channels-last there; inputs and results are permuted outside the measured time.
 */
import { fileURLToPath } from "node:url";
import {
  adam,
  type ConvSpec,
  convInputs,
  convs,
  DISPATCHES,
  longInput,
  mlp,
  networkInputs,
  parameterSpecs,
  probe,
  ROWS,
  rowsCotangent,
  rowsInput,
  uniform,
} from "./inputs.ts";
import { loadPeer, type Tf, type TfTensor, type TfWasm } from "./peers.ts";
import { type Prepared, serve, training, type Works } from "./protocol.ts";
import { productElements } from "./reference.ts";

const tf = await loadPeer<Tf>("@tensorflow/tfjs-core");
for (const part of ["register_all_gradients.js", "public/chained_ops/register_all_chained_ops.js"])
  await loadPeer<unknown>(`@tensorflow/tfjs-core/dist/${part}`);
const { setWasmPaths } = await loadPeer<TfWasm>("@tensorflow/tfjs-backend-wasm");
setWasmPaths(
  `${fileURLToPath(new URL("./node_modules/@tensorflow/tfjs-backend-wasm/wasm-out/", import.meta.url))}`,
);
await tf.setBackend("wasm");
await tf.ready();

function work(call: () => readonly TfTensor[], inputs: readonly TfTensor[]): Prepared {
  const run = (): void => tf.dispose(tf.tidy(call));
  const show = (): number[] => {
    const results = tf.tidy(call);
    const shown = probe(...results.map((y) => y.dataSync()));
    tf.dispose(results);
    return shown;
  };
  return { mode: "eager", run, show, release: () => tf.dispose(inputs) };
}

function matmul(n: number): Prepared {
  const a = tf.tensor(uniform(1, n * n, -1, 1), [n, n]);
  const b = tf.tensor(uniform(2, n * n, -1, 1), [n, n]);
  const show = (): number[] => {
    const y = tf.matMul(a, b);
    const c = y.dataSync();
    const shown = productElements(n, (row, column) => c[row * n + column]!);
    y.dispose();
    return shown;
  };
  return { ...work(() => [tf.matMul(a, b)], [a, b]), show };
}

function long(name: string, f: (x: TfTensor) => TfTensor): Prepared {
  const data = longInput(name);
  const x = tf.tensor(data, [data.length]);
  const prepared = work(() => [f(x)], [x]);
  return name === "sum" ? { ...prepared, show: () => [tf.tidy(() => f(x).dataSync()[0]!)] } : prepared;
}

function chain(x: TfTensor): TfTensor {
  const square = tf.square(x);
  return tf
    .sqrt(tf.exp(tf.neg(square)).add(square))
    .mul(0.5)
    .add(x.div(tf.abs(x).add(1)));
}

function layerNorm(): Prepared {
  const [x, ct] = [tf.tensor(rowsInput(), [ROWS, ROWS]), tf.tensor(rowsCotangent(), [ROWS, ROWS])];
  const [scale, offset] = [
    tf.tensor(new Float32Array(ROWS).fill(1), [ROWS]),
    tf.tensor(new Float32Array(ROWS), [ROWS]),
  ];
  let y: TfTensor;
  const normalize = (...[x, scale, offset]: TfTensor[]): TfTensor => {
    const centred = x!.sub(tf.mean(x!, -1, true));
    const variance = tf.mean(tf.square(centred), -1, true);
    y = tf.keep(
      centred
        .mul(tf.rsqrt(variance.add(1e-5)))
        .mul(scale!)
        .add(offset!),
    );
    return y;
  };
  const pull = tf.grads(normalize);
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
  const show = (): number[] =>
    tf.tidy(() => probe(permuted(call()[0]!.dataSync(), [n, t, t, o], [0, 3, 1, 2])));
  return { ...work(call, [x, w]), show };
}

interface Network {
  readonly params: TfTensor[];
  readonly inputs: readonly TfTensor[];
  loss(): TfTensor;
}

function network(): Network {
  const inputs = networkInputs(mlp);
  const oneHot = new Float32Array(mlp.batch * 10);
  inputs.labels.forEach((label, i) => {
    oneHot[i * 10 + label] = 1;
  });
  const x = tf.tensor(inputs.x, [mlp.batch, mlp.input[0]]);
  const labels = tf.tensor(oneHot, [mlp.batch, 10]);
  const params = parameterSpecs(mlp).map(({ shape }, i) => tf.variable(tf.tensor(inputs.params[i]!, shape)));
  const loss = (): TfTensor => {
    let y = x;
    for (let i = 0; i < params.length; i += 2) {
      y = tf.add(tf.matMul(y, params[i]!), params[i + 1]!);
      if (i < params.length - 2) y = tf.relu(y);
    }
    return tf.losses.softmaxCrossEntropy(labels, y);
  };
  return { params, inputs: [x, labels], loss };
}

function adamStep(): Prepared {
  const make = (): { step(): TfTensor; dispose(): void } => {
    const { params, inputs, loss } = network();
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
  const show = (): number[] => {
    steps.restart();
    for (let i = 1; i < adam.steps; i++) run();
    return [steps.run().dataSync()[0]!];
  };
  return { mode: "eager", run, show, release: () => made.dispose() };
}

function gradient(): Prepared {
  const { params, inputs, loss } = network();
  const call = (): TfTensor[] => Object.values(tf.variableGrads(loss, params).grads);
  const show = (): number[] =>
    tf.tidy(() => [Math.hypot(...call().map((leaf) => probe(leaf.dataSync()).at(-1)!))]);
  return { ...work(call, [...params, ...inputs]), show };
}

function dispatch(): Prepared {
  const [start, y] = [tf.tensor(uniform(1, 64), [8, 8]), tf.tensor(uniform(2, 64), [8, 8])];
  const call = (): TfTensor[] => {
    let x = tf.add(start, y);
    for (let i = 1; i < DISPATCHES; i++) {
      const next = tf.add(x, y);
      x.dispose();
      x = next;
    }
    return [x];
  };
  return work(call, [start, y]);
}

const NO_FILTER_GRADIENT = "its wasm backend has no gradient of a kernel (Conv2DBackpropFilter)";
const NO_SECOND = "second derivatives of softmax are missing (tfjs#3252)";
const NO_JIT = "it has no compiler";

const works: Works = {
  "matmul-128": () => matmul(128),
  "matmul-512": () => matmul(512),
  "matmul-1024": () => matmul(1024),
  "matmul-2048": () => matmul(2048),
  affine: () => long("affine", (x) => x.mul(2).add(1)),
  chain: NO_JIT,
  "chain:eager": () => long("chain", chain),
  tanh: () => long("tanh", tf.tanh),
  exp: () => long("exp", tf.exp),
  sum: () => long("sum", (x) => tf.sum(x)),
  softmax: () => {
    const x = tf.tensor(rowsInput(), [ROWS, ROWS]);
    return work(() => [tf.softmax(x)], [x]);
  },
  "layer-norm": layerNorm,
  "conv-first": () => conv(convs["conv-first"]!),
  "conv-first:backward": NO_FILTER_GRADIENT,
  "conv-inner": () => conv(convs["conv-inner"]!),
  "conv-inner:backward": NO_FILTER_GRADIENT,
  adam: adamStep,
  gradient,
  hvp: NO_SECOND,
  "hvp:eager": NO_SECOND,
  dispatch,
  "dispatch:jit": NO_JIT,
  compile: NO_JIT,
};

await serve(works);
