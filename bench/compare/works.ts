/** What is measured: data only. */
import { ACCUMULATORS, type ConvSpec, convs, DISPATCHES, LONG, ROWS, TURNS } from "./inputs.ts";

export interface Work {
  readonly id: string;
  /** The column's title. */
  readonly title: string;
  /** What is counted in one run, in units of `unit` seconds. "ms" and "µs" are times: less is better. */
  readonly amount: number;
  readonly unit: "GFLOP/s" | "GB/s" | "Mel/s" | "/s" | "k/s" | "ms" | "µs";
  /** Largest error of a shown number, relative to it; 1e-4 unless said otherwise. */
  readonly tolerance?: number;
  /** Measured on the first run in a fresh process. */
  readonly isFirst?: true;
  /** Another way to the same result: where an engine has both, its better one counts in the ratios. */
  readonly otherWay?: string;
  /** The machine's limit for this work: an engine's family and its work. */
  readonly limit?: { readonly family: string; readonly work: string };
}

export interface Group {
  readonly title: string;
  readonly works: readonly Work[];
}

/** Less is better. */
export const isTime = ({ unit }: Work): boolean => unit === "ms" || unit === "µs";

/** "softmax/512:jit" is the work "softmax:jit" at size 512. */
export function partsOf(id: string): { readonly name: string; readonly size: number | undefined } {
  const match = /^([^/]*)\/(\d+)(.*)$/.exec(id);
  return match ? { name: `${match[1]}${match[3]}`, size: Number(match[2]) } : { name: id, size: undefined };
}

/** A product and a sum for each element of the window and each element of the result. */
const convFlop = ({ n, c, s, o }: ConvSpec): number => 2 * n * o * c * 9 * (s - 2) ** 2;

const giga = (count: number): number => count / 1e9;
const matmul = (n: number): Work => ({
  id: `matmul-${n}`,
  title: `${n}²`,
  amount: giga(2 * n ** 3),
  unit: "GFLOP/s",
  limit: { family: "openblas", work: `matmul-${n}` },
});
const long = (id: string, title: string, otherWay?: string): Work => ({
  id,
  title,
  amount: LONG / 1e6,
  unit: "Mel/s",
  ...(otherWay ? { otherWay } : {}),
});
const conv = (id: string, title: string): Work[] => [
  { id, title: `${title} forward`, amount: giga(convFlop(convs[id]!)), unit: "GFLOP/s" },
  {
    id: `${id}:backward`,
    title: `${title} forward + both gradients`,
    amount: giga(3 * convFlop(convs[id]!)),
    unit: "GFLOP/s",
  },
];

export const groups: readonly Group[] = [
  {
    title: "The machine",
    works: [
      {
        id: "peak-madd",
        title: "128-bit relaxed_madd",
        amount: giga(TURNS * ACCUMULATORS * 8),
        unit: "GFLOP/s",
      },
      {
        id: "peak-mul-add",
        title: "128-bit mul, add",
        amount: giga(TURNS * ACCUMULATORS * 8),
        unit: "GFLOP/s",
      },
      { id: "triad", title: "triad, 12 B/element", amount: giga(LONG * 12), unit: "GB/s" },
      { id: "copy", title: "copy, 8 B/element", amount: giga(LONG * 8), unit: "GB/s" },
    ],
  },
  { title: "Matrix product, float32", works: [matmul(128), matmul(512), matmul(1024), matmul(2048)] },
  {
    title: "10,000,000 elements",
    works: [
      {
        id: "affine",
        title: "x*2+1, 8 B/element",
        amount: giga(LONG * 8),
        unit: "GB/s",
        limit: { family: "machine", work: "copy" },
      },
      long("chain", "chain, jit", "chain:eager"),
      long("chain:eager", "chain, eager"),
      long("tanh", "tanh"),
      long("exp", "exp"),
      { id: "sum", title: "sum, 4 B/element", amount: giga(LONG * 4), unit: "GB/s" },
    ],
  },
  {
    title: "Rows and images",
    works: [
      { id: "softmax", title: "softmax 1024×1024", amount: ROWS ** 2 / 1e6, unit: "Mel/s" },
      {
        id: "layer-norm",
        title: "layerNorm 1024×1024 forward + backward",
        amount: ROWS ** 2 / 1e6,
        unit: "Mel/s",
      },
      ...conv("conv-first", "conv 32×1×28²·32×1×3²"),
      ...conv("conv-inner", "conv 32×32×14²·64×32×3²"),
    ],
  },
  {
    title: "MLP 784-512-256-10, batch 128",
    works: [
      { id: "adam", title: "Adam step", amount: 1, unit: "/s", tolerance: 2e-3 },
      { id: "gradient", title: "gradient", amount: 1, unit: "/s" },
      { id: "hvp", title: "HVP, jit", amount: 1, unit: "/s", otherWay: "hvp:eager" },
      { id: "hvp:eager", title: "HVP, eager", amount: 1, unit: "/s" },
    ],
  },
  {
    title: "Calls",
    works: [
      { id: "dispatch", title: "8×8 add, eager", amount: DISPATCHES / 1e3, unit: "k/s" },
      {
        id: "dispatch:jit",
        title: "8×8 (x+y)/2, one compiled call",
        amount: DISPATCHES / 1e3,
        unit: "k/s",
      },
      {
        id: "compile",
        title: "trace and compile the HVP of a 4-layer CNN",
        amount: 1e3,
        unit: "ms",
        isFirst: true,
      },
    ],
  },
];
