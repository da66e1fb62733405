/**
 * The other libraries, by the parts used here. They are installed in this folder only, so they are loaded by name and
 * the library's own checkout type-checks without them.
 */

export const loadPeer = <T>(name: string): Promise<T> => import(name) as Promise<T>;

export interface Mitata {
  measure(
    f: () => unknown,
    options: Readonly<Record<string, number | false>>,
  ): Promise<{ readonly avg: number }>;
}

/** An array of jax-js. Every operation consumes its operands; `ref` keeps one for another use. */
export interface JaxArray {
  readonly ref: JaxArray;
  add(other: JaxArray | number): JaxArray;
  sub(other: JaxArray | number): JaxArray;
  mul(other: JaxArray | number): JaxArray;
  div(other: JaxArray | number): JaxArray;
  neg(): JaxArray;
  sum(axis?: number): JaxArray;
  reshape(shape: readonly number[]): JaxArray;
  transpose(): JaxArray;
  data(): Promise<Float32Array>;
  blockUntilReady(): Promise<JaxArray>;
  dispose(): void;
}
export type JaxTree = JaxArray | readonly JaxTree[];
type JaxFunction<A extends readonly JaxTree[], R extends JaxTree> = (...args: A) => R;

export interface Jax {
  init(device: string): Promise<readonly string[]>;
  defaultDevice(device: string): string;
  blockUntilReady<T extends JaxTree>(tree: T): Promise<T>;
  jit<A extends readonly JaxTree[], R extends JaxTree>(f: JaxFunction<A, R>): JaxFunction<A, R>;
  grad<P extends JaxTree, A extends readonly JaxTree[]>(
    f: JaxFunction<[P, ...A], JaxArray>,
  ): JaxFunction<[P, ...A], P>;
  valueAndGrad<P extends JaxTree, A extends readonly JaxTree[]>(
    f: JaxFunction<[P, ...A], JaxArray>,
  ): JaxFunction<[P, ...A], [JaxArray, P]>;
  vjp<A extends readonly JaxTree[]>(
    f: JaxFunction<A, JaxArray>,
    primals: A,
  ): [JaxArray, ((ct: JaxArray) => A) & { dispose(): void }];
  jvp<P extends JaxTree, R extends JaxTree>(f: JaxFunction<[P], R>, primals: [P], tangents: [P]): [R, R];
  readonly tree: { ref<T extends JaxTree>(tree: T): T; dispose(tree: JaxTree): void };
  readonly lax: {
    conv(
      x: JaxArray,
      w: JaxArray,
      strides: readonly number[],
      padding: "VALID" | readonly (readonly [number, number])[],
    ): JaxArray;
  };
  readonly nn: {
    relu(x: JaxArray): JaxArray;
    softmax(x: JaxArray, axis: number): JaxArray;
    logSoftmax(x: JaxArray, axis: number): JaxArray;
  };
  readonly numpy: {
    array(data: Float32Array, options: { readonly shape: readonly number[] }): JaxArray;
    matmul(x: JaxArray, y: JaxArray): JaxArray;
    exp(x: JaxArray): JaxArray;
    tanh(x: JaxArray): JaxArray;
    sqrt(x: JaxArray): JaxArray;
    abs(x: JaxArray): JaxArray;
    mean(x: JaxArray, axis: number, options: { readonly keepdims: boolean }): JaxArray;
  };
}

/** A tensor of TensorFlow.js; its memory is freed by `dispose` or by the end of a `tidy`. */
export interface TfTensor {
  readonly shape: readonly number[];
  data(): Promise<Float32Array>;
  dataSync(): Float32Array;
  dispose(): void;
  add(other: TfTensor | number): TfTensor;
  sub(other: TfTensor | number): TfTensor;
  mul(other: TfTensor | number): TfTensor;
  div(other: TfTensor | number): TfTensor;
  reshape(shape: readonly number[]): TfTensor;
}

export interface Tf {
  setBackend(name: string): Promise<boolean>;
  backend(): unknown;
  env(): { set(flag: string, value: boolean): void };
  ready(): Promise<void>;
  tidy<T>(f: () => T): T;
  keep(x: TfTensor): TfTensor;
  dispose(tensors: unknown): void;
  tensor(data: Float32Array, shape: readonly number[]): TfTensor;
  variable(x: TfTensor): TfTensor;
  matMul(x: TfTensor, y: TfTensor, transposeX?: boolean, transposeY?: boolean): TfTensor;
  exp(x: TfTensor): TfTensor;
  tanh(x: TfTensor): TfTensor;
  sqrt(x: TfTensor): TfTensor;
  rsqrt(x: TfTensor): TfTensor;
  abs(x: TfTensor): TfTensor;
  neg(x: TfTensor): TfTensor;
  square(x: TfTensor): TfTensor;
  relu(x: TfTensor): TfTensor;
  sum(x: TfTensor): TfTensor;
  mean(x: TfTensor, axis: number, keepDims: boolean): TfTensor;
  softmax(x: TfTensor): TfTensor;
  add(x: TfTensor, y: TfTensor): TfTensor;
  conv2d(x: TfTensor, w: TfTensor, strides: number, padding: string | number): TfTensor;
  grads(f: (...xs: TfTensor[]) => TfTensor): (xs: readonly TfTensor[], ct?: TfTensor) => TfTensor[];
  readonly losses: { softmaxCrossEntropy(labels: TfTensor, logits: TfTensor): TfTensor };
  readonly train: {
    adam(
      rate: number,
      beta1: number,
      beta2: number,
      epsilon: number,
    ): {
      minimize(f: () => TfTensor, returnCost: boolean, variables: readonly TfTensor[]): TfTensor;
      dispose(): void;
    };
  };
  variableGrads(
    f: () => TfTensor,
    variables: readonly TfTensor[],
  ): { readonly value: TfTensor; readonly grads: Readonly<Record<string, TfTensor>> };
}

/** onnxruntime-node. */
export interface Onnx {
  readonly InferenceSession: {
    create(
      model: Uint8Array,
      options: Readonly<Record<string, number>>,
    ): Promise<{
      run(inputs: Readonly<Record<string, object>>): Promise<{ readonly c: { readonly data: Float32Array } }>;
    }>;
  };
  readonly Tensor: new (type: string, data: Float32Array, sizes: readonly number[]) => object;
}

/** The backend of TensorFlow.js on WebGPU. */
export interface TfWebgpu {
  readonly commandEncoder: object | null;
  endComputePassEncoder(): void;
  submitQueue(): void;
  readonly queue: { onSubmittedWorkDone(): Promise<void> };
}

export interface TfWasm {
  setWasmPaths(folder: string): void;
}
