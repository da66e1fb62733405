/** Shapes, reductions, products, windows and positions, against NumPy 2.4. */
import { describe, expect, test } from "bun:test";
import { hvp } from "../../autodiff/hvp.ts";
import { grad } from "../../autodiff/vjp.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { full, tensor, zeros } from "../../core/create.ts";
import { DTypeError, ShapeError } from "../../core/errors.ts";
import * as ops from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";

const make = (size: number, shape: number[], f: (i: number) => number): Value =>
  tensor(
    Float64Array.from({ length: size }, (_, i) => f(i)),
    { shape },
  );
// x = (arange(24).reshape(2, 3, 4) * 7 % 11 - 4), y = (arange(40).reshape(2, 4, 5) * 5 % 13 - 6)
const x = make(24, [2, 3, 4], (i) => ((i * 7) % 11) - 4);
const y = make(40, [2, 4, 5], (i) => ((i * 5) % 13) - 6);
const at = (v: Value, i: number): Value => ops.take(v, i);
const int = (data: number[] | number[][]): Value => tensor(data, { dtype: "int32" });

function expectValue(actual: Value, expected: readonly number[], shape?: readonly number[]): void {
  if (shape) expect(actual.shape).toEqual([...shape]);
  const data = actual.dataSync();
  expect(data.length).toBe(expected.length);
  expected.forEach((e, i) => {
    expect(Math.abs(data[i]! - e)).toBeLessThanOrEqual(1e-12 * (1 + Math.abs(e)));
  });
}

function expectThrown(kind: typeof ShapeError | typeof DTypeError, op: string, call: () => unknown): void {
  let error: unknown;
  try {
    call();
  } catch (e) {
    error = e;
  }
  expect(error).toBeInstanceOf(kind);
  expect((error as ShapeError).op).toBe(op);
}

describe("products", () => {
  test("integer products wrap around exactly", () => {
    const largest = 2147483647;
    expect(ops.dot(int([largest]), int([largest])).item()).toBe(1);
    expect(ops.dot(int([largest, largest]), int([largest, 2])).item()).toBe(Math.imul(largest, 2) + 1);
    const odd = Array.from({ length: 35 }, (_, i) => Math.imul(i + 1, 0x9e3779b1));
    const [a, b] = [odd, odd.toReversed()];
    // The product of matrices [5, 7] and [7, 5] in exact integers, modulo 2^32.
    const exact = Array.from({ length: 25 }, (_, i) => {
      let sum = 0n;
      for (let l = 0; l < 7; l++) sum += BigInt(a[Math.floor(i / 5) * 7 + l]!) * BigInt(b[l * 5 + (i % 5)]!);
      return sum;
    });
    for (const [dtype, wrap] of [
      ["int32", (sum: bigint) => Number(BigInt.asIntN(32, sum))],
      ["uint32", (sum: bigint) => Number(BigInt.asUintN(32, sum))],
    ] as const) {
      const of = (data: number[]): Value => {
        const stored = dtype === "int32" ? Int32Array.from(data) : Uint32Array.from(data);
        return tensor(stored, { shape: [35] });
      };
      const product = ops.matmul(of(a).reshape([5, 7]), of(b).reshape([7, 5]));
      expect(product.dtype).toBe(dtype);
      expect(Array.from(product.dataSync())).toEqual(exact.map(wrap));
      const column = ops.matmul(of(a).reshape([5, 7]), of(b).reshape([7, 5]).slice([0, 2], [7, 3]));
      expect(Array.from(column.dataSync())).toEqual(exact.filter((_, i) => i % 5 === 2).map(wrap));
    }
  });
  test("integer convolutions wrap around exactly", () => {
    const largest = 2147483647;
    const wide = (data: number[], shape: number[]): Value => tensor(Int32Array.from(data), { shape });
    const v = wide([largest, -5, largest, 7], [1, 1, 4]);
    const w = wide([largest, largest, 3], [1, 1, 3]);
    const at = (i: number): number => {
      const row = v.dataSync();
      return [0, 1, 2].reduce((sum, k) => (sum + Math.imul(row[i + k]!, w.dataSync()[k]!)) | 0, 0);
    };
    expect(ops.conv(v, w).toArray()).toEqual([[[at(0), at(1)]]]);
    const unsigned = (x: Value): Value => tensor(Uint32Array.from(x.dataSync()), { shape: x.shape });
    expect(ops.conv(unsigned(v), unsigned(w)).toArray()).toEqual([[[at(0) >>> 0, at(1) >>> 0]]]);
  });
  // np.matmul for each combination of ranks
  test("matmul of batches", () =>
    expectValue(
      ops.matmul(x, y),
      [
        61, -23, -3, 43, -15, 5, -17, 13, -22, -5, 26, 11, -4, -32, 5, 13, 37, -17, 33, -47, 5, -29, 2, 7, -1,
        8, -29, -1, 14, -10,
      ],
      [2, 3, 5],
    ));
  test("matmul of a matrix and a batch", () =>
    expectValue(
      ops.matmul(at(x, 0), y),
      [
        61, -23, -3, 43, -15, 5, -17, 13, -22, -5, 26, 11, -4, -32, 5, -7, 26, -19, 1, -31, 7, 37, -11, 19,
        -29, -1, -29, 8, -7, 17,
      ],
      [2, 3, 5],
    ));
  test("matmul of a batch and a matrix", () =>
    expectValue(
      ops.matmul(x, at(y, 0)),
      [
        61, -23, -3, 43, -15, 5, -17, 13, -22, -5, 26, 11, -4, -32, 5, 14, -27, 23, -31, -7, 35, 1, 6, -41, 3,
        -32, -4, 11, 26, 2,
      ],
      [2, 3, 5],
    ));
  test("matmul of a vector and a batch", () =>
    expectValue(ops.matmul(at(at(x, 0), 0), y), [61, -23, -3, 43, -15, -7, 26, -19, 1, -31], [2, 5]));
  test("matmul of a batch and a vector", () =>
    expectValue(ops.matmul(x, ops.take(at(y, 0), 0, { axis: 1 })), [61, 5, 26, 14, 35, -32], [2, 3]));
  test("matmul broadcasts batch axes", () => {
    const left = ops.reshape(x, [2, 1, 3, 4]);
    const out = ops.matmul(left, y);
    expect(out.shape).toEqual([2, 2, 3, 5]);
    expectValue(at(at(out, 1), 1), [...at(ops.matmul(x, y), 1).dataSync()]);
    expectValue(at(at(out, 0), 1), [...ops.matmul(at(x, 0), at(y, 1)).dataSync()]);
  });
  test("dot sums the last axis and the last but one", () => {
    const out = ops.dot(x, y); // np.dot(x, y)
    expect(out.shape).toEqual([2, 3, 2, 5]);
    expect(ops.sum(out).item()).toBe(-12);
    expect(at(at(at(at(out, 1), 2), 1), 3).item()).toBe(14);
    expect(ops.dot(tensor(2), tensor([3, 4])).toArray()).toEqual([6, 8]);
  });
  test("products that do not fit", () => {
    expectThrown(ShapeError, "matmul", () => ops.matmul(tensor([1, 2]), tensor([1, 2, 3])));
    expectThrown(ShapeError, "matmul", () => ops.matmul(tensor(1), tensor([1])));
    expectThrown(ShapeError, "matmul", () => ops.matmul(x, zeros([3, 4, 5], { dtype: "float64" })));
    expectThrown(DTypeError, "dot", () => ops.matmul(int([1]), tensor([1])));
  });
  test("the derivative of matmul is matmul", () => {
    const g = ops.matmul(x, y);
    const gradient = grad((v: Value) => ops.sum(ops.mul(ops.matmul(v, y), g)))(x);
    expectValue(gradient, [...ops.matmul(g, ops.transpose(y, [0, 2, 1])).dataSync()], x.shape);
  });
});

describe("einsum", () => {
  test("sums two letters and exchanges the others", () =>
    expectValue(ops.einsum("bij,bjk->kb", x, y), [92, 26, -29, -21, 6, -16, -11, 54, -15, -58], [5, 2]));
  test("three operands", () => {
    const z = tensor([0, 1, 2, 3, 4], { dtype: "float64" });
    expectValue(ops.einsum("bij,bjk,k->bi", x, y, z), [40, -77, -73, -86, -8, -29], [2, 3]);
    expectValue(ops.einsum("k,bij,bjk->bi", z, x, y), [40, -77, -73, -86, -8, -29], [2, 3]);
  });
  test("without an arrow the output is alphabetical", () => {
    expectValue(ops.einsum("bij,jk", x, at(y, 0)), [...ops.matmul(x, at(y, 0)).dataSync()], [2, 3, 5]);
    const outer = ops.einsum("ca,b", at(x, 0), ops.take(at(y, 0), 0, { axis: 1 }));
    expect(outer.shape).toEqual([4, 4, 3]);
    expectValue(at(at(outer, 0), 0), [24, -12, 18]);
    expectValue(at(at(outer, 0), 1), [-24, 12, -18]);
  });
  test("a letter twice takes the diagonal", () => {
    const square = ops.slice(x, [0, 0, 0], [2, 2, 4]);
    expectValue(ops.einsum("iij->ji", square), [-4, -2, 3, 5, -1, 1, 6, -3], [4, 2]);
    expect(
      ops
        .einsum(
          "ii",
          tensor([
            [1, Number.POSITIVE_INFINITY],
            [3, 4],
          ]),
        )
        .item(),
    ).toBe(5);
  });
  test("one operand: transposition and sums", () => {
    expectValue(ops.einsum("ij->ji", at(x, 0)), [...ops.transpose(at(x, 0)).dataSync()], [4, 3]);
    expect(ops.einsum("bij->", x).item()).toBe(ops.sum(x).item());
  });
  test.each([
    ["ij,jk->ik", [x]],
    ["ij->k", [at(x, 0)]],
    ["ij->ii", [at(x, 0)]],
    ["i...->i", [x]],
    ["ij->i->j", [at(x, 0)]],
    ["i", [x]],
    ["ij,ij", [at(x, 0), at(y, 0)]],
  ] as [string, Value[]][])("%s is refused", (formula, xs) => {
    expectThrown(ShapeError, "einsum", () => ops.einsum(formula, ...xs));
  });
});

describe("shapes", () => {
  test("reshape fills in -1", () => {
    expect(ops.reshape(x, [4, -1]).shape).toEqual([4, 6]);
    expectThrown(ShapeError, "reshape", () => ops.reshape(x, [-1, 5]));
    expectThrown(ShapeError, "reshape", () => ops.reshape(x, [-1, -1]));
    expectThrown(ShapeError, "reshape", () => ops.reshape(x, [-2, -12]));
    expectThrown(ShapeError, "reshape", () => ops.reshape(x, [5]));
  });
  test("transpose takes negative axes", () => {
    const expected = [-4, 2, -3, 3, -2, 4, 3, -2, 4, -1, 5, 0, -1, 5, 0, 6, 1, -4, 6, 1, -4, 2, -3, 3];
    expectValue(ops.transpose(x, [2, 0, 1]), expected, [4, 2, 3]);
    expectValue(ops.permute(x, [-1, 0, -2]), expected, [4, 2, 3]);
    expect(ops.transpose(x).shape).toEqual([4, 3, 2]);
    expectThrown(ShapeError, "permute", () => ops.transpose(x, [0, 0, 1]));
  });
  test("broadcastTo repeats axes of size 1 and adds leading ones", () => {
    expect(ops.broadcastTo(tensor([[1], [2]]), [2, 2, 3]).toArray()).toEqual([
      [
        [1, 1, 1],
        [2, 2, 2],
      ],
      [
        [1, 1, 1],
        [2, 2, 2],
      ],
    ]);
    expectThrown(ShapeError, "broadcastTo", () => ops.broadcastTo(x, [4]));
    expectThrown(ShapeError, "broadcastTo", () => ops.broadcastTo(tensor([1, 2]), [3]));
  });
  test("expandDims and squeeze undo each other", () => {
    expect(ops.expandDims(x, [0, -1]).shape).toEqual([1, 2, 3, 4, 1]);
    expect(ops.squeeze(ops.expandDims(x, [0, -1])).shape).toEqual([2, 3, 4]);
    expect(ops.squeeze(ops.expandDims(x, [0, -1]), -1).shape).toEqual([1, 2, 3, 4]);
    expectThrown(ShapeError, "squeeze", () => ops.squeeze(x, 0));
  });
  test("split undoes concat and stack", () => {
    const [a, b] = [ops.slice(x, [0, 0, 0], [2, 3, 1]), ops.slice(x, [0, 0, 1], [2, 3, 4])];
    expect(ops.concat([a, b], { axis: -1 }).toArray()).toEqual(x.toArray());
    const parts = ops.split(x, [1], { axis: 2 });
    expect(parts.map((p) => p.toArray())).toEqual([a.toArray(), b.toArray()]);
    const rows = ops.split(x, 3, { axis: 1 }).map((row) => ops.squeeze(row, 1));
    expect(ops.stack(rows, { axis: 1 }).toArray()).toEqual(x.toArray());
    expect(ops.stack(rows, { axis: -1 }).shape).toEqual([2, 4, 3]);
    expectThrown(ShapeError, "split", () => ops.split(x, 5));
    expectThrown(ShapeError, "stack", () => ops.stack([tensor([1]), tensor([1, 2])]));
    expectThrown(DTypeError, "concat", () => ops.concat([tensor([1]), int([1])]));
    expectThrown(DTypeError, "stack", () => ops.stack([tensor([1]), int([1])]));
    expectThrown(ShapeError, "concat", () => ops.concat([]));
    expectThrown(ShapeError, "concat", () => ops.stack([]));
  });
  test("slice does not count from the end", () => {
    expect(ops.slice(tensor([0, 1, 2, 3, 4]), [1], [5], [2]).toArray()).toEqual([1, 3]);
    expectThrown(ShapeError, "slice", () => ops.slice(tensor([0, 1]), [-1], [2]));
    expectThrown(ShapeError, "slice", () => ops.slice(tensor([0, 1]), [0], [3]));
  });
  test("pad and flip", () => {
    expect(
      ops
        .pad(
          int([[1]]),
          [
            [0, 1],
            [1, 0],
          ],
          7,
        )
        .toArray(),
    ).toEqual([
      [7, 1],
      [7, 7],
    ]);
    expect(
      ops
        .flip(
          tensor([
            [1, 2],
            [3, 4],
          ]),
        )
        .toArray(),
    ).toEqual([
      [4, 3],
      [2, 1],
    ]);
    expect(
      ops
        .flip(
          tensor([
            [1, 2],
            [3, 4],
          ]),
          { axis: -1 },
        )
        .toArray(),
    ).toEqual([
      [2, 1],
      [4, 3],
    ]);
    expectThrown(DTypeError, "pad", () => ops.pad(int([1]), [[1, 1]], 0.5));
    expectThrown(ShapeError, "pad", () => ops.pad(x, [[1, 1]]));
  });
});

test.each([
  ["softmax", () => ops.softmax(tensor(1))],
  ["cumsum", () => ops.cumsum(tensor(1))],
  ["sum", () => ops.sum(tensor(1), { axis: 0 })],
])("%s along an axis of a scalar says that there is none", (op, call) => {
  expect(call).toThrow(ShapeError);
  expect(call).toThrow(
    new RegExp(`^Cannot ${op}: axis is -?[01] of a scalar, a value with that axis is needed`),
  );
});

describe("reductions", () => {
  test("axes and keepDims", () => {
    expect(ops.sum(x, { axis: [0, -1] }).shape).toEqual([3]);
    expect(ops.max(x, { axis: 1, keepDims: true }).shape).toEqual([2, 1, 4]);
    expect(ops.mean(x, { keepDims: true }).shape).toEqual([1, 1, 1]);
    expect(ops.sum(x, { axis: [] }).toArray()).toEqual(x.toArray());
    expectThrown(ShapeError, "sum", () => ops.sum(x, { axis: 3 }));
    expectThrown(ShapeError, "mean", () => ops.mean(x, { axis: [0, -3] }));
    expectThrown(ShapeError, "argmax", () => ops.argmax(x, { axis: 3 }));
  });
  test("integers: sums stay, means are float32, bool has no sum", () => {
    expect(ops.sum(int([1, 2])).dtype).toBe("int32");
    expect(ops.mean(int([1, 2])).dtype).toBe("float32");
    expect(ops.mean(int([1, 2])).item()).toBe(1.5);
    expect(ops.mean(ops.less(tensor([1, 2]), 2)).item()).toBe(0.5);
    expectThrown(DTypeError, "sum", () => ops.sum(ops.less(tensor([1]), 2)));
  });
  test("var, std and norm", () => {
    expectValue(ops.var(x, { axis: [0, 2] }), [10.9375, 8.359375, 10.25]);
    expectValue(ops.var(x, { correction: 1 }), [10.809782608695652]);
    const s = [2.6246692913372702, 4.08248290463863];
    expectValue(ops.std(x, { axis: 1 }), [s[0]!, s[0]!, s[0]!, s[1]!, s[0]!, s[0]!, s[1]!, s[0]!]);
    expectValue(
      ops.norm(at(x, 0), { axis: 0 }),
      [5.385164807134504, 5.385164807134504, 5.0990195135927845, 7.280109889280518],
    );
    expect(ops.var(int([1, 3])).item()).toBe(1);
    expectThrown(ShapeError, "var", () => ops.var(tensor([1]), { correction: 1 }));
  });
  test("norm and std have derivative 0 where they are 0", () => {
    expect(grad((v: Value) => ops.norm(v))(zeros([2])).toArray()).toEqual([0, 0]);
    expect(grad((v: Value) => ops.std(v))(full([2], 3)).toArray()).toEqual([0, 0]);
    expect(hvp((v: Value) => ops.norm(v))(zeros([2]), full([2], 1)).toArray()).toEqual([0, 0]);
  });
  test("argmax and argmin flatten without an axis", () => {
    expect(ops.argmax(x).item()).toBe(3);
    expect(ops.argmax(x, { keepDims: true }).shape).toEqual([1, 1, 1]);
    expect(ops.argmax(x, { axis: 1 }).toArray()).toEqual([
      [1, 2, 1, 0],
      [2, 1, 0, 2],
    ]);
    expect(ops.argmin(x, { axis: -1 }).toArray()).toEqual([
      [0, 1, 3],
      [1, 3, 2],
    ]);
    expect(ops.argmin(x, { axis: 0, keepDims: true }).shape).toEqual([1, 3, 4]);
  });
  test("cumsum, prod and min", () => {
    expectValue(
      ops.cumsum(x, { axis: 1 }),
      [-4, 3, -1, 6, -2, 1, 4, 7, -5, 5, 4, 3, 3, -1, 6, 2, 1, 4, 7, -1, 5, 4, 3, 2],
    );
    expect(
      ops
        .prod(
          tensor([
            [1, 2],
            [3, 4],
          ]),
          { axis: 0 },
        )
        .toArray(),
    ).toEqual([3, 8]);
    expect(ops.min(x).item()).toBe(-4);
  });
});

describe("logsumexp and softmax", () => {
  const inf = Number.POSITIVE_INFINITY;
  test("agree with NumPy", () =>
    expectValue(
      ops.logsumexp(x, { axis: [0, 2] }),
      [6.7513023744287635, 5.736483247049298, 4.878004488854457],
    ));
  test("large elements, and elements that are minus infinity", () => {
    expect(ops.logsumexp(tensor([1e4, 1e4])).item()).toBeCloseTo(1e4 + Math.LN2, 2);
    expect(ops.logsumexp(tensor([-inf, 0])).item()).toBe(0);
    expect(ops.logsumexp(tensor([-inf, -inf])).item()).toBe(-inf);
    expect(ops.logsumexp(tensor([inf, 0])).item()).toBe(inf);
    expect(ops.softmax(tensor([-inf, 1000])).toArray()).toEqual([0, 1]);
    expect(ops.logSoftmax(tensor([-1000, 1000])).toArray()).toEqual([-2000, 0]);
  });
  test("the derivative of logsumexp is softmax, also next to minus infinity", () => {
    expect(grad((v: Value) => ops.logsumexp(v))(tensor([-inf, 0, 0])).toArray()).toEqual([0, 0.5, 0.5]);
    expect(grad((v: Value) => ops.logsumexp(v))(tensor([1e4, -1e4])).toArray()).toEqual([1, 0]);
  });
  test("the curvature of logsumexp is diag(p) - p p'", () => {
    const v = tensor([0.3, -1, 2], { dtype: "float64" });
    const u = tensor([1, 2, -1], { dtype: "float64" });
    const p = [...ops.softmax(v).dataSync()];
    const along = p[0]! * 1 + p[1]! * 2 - p[2]!;
    const expected = [1, 2, -1].map((d, i) => p[i]! * (d - along));
    expectValue(hvp((w: Value) => ops.logsumexp(w))(v, u), expected);
  });
});

describe("positions", () => {
  test("take and negative indices", () => {
    expectValue(
      ops.take(x, int([2, -1]), { axis: 1 }),
      [-3, 4, 0, -4, -3, 4, 0, -4, 4, 0, -4, 3, 4, 0, -4, 3],
      [2, 2, 4],
    );
    expect(ops.take(x, int([[0], [1]]), { axis: 2 }).shape).toEqual([2, 3, 2, 1]);
    expect(ops.take(x, -1).shape).toEqual([3, 4]);
    expect(() => ops.take(x, 2)).toThrow(RangeError);
    expect(() => ops.take(x, -3)).toThrow(RangeError);
    expectThrown(DTypeError, "take", () => ops.take(x, tensor([0])));
  });
  test("gather reads along an axis", () => {
    const row = (a: number, b: number): number[][] => [
      [a, b],
      [a, b],
      [a, b],
    ];
    const indices = tensor([row(0, 3), row(1, -1)], { dtype: "int32" });
    expectValue(ops.gather(x, indices, { axis: 2 }), [-4, 6, 2, 1, -3, -4, -1, 2, 5, -3, 0, 3], [2, 3, 2]);
    expectThrown(ShapeError, "gather", () => ops.gather(x, int([0]), { axis: 2 }));
  });
  test("scatterAdd is the transpose of take", () => {
    const indices = int([2, 0, -1]);
    const weight = make(24, [2, 3, 4], (i) => i - 9);
    const gradient = grad((v: Value) => ops.sum(ops.mul(ops.take(v, indices, { axis: 1 }), weight)))(x);
    const zero = zeros([2, 3, 4], { dtype: "float64" });
    expect(ops.scatterAdd(zero, indices, weight, { axis: 1 }).toArray()).toEqual(gradient.toArray());
    expect(ops.scatterAdd(tensor([1, 1]), int([1, 1]), 2).toArray()).toEqual([1, 5]);
    expectThrown(ShapeError, "broadcastTo", () => ops.scatterAdd(tensor([1]), int([0]), tensor([1, 2])));
  });
  test("take under vmap is take of each row", () => {
    const rows = tensor([
      [1, 2],
      [3, 4],
    ]);
    expect(vmap((v: Value, i: Value) => ops.take(v, i))(rows, int([1, -2])).toArray()).toEqual([2, 3]);
  });
  test("oneHot gives zeros outside", () => {
    expect(ops.oneHot(int([1, -1, 2]), 2).toArray()).toEqual([
      [0, 1],
      [0, 0],
      [0, 0],
    ]);
    expect(ops.oneHot(int([[0]]), 3, { dtype: "int32" }).shape).toEqual([1, 1, 3]);
  });
  test("sort and argsort", () => {
    expectValue(
      ops.sort(x, { axis: 1 }),
      [-4, -2, -1, -4, -3, 3, 0, 1, 2, 4, 5, 6, -2, -1, -4, -3, 3, 0, 1, 2, 4, 5, 6, 3],
    );
    expect(ops.argsort(at(x, 0)).toArray()).toEqual([
      [0, 2, 1, 3],
      [1, 3, 0, 2],
      [3, 0, 2, 1],
    ]);
  });
});

describe("windows", () => {
  // The expected values are a loop over windows with np.einsum.
  const image = make(40, [1, 2, 4, 5], (i) => ((i * 3) % 7) - 3);
  const kernel = make(36, [3, 2, 2, 3], (i) => ((i * 5) % 9) - 4);
  test("conv", () =>
    expectValue(
      ops.conv(image, kernel),
      [
        -38, 35, -11, -23, 22, -38, -1, 16, -23, 13, -34, 31, -5, 4, 13, -16, 7, -5, 19, 14, -26, 22, -32, 19,
        32, -29, 22,
      ],
      [1, 3, 3, 3],
    ));
  test("conv with padding same and strides", () =>
    expectValue(
      ops.conv(image, kernel, {
        strides: [2, 1],
        padding: [
          [0, 1],
          [1, 1],
        ],
      }),
      [
        16, -38, 35, -11, 5, 11, -1, 16, -23, 13, -2, 13, -34, 31, -13, 20, -16, 7, -5, 1, -20, 19, 14, -26,
        23, -34, 32, -29, 22, -20,
      ],
      [1, 3, 2, 5],
    ));
  test("conv with dilation and unequal padding", () =>
    expectValue(
      ops.conv(image, kernel, {
        strides: [1, 2],
        padding: [
          [1, 0],
          [2, 0],
        ],
        dilation: [2, 1],
      }),
      [
        -12, -28, -4, -3, -41, -35, 15, 2, -41, 6, 17, 11, -3, 19, 37, -21, -13, 19, 6, 8, -10, 6, 16, -8, 6,
        26, 16,
      ],
      [1, 3, 3, 3],
    ));
  test("same padding keeps the size, groups split the channels", () => {
    expect(ops.conv(image, kernel, { padding: "same" }).shape).toEqual([1, 3, 4, 5]);
    const depthwise = ops.conv(image, ops.slice(kernel, [0, 0, 0, 0], [2, 1, 2, 3]), { groups: 2 });
    const second = ops.conv(
      ops.slice(image, [0, 1, 0, 0], [1, 2, 4, 5]),
      ops.slice(kernel, [1, 0, 0, 0], [2, 1, 2, 3]),
    );
    expectValue(ops.slice(depthwise, [0, 1, 0, 0], [1, 2, 3, 3]), [...second.dataSync()]);
  });
  test("conv that does not fit", () => {
    expectThrown(ShapeError, "conv", () => ops.conv(image, zeros([1, 2, 3], { dtype: "float64" })));
    expectThrown(ShapeError, "conv", () => ops.conv(tensor([1]), kernel));
  });
  test("pooling", () => {
    const v = tensor([
      [
        [
          [1, 2, 3],
          [4, 5, 6],
          [7, 8, 9],
        ],
      ],
    ]);
    expect(ops.maxPool(v).toArray()).toEqual([[[[5]]]]);
    expect(ops.maxPool(v, { window: 2, strides: 1 }).toArray()).toEqual([
      [
        [
          [5, 6],
          [8, 9],
        ],
      ],
    ]);
    expect(ops.avgPool(v, { window: [1, 3] }).toArray()).toEqual([[[[2], [5], [8]]]]);
    expect(ops.avgPool(v, { padding: "same" }).toArray()).toEqual([
      [
        [
          [3, 4.5],
          [7.5, 9],
        ],
      ],
    ]);
    expect(ops.maxPool(ops.neg(v), { padding: "same" }).toArray()).toEqual([
      [
        [
          [-1, -3],
          [-7, -9],
        ],
      ],
    ]);
    expectThrown(ShapeError, "maxPool", () => ops.maxPool(tensor([[1]])));
  });
  test("a window of padding only has no mean and no maximum", () => {
    const padding = [[2, 0]] as const;
    const v = tensor([[[1, 2, 3, 4]]]);
    expectThrown(ShapeError, "avgPool", () => ops.avgPool(v, { window: 2, padding }));
    expectThrown(ShapeError, "maxPool", () => ops.maxPool(v, { window: 2, padding }));
    expect(ops.avgPool(v, { window: 3, padding }).toArray()).toEqual([[[1, 3]]]);
    const empty = zeros([1, 1, 0]);
    expectThrown(ShapeError, "avgPool", () => ops.avgPool(empty, { window: 2, padding: [[1, 1]] }));
  });
});
