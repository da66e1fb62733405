/**
 * The numbers every engine computes with: a hash of the position, so that a program in another language makes the same
 * bits (`torch_child.py` does). No file, no library's random numbers.
 */

/** Element i in [low, high), rounded once to float32. */
export function uniform(seed: number, size: number, low = 0, high = 1): Float32Array<ArrayBuffer> {
  const data = new Float32Array(size);
  const start = Math.imul(seed, 0x85ebca6b);
  for (let i = 0; i < size; i++) {
    let h = (Math.imul(i, 0x9e3779b9) + start) | 0;
    h = Math.imul(h ^ (h >>> 16), 0x21f0aaad);
    h = Math.imul(h ^ (h >>> 15), 0x735a2d97);
    h ^= h >>> 15;
    data[i] = low + (high - low) * ((h >>> 8) / 2 ** 24);
  }
  return data;
}

/** One array of parameters: weights are drawn with the bound sqrt(6 / fanIn), biases are 0. */
export interface ParameterSpec {
  readonly shape: readonly number[];
  readonly fanIn: number;
}

/** A network of convolutions, if any, then dense layers, with relu between all of them. */
export interface NetworkSpec {
  readonly batch: number;
  /** Channels, height, width; a dense network has `[inputs, 1, 1]`. */
  readonly input: readonly [number, number, number];
  /** Square windows of 3, padding 1. */
  readonly convs: readonly { readonly outputs: number; readonly stride: number }[];
  readonly dense: readonly number[];
}

/** MLP 784-512-256-10, batch 128. */
export const mlp: NetworkSpec = { batch: 128, input: [784, 1, 1], convs: [], dense: [512, 256, 10] };

/** Four layers: convolutions to 8, 16 and 32 channels, the latter two with stride 2, and a dense layer. */
export const cnn: NetworkSpec = {
  batch: 8,
  input: [1, 28, 28],
  convs: [
    { outputs: 8, stride: 1 },
    { outputs: 16, stride: 2 },
    { outputs: 32, stride: 2 },
  ],
  dense: [10],
};

/** The networks that are trained, by the first part of a work's name: the batch is 128 unless it is said. */
export const networks: Readonly<Record<string, (batch?: number) => NetworkSpec>> = {
  adam: (batch = mlp.batch) => ({ ...mlp, batch }),
  "cnn-adam": (batch = 128) => ({ ...cnn, batch }),
};

/** Shapes of the parameters in order: kernel `[o, c, 3, 3]` or matrix `[in, out]`, each followed by its bias. */
export function parameterSpecs({ input, convs, dense }: NetworkSpec): ParameterSpec[] {
  const specs: ParameterSpec[] = [];
  let [channels, height, width] = input;
  for (const { outputs, stride } of convs) {
    specs.push({ shape: [outputs, channels, 3, 3], fanIn: channels * 9 }, { shape: [outputs], fanIn: 0 });
    [channels, height, width] = [outputs, Math.ceil(height / stride), Math.ceil(width / stride)];
  }
  let size = channels * height * width;
  for (const outputs of dense) {
    specs.push({ shape: [size, outputs], fanIn: size }, { shape: [outputs], fanIn: 0 });
    size = outputs;
  }
  return specs;
}

const sizeOf = (shape: readonly number[]): number => shape.reduce((n, m) => n * m, 1);

export interface NetworkInputs {
  readonly x: Float32Array<ArrayBuffer>;
  /** Class i mod 10 for example i. */
  readonly labels: Int32Array<ArrayBuffer>;
  readonly params: readonly Float32Array<ArrayBuffer>[];
  /** The direction of Hessian-vector products. */
  readonly direction: readonly Float32Array<ArrayBuffer>[];
}

export function networkInputs(spec: NetworkSpec): NetworkInputs {
  const specs = parameterSpecs(spec);
  return {
    x: uniform(1, spec.batch * sizeOf(spec.input)),
    labels: Int32Array.from({ length: spec.batch }, (_, i) => i % 10),
    params: specs.map(({ shape, fanIn }, i) => {
      const bound = fanIn === 0 ? 0 : Math.sqrt(6 / fanIn);
      return uniform(10 + i, sizeOf(shape), -bound, bound);
    }),
    direction: specs.map(({ shape }, i) => uniform(50 + i, sizeOf(shape), -0.05, 0.05)),
  };
}

/** `x` `[n, c, s, s]`, kernel `[o, c, 3, 3]`, stride 1, no padding (jax-js is eight times slower with padding). */
export interface ConvSpec {
  readonly n: number;
  readonly c: number;
  readonly s: number;
  readonly o: number;
}
export const convs: Readonly<Record<string, ConvSpec>> = {
  "conv-first": { n: 32, c: 1, s: 28, o: 32 },
  "conv-inner": { n: 32, c: 32, s: 14, o: 64 },
};

export interface ConvInputs {
  readonly x: Float32Array<ArrayBuffer>;
  readonly w: Float32Array<ArrayBuffer>;
  /** The cotangent of the result. */
  readonly ct: Float32Array<ArrayBuffer>;
}

export function convInputs({ n, c, s, o }: ConvSpec): ConvInputs {
  return {
    x: uniform(1, n * c * s * s, -1, 1),
    w: uniform(2, o * c * 9, -1, 1),
    ct: uniform(3, n * o * (s - 2) ** 2, -1, 1),
  };
}

/** Elements of the long arrays. */
export const LONG = 1e7;
/** Range of the long arrays: of the chain and the functions, and of the sum. */
export const longInput = (work: string, size: number = LONG): Float32Array<ArrayBuffer> =>
  work === "sum" ? uniform(4, size, 0, 2) : uniform(4, size, -3, 3);

/** Rows and columns of softmax and layer normalization. */
export const ROWS = 1024;
export const rowsInput = (rows: number = ROWS): Float32Array<ArrayBuffer> => uniform(5, rows * rows, -4, 4);
export const rowsCotangent = (): Float32Array<ArrayBuffer> => uniform(6, ROWS * ROWS, -1, 1);

/** Rows and columns of the products that are computed many at once. */
export const SMALL = 64;
/** How often a run of `stages` calls its function. */
export const STAGE_CALLS = 10;
/** A matrix of 8 rows that add up to 1 each: products with it stay as large as they are. */
export function stageMatrix(): Float32Array<ArrayBuffer> {
  const y = uniform(2, 64);
  for (let row = 0; row < 64; row += 8) {
    const sum = y.subarray(row, row + 8).reduce((a, b) => a + b, 0);
    for (let i = row; i < row + 8; i++) y[i] = y[i]! / sum;
  }
  return y;
}

/** Which operand of a product is stored the other way round. */
export type Turned = "" | "tn" | "nt";

/** Adam's constants, and the number of steps after which the loss is compared. */
export const adam = { rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, steps: 10 } as const;

/** Steps after which training starts again: on one batch the moments of idle units would end as denormal numbers. */
export const RESTART = 100;

/** Operations in one run of the dispatch works. */
export const DISPATCHES = 200;

/** Turns of the register loop that measures the machine; each adds 1 in every lane of 12 vectors. */
export const TURNS = 1_000_000;
export const ACCUMULATORS = 12;

/** What an engine shows of a result: some elements spread over it, and the norm in float64. */
export function probe(...results: readonly ArrayLike<number>[]): number[] {
  return results.flatMap((data) => {
    let squares = 0;
    for (let i = 0; i < data.length; i++) squares += data[i]! ** 2;
    const step = Math.max(1, Math.floor(data.length / 13));
    const some = Array.from({ length: Math.min(13, data.length) }, (_, i) => data[i * step]!);
    return [...some, Math.sqrt(squares)];
  });
}
