/**
 * The works of jax-js on its wasm backend. It starts one worker a core; with `COMPARE_JAX_WORKERS=0` it finds no shared
 * memory and runs on this thread. With `COMPARE_DEVICE=webgpu` its works on that backend.
 */
import { isSoftwareName } from "../../core/backends/webgpu/capabilities.ts";
import { provideNavigator } from "./gpu_navigator.ts";
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
import { type Jax, type JaxArray, type JaxTree, loadPeer } from "./peers.ts";
import { type Prepared, type Serving, serve, training, type Works } from "./protocol.ts";
import { productElements } from "./reference.ts";

if (process.env["COMPARE_JAX_WORKERS"] === "0") Reflect.deleteProperty(globalThis, "SharedArrayBuffer");
const device = process.env["COMPARE_DEVICE"] ?? "wasm";
const isGpu = device === "webgpu";
const navigatorGpu = isGpu ? await provideNavigator() : null;
const jax = await loadPeer<Jax>("@jax-js/jax");
if (!(await jax.init(device)).includes(device)) throw new Error(`jax-js does not start on ${device}`);
jax.defaultDevice(device);
const { numpy: np, nn, lax, tree } = jax;

type Mode = "jit" | "eager";
const array = (data: Float32Array, shape: readonly number[]): JaxArray => np.array(data, { shape });

/** A work whose result is a list of arrays; the run ends when they are there. */
function work(mode: Mode, call: () => readonly JaxArray[], inputs: JaxTree): Prepared {
  const run = async (): Promise<void> => {
    const results = call();
    await jax.blockUntilReady(results);
    tree.dispose(results);
  };
  const show = async (): Promise<number[]> => {
    const results: Float32Array[] = [];
    for (const y of call()) results.push(await y.data());
    return probe(...results);
  };
  return { mode, run, show, release: () => tree.dispose(inputs) };
}

function matmul(n: number, turned: Turned = ""): Prepared {
  const [a, b] = [array(uniform(1, n * n, -1, 1), [n, n]), array(uniform(2, n * n, -1, 1), [n, n])];
  const call = (): JaxArray =>
    np.matmul(turned === "tn" ? a.ref.transpose() : a.ref, turned === "nt" ? b.ref.transpose() : b.ref);
  const show = async (): Promise<number[]> => {
    const c = await call().data();
    return productElements(n, (row, column) => c[row * n + column]!);
  };
  return { ...work("eager", () => [call()], [a, b]), show, bytes: 4 * n * n };
}

function batched(count: number): Prepared {
  const shape = [count, SMALL, SMALL];
  const size = count * SMALL * SMALL;
  const [a, b] = [array(uniform(1, size, -1, 1), shape), array(uniform(2, size, -1, 1), shape)];
  return { ...work("eager", () => [np.matmul(a.ref, b.ref)], [a, b]), bytes: 4 * size };
}

function long(name: string, f: (x: JaxArray) => JaxArray, mode: Mode, size?: number): Prepared {
  const data = longInput(name, size);
  const x = array(data, [data.length]);
  const g = mode === "jit" ? jax.jit(f) : f;
  const bytes = name === "sum" ? 4 : 4 * data.length;
  const prepared = { ...work(mode, () => [g(x.ref)], [x]), bytes };
  return name === "sum" ? { ...prepared, show: async () => [(await g(x.ref).data())[0]!] } : prepared;
}

const affine = (x: JaxArray): JaxArray => x.mul(2).add(1);
function chain(x: JaxArray): JaxArray {
  const square = x.ref.mul(x.ref);
  const first = np.sqrt(np.exp(square.ref.neg()).add(square)).mul(0.5);
  return first.add(x.ref.div(np.abs(x).add(1)));
}

/** The result of a function and its pullback of a cotangent. */
function withPullback(
  f: (...xs: JaxArray[]) => JaxArray,
): (ct: JaxArray, ...xs: JaxArray[]) => readonly JaxArray[] {
  return (ct, ...xs) => {
    const [y, pullback] = jax.vjp(f, xs);
    const cotangents = pullback(ct);
    pullback.dispose();
    return [y, ...cotangents];
  };
}

function normalize(...[x, scale, offset]: JaxArray[]): JaxArray {
  const centred = x!.ref.sub(np.mean(x!, -1, { keepdims: true }));
  const variance = np.mean(centred.ref.mul(centred.ref), -1, { keepdims: true });
  return centred
    .div(np.sqrt(variance.add(1e-5)))
    .mul(scale!)
    .add(offset!);
}

/** A compiled function of rows and of arrays as long as a row. */
function rowwise(
  f: (...xs: JaxArray[]) => JaxArray,
  rows: number = ROWS,
  others: readonly JaxArray[] = [],
): Prepared {
  const x = array(rowsInput(rows), [rows, rows]);
  const g = jax.jit(f);
  const call = (): JaxArray[] => [g(x.ref, ...others.map(({ ref }) => ref))];
  return { ...work("jit", call, [x, ...others]), bytes: 4 * rows * rows };
}

/** A scale of 1 and an offset of 0. */
const scaleAndOffset = (rows: number): [JaxArray, JaxArray] => [
  array(new Float32Array(rows).fill(1), [rows]),
  array(new Float32Array(rows), [rows]),
];

function layerNorm(): Prepared {
  const [x, ct] = [array(rowsInput(), [ROWS, ROWS]), array(rowsCotangent(), [ROWS, ROWS])];
  const [scale, offset] = scaleAndOffset(ROWS);
  const f = jax.jit(withPullback(normalize));
  return work("jit", () => f(ct.ref, x.ref, scale.ref, offset.ref), [x, ct, scale, offset]);
}

function conv(name: string, direction: "forward" | "backward"): Prepared {
  const spec = convs[name]!;
  const { n, c, s, o } = spec;
  const inputs = convInputs(spec);
  const x = array(inputs.x, [n, c, s, s]);
  const w = array(inputs.w, [o, c, 3, 3]);
  const ct = array(inputs.ct, [n, o, s - 2, s - 2]);
  const apply = (x: JaxArray, w: JaxArray): JaxArray => lax.conv(x, w, [1, 1], "VALID");
  if (direction === "forward") return work("eager", () => [apply(x.ref, w.ref)], [x, w, ct]);
  // Not compiled: its jit makes this slower.
  const f = withPullback((x, w) => apply(x!, w!));
  return work("eager", () => f(ct.ref, x.ref, w.ref), [x, w, ct]);
}

interface Network {
  readonly x: JaxArray;
  readonly labels: JaxArray;
  readonly params: JaxArray[];
  readonly direction: JaxArray[];
  loss(params: JaxArray[], x: JaxArray, labels: JaxArray): JaxArray;
}

function network(spec: NetworkSpec): Network {
  const inputs = networkInputs(spec);
  const shapes = parameterSpecs(spec).map(({ shape }) => shape);
  const [channels, height, width] = spec.input;
  const isImage = spec.convs.length > 0;
  const oneHot = new Float32Array(spec.batch * 10);
  inputs.labels.forEach((label, i) => {
    oneHot[i * 10 + label] = 1;
  });
  return {
    x: array(inputs.x, isImage ? [spec.batch, channels, height, width] : [spec.batch, channels]),
    labels: array(oneHot, [spec.batch, 10]),
    params: inputs.params.map((p, i) => array(p, shapes[i]!)),
    direction: inputs.direction.map((v, i) => array(v, shapes[i]!)),
    loss(params, x, labels) {
      let y = x;
      const layers = params.length / 2;
      for (let i = 0; i < layers; i++) {
        const [w, b] = [params[2 * i]!, params[2 * i + 1]!];
        const size = shapes[2 * i]![0]!;
        const stride = spec.convs[i]?.stride;
        if (stride === undefined) {
          y = np.matmul(y.reshape([spec.batch, size]), w).add(b);
        } else {
          y = lax
            .conv(
              y,
              w,
              [stride, stride],
              [
                [1, 1],
                [1, 1],
              ],
            )
            .add(b.reshape([size, 1, 1]));
        }
        if (i < layers - 1) y = nn.relu(y);
      }
      return nn.logSoftmax(y, -1).mul(labels).sum().div(-spec.batch);
    },
  };
}

/** The norm over all leaves, which are consumed. */
async function norm(leaves: readonly JaxArray[]): Promise<number[]> {
  const norms: number[] = [];
  for (const leaf of leaves) norms.push(probe(await leaf.data()).at(-1)!);
  return [Math.hypot(...norms)];
}

/** The library's optimizers are not on the registry: Adam is written here, and compiled with the rest. */
function adamStep(spec: NetworkSpec): Prepared {
  const { x, labels, params: initial, direction, loss } = network(spec);
  const { rate, beta1, beta2, epsilon } = adam;
  type State = [params: JaxArray[], mean: JaxArray[], square: JaxArray[], count: JaxArray];
  const step = jax.jit(
    (
      params: JaxArray[],
      mean: JaxArray[],
      square: JaxArray[],
      count: JaxArray,
      x: JaxArray,
      labels: JaxArray,
    ): [...State, JaxArray] => {
      const [value, gradient] = jax.valueAndGrad(loss)(tree.ref(params), x, labels);
      const t = count.add(1);
      // 1 - beta^t by exp: jax-js's log is inexact near 1, and its pow uses it
      const correction = (beta: number): JaxArray =>
        np
          .exp(t.ref.mul(Math.log(beta)))
          .neg()
          .add(1);
      const [c1, c2] = [correction(beta1), correction(beta2)];
      const [nextParams, nextMean, nextSquare]: [JaxArray[], JaxArray[], JaxArray[]] = [[], [], []];
      gradient.forEach((g, i) => {
        const m = mean[i]!.mul(beta1).add(g.ref.mul(1 - beta1));
        const s = square[i]!.mul(beta2).add(g.ref.mul(g).mul(1 - beta2));
        const scale = np.sqrt(s.ref.div(c2.ref)).add(epsilon);
        nextParams.push(params[i]!.sub(m.ref.div(c1.ref).mul(rate).div(scale)));
        nextMean.push(m);
        nextSquare.push(s);
      });
      tree.dispose([c1, c2]);
      return [nextParams, nextMean, nextSquare, t, value];
    },
  );
  const zeros = (): JaxArray[] =>
    parameterSpecs(spec).map(({ shape }) => array(new Float32Array(shape.reduce((n, m) => n * m, 1)), shape));
  let state: State | undefined;
  const begin = (): void => {
    if (state) tree.dispose(state);
    state = [tree.ref(initial), zeros(), zeros(), array(new Float32Array(1), [])];
  };
  /** One step; gives the loss before it. */
  const advance = async (): Promise<JaxArray> => {
    const [params, mean, square, t, value] = step(...state!, x.ref, labels.ref);
    state = [params, mean, square, t];
    // On a GPU each array waits by a read of its own, and the loss is computed and sent with the rest.
    await jax.blockUntilReady(isGpu ? [value] : [...params, value]);
    return value;
  };
  const steps = training(begin, advance);
  const run = async (): Promise<void> => (await steps.run()).dispose();
  const show = async (): Promise<number[]> => {
    steps.restart();
    for (let i = 1; i < adam.steps; i++) await run();
    return [(await (await steps.run()).data())[0]!];
  };
  const release = (): void => tree.dispose([initial, direction, x, labels, ...(state ?? [])]);
  return { mode: "jit", run, show, release, isChained: true };
}

function gradient(): Prepared {
  const { x, labels, params, direction, loss } = network(mlp);
  const f = jax.jit(jax.grad(loss));
  const call = (): JaxArray[] => f(tree.ref(params), x.ref, labels.ref);
  return { ...work("jit", call, [params, direction, x, labels]), show: () => norm(call()) };
}

/** Forward over reverse. */
function hvp(spec: NetworkSpec, mode: Mode): Prepared {
  const { x, labels, params, direction, loss } = network(spec);
  const gradient = jax.grad(loss);
  const product = (p: JaxArray[], v: JaxArray[], x: JaxArray, labels: JaxArray): JaxArray[] => {
    const [value, tangent] = jax.jvp((q: JaxArray[]) => gradient(q, x, labels), [p], [v]);
    tree.dispose(value);
    return tangent;
  };
  const f = mode === "jit" ? jax.jit(product) : product;
  const call = (): JaxArray[] => f(tree.ref(params), tree.ref(direction), x.ref, labels.ref);
  return { ...work(mode, call, [params, direction, x, labels]), show: () => norm(call()) };
}

function dispatch(mode: Mode, count: number = DISPATCHES): Prepared {
  const [start, y] = [array(uniform(1, 64), [8, 8]), array(uniform(2, 64), [8, 8])];
  const f =
    mode === "eager"
      ? (x: JaxArray, y: JaxArray): JaxArray => x.add(y)
      : jax.jit((x: JaxArray, y: JaxArray) => x.add(y).mul(0.5));
  const call = (): JaxArray[] => {
    let x = start.ref;
    for (let i = 0; i < count; i++) x = f(x, y.ref);
    return [x];
  };
  return work(mode, call, [start, y]);
}

/** `x <- x y` so many times in one compiled function. */
function stages(count = 100): Prepared {
  const [start, y] = [array(uniform(1, 64), [8, 8]), array(stageMatrix(), [8, 8])];
  const f = jax.jit((x: JaxArray, y: JaxArray): JaxArray => {
    for (let i = 0; i < count; i++) x = np.matmul(x, i === count - 1 ? y : y.ref);
    return x;
  });
  const call = (): JaxArray[] => {
    let x = start.ref;
    for (let i = 0; i < STAGE_CALLS; i++) x = f(x, y.ref);
    return [x];
  };
  return work("jit", call, [start, y]);
}

/** 64 numbers are added up and the sum is read. */
function read(): Prepared {
  const x = array(uniform(1, 64), [64]);
  const run = async (): Promise<number> => (await x.ref.sum().data())[0]!;
  return { mode: "eager", run, show: async () => [await run()], isChained: true, release: () => x.dispose() };
}

const NO_HOST_TIME = "it sends what it queued only when a result is awaited";

const MATMULS = [128, 256, 512, 1024, 2048, 4096];

const works: Works = {
  ...Object.fromEntries(MATMULS.map((n) => [`matmul-${n}`, () => matmul(n)])),
  "matmul-tn": (n = 512) => matmul(n, "tn"),
  "matmul-nt": (n = 512) => matmul(n, "nt"),
  "matmul-batched": (count = 64) => batched(count),
  affine: (size) => long("affine", affine, "jit", size),
  chain: (size) => long("chain", chain, "jit", size),
  "chain:eager": (size) => long("chain", chain, "eager", size),
  tanh: () => long("tanh", np.tanh, "eager"),
  exp: () => long("exp", np.exp, "eager"),
  sum: (size) => long("sum", (x) => x.sum(), "eager", size),
  softmax: (rows) => rowwise((x) => nn.softmax(x!, -1), rows),
  "layer-norm": layerNorm,
  "layer-norm-forward": (rows = ROWS) => rowwise(normalize, rows, scaleAndOffset(rows)),
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
  "dispatch:host": NO_HOST_TIME,
  "dispatch:jit": (count) => dispatch("jit", count),
  stages,
  "stages:host": NO_HOST_TIME,
  read,
  "read:sync": "it cannot read at once outside browsers",
  compile: () => hvp(cnn, "jit"),
};

function serving(): Serving {
  if (navigatorGpu === null) return {};
  const device = navigatorGpu.name;
  // Its runs wait for their results themselves.
  const queue = { isSoftware: isSoftwareName(device), check: navigatorGpu.check };
  return { device, adapt: (prepared) => queued(prepared, queue) };
}

await serve(works, serving());
