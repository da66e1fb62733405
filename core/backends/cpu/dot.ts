/** The batched dot product as matrix products: axes that are left over are loops around a product. */
import { bytesPerElement } from "../../dtype.ts";
import { invariant } from "../../errors.ts";
import { type Layout, rowMajor } from "../../kernel.ts";
import { type Axis, productAxes } from "../../passes/product.ts";
import type { DotParams } from "../../prims/contract.ts";
import { range, sizeOf } from "../../shape.ts";
import { type GemmShape, isNative, libraryFor, nativeStrides, planGemm } from "./gemm.ts";
import { type GemmType, isGemmType } from "./gemm_kernels.ts";
import type { NamedCall, NamedKernel } from "./named.ts";

/** One matrix product, and the loops around it. */
interface Nest {
  readonly shape: GemmShape;
  readonly loops: readonly Axis[];
  /** Loops over parts of the sum; the last of all. */
  readonly sums: readonly Axis[];
}

const ONE: Axis = { size: 1, x: 0, y: 0, out: 0 };

/** The call with operands of these layouts as a nest. */
function nestOf(x: Layout, y: Layout, params: DotParams, dtype: GemmType): Nest {
  const axes = productAxes(x, y, params);
  const [rows, columns, sums] = [[...axes.rows], [...axes.columns], [...axes.sums]];
  const m = rows.pop() ?? ONE;
  const n = columns.pop() ?? ONE;
  const k = sums.pop() ?? ONE;
  // The longest loop is the product's own.
  const loops = [...axes.batches, ...rows, ...columns].sort((p, q) => p.size - q.size);
  const inner = loops.pop() ?? ONE;
  return {
    shape: {
      dtype,
      batches: inner.size,
      m: m.size,
      n: n.size,
      k: k.size,
      a: { row: m.x, column: k.x, batch: inner.x },
      b: { row: k.y, column: n.y, batch: inner.y },
      c: { row: m.out, batch: inner.out },
    },
    loops,
    sums,
  };
}

const times = (loops: readonly Axis[]): number => sizeOf(loops.map(({ size }) => size));
const multiplications = ({ m, n, k }: GemmShape): number => m * n * k;

/** So many products one after the other cost more than an operand's elements in order, unless they are large. */
const MANY_LOOPS = 64;
const LARGE = 64 ** 3;

/** How much a nest costs besides its multiplications; for comparison with other layouts of the same call. */
function burden({ shape, loops, sums }: Nest): number {
  const count = times(loops) * times(sums);
  const { m, n, k, a, b } = shape;
  // A native product is two to four times as fast.
  const fits = nativeStrides(a, m, k) && nativeStrides(b, k, n);
  const refused = !fits && isNative(shape.dtype, multiplications(shape));
  const scattered = count > MANY_LOOPS && multiplications(shape) < LARGE;
  return (scattered ? count : 0) + (refused ? 1 : 0);
}

/** The call with operands as they are, or in row-major order where that is asked. */
function nestOfCall({ args, params }: NamedCall, ordered: readonly boolean[]): Nest | null {
  const [x, y] = args.map(({ layout }, i) => (ordered[i] ? rowMajor(layout.shape) : layout));
  const { dtype } = args[0]!;
  // The record of this name has these parameters.
  return isGemmType(dtype) ? nestOf(x!, y!, params as DotParams, dtype) : null;
}

const ORDERS: readonly (readonly boolean[])[] = [
  [false, false],
  [true, false],
  [false, true],
  [true, true],
];

/** Every combination of steps of the loops, in bytes. */
function steps(loops: readonly Axis[], bytes: number): Omit<Axis, "size">[] {
  let list = [{ x: 0, y: 0, out: 0 }];
  for (const { size, x, y, out } of loops) {
    list = list.flatMap((at) =>
      range(size).map((i) => ({
        x: at.x + i * x * bytes,
        y: at.y + i * y * bytes,
        out: at.out + i * out * bytes,
      })),
    );
  }
  return list;
}

export const dotKernel: NamedKernel = {
  prepare(call) {
    let best: { readonly order: readonly boolean[]; readonly cost: number } | null = null;
    for (const order of ORDERS) {
      const nest = nestOfCall(call, order);
      if (!nest) return null;
      const cost = burden(nest);
      if (cost === 0) return order;
      if (best === null || cost < best.cost) best = { order, cost };
    }
    return best!.order;
  },
  plan(call, engine) {
    const nest = nestOfCall(call, [false, false]);
    invariant(nest, "a call that was prepared has a plan");
    const { shape, loops, sums } = nest;
    const bytes = bytesPerElement(shape.dtype);
    const outBytes = call.outs[0]!.size * bytes;
    const library = libraryFor(engine, shape.dtype, multiplications(shape));
    const first = planGemm(engine, shape, library);
    const { heap } = engine;
    if (loops.length + sums.length === 0)
      return { workspaceBytes: 0, run: ([x, y], [out]) => first.run(x!, y!, out!) };
    if (call.args.some(({ layout }) => sizeOf(layout.shape) === 0))
      return { workspaceBytes: 0, run: (_, [out]) => void heap.u8.fill(0, out!, out! + outBytes) };
    const rest = planGemm(engine, { ...shape, accumulates: true }, library);
    const places = steps(loops, bytes);
    const parts = steps(sums, bytes);
    return {
      workspaceBytes: 0,
      run([x, y], [out]) {
        for (const at of places) {
          parts.forEach((part, i) => {
            const { run } = i === 0 ? first : rest;
            run(x! + at.x + part.x, y! + at.y + part.y, out! + at.out);
          });
        }
      },
    };
  },
};
