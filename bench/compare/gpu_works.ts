/** What is measured on a GPU: data only. The sizes of software devices are smaller. */
import { SMALL, STAGE_CALLS } from "./inputs.ts";
import type { Work } from "./works.ts";

/** Invocations of a workgroup in the shaders that measure the device. */
export const GROUP = 256;
/** Accumulators of four numbers, and the turns of the loop around them. */
export const FMA_ACCUMULATORS = 8;
export const FMA_TURNS = 1024;

export interface GpuWork extends Work {
  /** What of the device limits it: a share is shown. */
  readonly bound?: "arithmetic" | "bandwidth";
  /** The device's limit itself. */
  readonly isPeak?: true;
}

export interface Sizes {
  readonly isSmall: boolean;
  readonly fmaInvocations: number;
  readonly copyBytes: number;
  readonly matmuls: readonly number[];
  readonly turned: number;
  /** How many small products at once. */
  readonly batched: number;
  readonly long: readonly number[];
  readonly rows: number;
  readonly images: number;
  readonly calls: number;
  readonly memorySteps: number;
}

export const FULL: Sizes = {
  isSmall: false,
  fmaInvocations: 2 ** 20,
  copyBytes: 2 ** 28,
  matmuls: [512, 1024, 2048, 4096],
  turned: 2048,
  batched: 1024,
  long: [1e7, 1e8],
  rows: 8192,
  images: 128,
  calls: 1000,
  memorySteps: 10_000,
};

export const REDUCED: Sizes = {
  isSmall: true,
  fmaInvocations: 2 ** 13,
  copyBytes: 2 ** 25,
  matmuls: [256, 512],
  turned: 512,
  batched: 64,
  long: [1e6],
  rows: 512,
  images: 8,
  calls: 1000,
  memorySteps: 2000,
};

const giga = (count: number): number => count / 1e9;

/** 1e7 as "10^7". */
const power = (n: number): string => `10^${Math.round(Math.log10(n))}`;

export function gpuWorks(sizes: Sizes): GpuWork[] {
  const { fmaInvocations, copyBytes, matmuls, turned, batched, long, rows, images, calls } = sizes;
  const peaks: readonly GpuWork[] = [
    ...(["fma", "mul-add"] as const).map(
      (op): GpuWork => ({
        id: `device-${op}/${fmaInvocations}`,
        title: op === "fma" ? "fma in registers" : "multiply, add in registers",
        amount: giga(fmaInvocations * FMA_TURNS * FMA_ACCUMULATORS * 8),
        unit: "GFLOP/s",
        bound: "arithmetic",
        isPeak: true,
      }),
    ),
    ...(["shader", "buffer"] as const).map(
      (how): GpuWork => ({
        id: `device-copy-${how}/${copyBytes}`,
        title: `copy of ${copyBytes / 2 ** 20} MiB, ${how === "shader" ? "a shader" : "copyBufferToBuffer"}`,
        amount: giga(2 * copyBytes),
        unit: "GB/s",
        bound: "bandwidth",
        isPeak: true,
      }),
    ),
  ];
  const product = (id: string, title: string, amount: number): GpuWork => ({
    id,
    title,
    amount: giga(amount),
    unit: "GFLOP/s",
    bound: "arithmetic",
  });
  const stream = (id: string, title: string, bytes: number, otherWay?: string): GpuWork => ({
    id,
    title,
    amount: giga(bytes),
    unit: "GB/s",
    bound: "bandwidth",
    ...(otherWay === undefined ? {} : { otherWay }),
  });
  const rate = (id: string, title: string, tolerance?: number): GpuWork => ({
    id,
    title,
    amount: 1,
    unit: "/s",
    ...(tolerance === undefined ? {} : { tolerance }),
  });
  // A thousand roundings of numbers that grow add up.
  const time = (id: string, title: string, per: number): GpuWork => ({
    id,
    title,
    amount: 1e6 / per,
    unit: "µs",
    tolerance: 1e-3,
  });
  const stages = calls / STAGE_CALLS;
  return [
    ...peaks,
    ...matmuls.map((n) => product(`matmul-${n}`, `product ${n}²`, 2 * n ** 3)),
    product(`matmul-tn/${turned}`, `product ${turned}², the first transposed`, 2 * turned ** 3),
    product(`matmul-nt/${turned}`, `product ${turned}², the second transposed`, 2 * turned ** 3),
    product(`matmul-batched/${batched}`, `${batched} products ${SMALL}²`, 2 * batched * SMALL ** 3),
    ...long.flatMap((n) => [
      stream(`affine/${n}`, `x*2+1, ${power(n)}`, 8 * n),
      stream(`chain/${n}`, `chain of 8, compiled, ${power(n)}`, 8 * n, `chain/${n}:eager`),
      stream(`chain/${n}:eager`, `chain of 8, eager, ${power(n)}`, 8 * n),
      stream(`sum/${n}`, `sum, ${power(n)}`, 4 * n),
    ]),
    stream(`softmax/${rows}`, `softmax of rows, ${rows}²`, 8 * rows ** 2),
    stream(`layer-norm-forward/${rows}`, `layerNorm of rows, ${rows}²`, 8 * rows ** 2),
    rate("adam", "MLP 784-512-256-10, batch 128: Adam step", 2e-3),
    rate("gradient", "the same MLP: gradient"),
    rate("hvp", "the same MLP: Hessian-vector product"),
    rate(`cnn-adam/${images}`, `CNN of 3 convolutions, ${images} images 28²: Adam step`, 2e-3),
    time(`dispatch/${calls}`, `add of 64 elements, each of ${calls}`, calls),
    time(`dispatch/${calls}:host`, `the same, until the last call returns`, calls),
    time(`stages/${stages}`, `compiled product 8², each of ${calls}`, calls),
    time(`stages/${stages}:host`, `the same, until the last call returns`, calls),
    time("read", "sum of 64 elements and its 4 bytes, awaited", 1),
    time("read:sync", "sum of 64 elements and its 4 bytes, at once", 1),
  ];
}
