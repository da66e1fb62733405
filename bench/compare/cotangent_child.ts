/** This library's works. Threads and BLAS are chosen by the environment (`COTANGENT_THREADS`, `COTANGENT_BLAS`). */
import * as ct from "../../mod.ts";
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
  parameterSpecs,
  probe,
  ROWS,
  rowsCotangent,
  rowsInput,
  uniform,
} from "./inputs.ts";
import { type Prepared, serve, training, type Works } from "./protocol.ts";
import { productElements } from "./reference.ts";

type Values = readonly ct.Value[];
const tensor = (data: ct.TypedArray, shape: readonly number[]): ct.Value => ct.tensor(data, { shape });

/** A work whose result is a list of tensors. */
function work(mode: string, run: () => Values): Prepared {
  return { mode, run, show: () => probe(...run().map((y) => y.dataSync() as Float32Array)) };
}

function matmul(n: number): Prepared {
  const a = tensor(uniform(1, n * n, -1, 1), [n, n]);
  const b = tensor(uniform(2, n * n, -1, 1), [n, n]);
  const run = (): ct.Value => ct.matmul(a, b);
  const show = (): number[] => {
    const c = run().dataSync() as Float32Array;
    return productElements(n, (row, column) => c[row * n + column]!);
  };
  return { mode: "eager", run, show };
}

function long(name: string, f: (x: ct.Value) => ct.Value, mode: string): Prepared {
  const x = tensor(longInput(name), [longInput(name).length]);
  const g = mode === "jit" ? ct.jit(f) : f;
  const run = (): ct.Value => g(x);
  const show = (): number[] => {
    const y = run().dataSync() as Float32Array;
    return name === "sum" ? [y[0]!] : probe(y);
  };
  return { mode, run, show };
}

const affine = (x: ct.Value): ct.Value => x.mul(2).add(1);
const chain = (x: ct.Value): ct.Value => {
  const square = x.mul(x);
  return ct
    .sqrt(ct.exp(ct.neg(square)).add(square))
    .mul(0.5)
    .add(x.div(ct.abs(x).add(1)));
};

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

const norm = (leaves: Values): number[] => [
  Math.hypot(...leaves.map((leaf) => probe(leaf.dataSync() as Float32Array).at(-1)!)),
];

function adamStep(): Prepared {
  const { x, labels, params: freshParams, loss } = network(mlp);
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
  const show = (): number[] => {
    restart();
    for (let i = 1; i < adam.steps; i++) run();
    return [run().item()];
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

function dispatch(mode: "jit" | "eager"): Prepared {
  const [start, y] = [tensor(uniform(1, 64), [8, 8]), tensor(uniform(2, 64), [8, 8])];
  const f = mode === "eager" ? ct.add : ct.jit((x: ct.Value, y: ct.Value) => x.add(y).mul(0.5));
  return work(mode, () => {
    let x = start;
    for (let i = 0; i < DISPATCHES; i++) x = f(x, y);
    return [x];
  });
}

const works: Works = {
  "matmul-128": () => matmul(128),
  "matmul-512": () => matmul(512),
  "matmul-1024": () => matmul(1024),
  "matmul-2048": () => matmul(2048),
  affine: () => long("affine", affine, "jit"),
  chain: () => long("chain", chain, "jit"),
  "chain:eager": () => long("chain", chain, "eager"),
  tanh: () => long("tanh", ct.tanh, "eager"),
  exp: () => long("exp", ct.exp, "eager"),
  sum: () => long("sum", ct.sum, "eager"),
  softmax: () => {
    const x = tensor(rowsInput(), [ROWS, ROWS]);
    const f = ct.jit((x: ct.Value) => ct.softmax(x));
    return work("jit", () => [f(x)]);
  },
  "layer-norm": layerNorm,
  "conv-first": () => conv("conv-first", "forward"),
  "conv-first:backward": () => conv("conv-first", "backward"),
  "conv-inner": () => conv("conv-inner", "forward"),
  "conv-inner:backward": () => conv("conv-inner", "backward"),
  adam: adamStep,
  gradient,
  hvp: () => hvp(mlp, "jit"),
  "hvp:eager": () => hvp(mlp, "eager"),
  dispatch: () => dispatch("eager"),
  "dispatch:jit": () => dispatch("jit"),
  compile: () => hvp(cnn, "jit"),
};

await serve(works);
