/**
 * float16 in compiled programs: the bits of the reference wherever every function rounds once, which tells a wrong
 * conversion, a value that was not rounded and one that was rounded twice from a right one.
 */
import { describe, expect, test } from "bun:test";
import { reference } from "../../core/backend.ts";
import { cpu } from "../../core/backends/cpu/backend.ts";
import { setBackend } from "../../core/trace.ts";
import type { Tensor, Value } from "../../core/value.ts";
import * as ct from "../../mod.ts";
import { SeededDraw, seeds } from "../support/arbitrary_tensor.ts";
import { propWith } from "../support/prop.ts";
import { assertClose, assertSameBits } from "../support/tolerance.ts";

type Function = (...xs: Value[]) => Value;

const half = { dtype: "float16" } as const;
/** All float16 numbers. */
const numbers = new Float16Array(Uint16Array.from({ length: 65536 }, (_, i) => i).buffer);

function on<T>(backend: typeof cpu, f: () => T): T {
  const previous = setBackend(backend);
  try {
    return f();
  } finally {
    setBackend(previous);
  }
}

/** Throws unless the compiled program, and each operation compiled by itself, give the bits of the reference. */
function assertExact(f: Function, args: readonly Tensor[], what: string): void {
  const expected = on(reference, () => f(...args)) as Tensor;
  assertSameBits(
    on(cpu, () => ct.jit(f)(...args)),
    expected,
    `${what}, compiled`,
  );
  assertSameBits(
    on(cpu, () => f(...args)),
    expected,
    `${what}, one by one`,
  );
}

describe("elements", () => {
  const all = ct.tensor(numbers);
  const wide = ct.tensor(Float32Array.from(numbers));

  test("every number is read, kept and written", () => {
    assertExact((x) => x.astype("float32"), [all], "to float32");
    assertExact((x) => x.astype("float16"), [wide], "from float32");
    assertExact((x) => x.astype("float64"), [all], "to float64");
    assertExact((x) => x.neg(), [all], "negated");
    assertExact((x) => ct.flip(x, { axis: 0 }), [all], "backwards");
    assertExact((x) => ct.isNan(x), [all], "NaN");
    assertExact((x) => x.astype("int32"), [all], "to int32");
  });

  test("what lies between numbers goes to the nearest, halves to even", () => {
    const between = new Float32Array(4 * 0x7c00);
    for (let i = 0; i < 0x7c00; i++) {
      // After the largest number comes what would be next: from the middle on it is infinite.
      const next = i === 0x7bff ? 65536 : numbers[i + 1]!;
      const middle = (numbers[i]! + next) / 2;
      between.set([middle, -middle, middle * (1 + 2 ** -23), middle * (1 - 2 ** -24)], 4 * i);
    }
    assertExact((x) => x.astype("float16"), [ct.tensor(between)], "float32");
    const double = Float64Array.from(between, (x, i) => x * (1 + ((i % 3) - 1) * 2 ** -50));
    assertExact((x) => x.astype("float16"), [ct.tensor(double)], "float64");
    assertExact(
      (x) => x.astype("float16"),
      [ct.tensor(Int32Array.of(2049, 2051, -65520, 65519, 2 ** 30))],
      "int32",
    );
  });

  test("every step of a fused loop rounds", () => {
    const x = ct.tensor([1, 1024, 0.1, -3], half);
    // 1024 + 0.25 is 1024: nothing is left of it when it is subtracted again.
    const f: Function = (y) => y.add(0.25).sub(y).mul(3).div(7);
    expect(on(cpu, () => ct.jit(f)(x)).dataSync()[1]).toBe(0);
    assertExact(f, [x], "sums");
  });
});

describe("programs", () => {
  propWith({ runs: 60 }, "moves and functions that round once, at random", seeds(40), (seed) => {
    const draw = new SeededDraw(seed);
    const [m, n] = [draw.int(1, 3 * seed.size), draw.int(1, 2 * seed.size)];
    const args = [draw.tensor({ shape: [m, n] }, "float16"), draw.tensor({ shape: [n] }, "float16")];
    const choices = Array.from({ length: 8 }, () => draw.int(0, 12));
    const number = draw.pick([0.1, 3, -0.7]);
    const f: Function = (x, row) => {
      let y = x!;
      for (const choice of choices) {
        const [rows, columns] = y.shape as [number, number];
        if (choice === 0) y = y.add(number);
        else if (choice === 1) y = y.mul(y);
        else if (choice === 2) y = y.abs().sqrt();
        else if (choice === 3) y = y.transpose();
        else if (choice === 4 && columns === row!.size) y = y.mul(row!);
        else if (choice === 5) y = ct.where(y.greater(0), y, y.mul(0.1));
        else if (choice === 6 && rows > 2) y = y.slice([1, 0], [rows, columns], [2, 1]);
        else if (choice === 7)
          y = ct.pad(
            y,
            [
              [1, 0],
              [0, 2],
            ],
            0.3,
          );
        else if (choice === 8 && rows < 100) y = ct.concat([y, y.neg()], { axis: 0 });
        else if (choice === 9) y = y.sub(y.max({ axis: 1, keepDims: true }));
        else if (choice === 10) y = y.astype("float32").mul(1.7).astype("float16");
        else if (choice === 11) y = ct.flip(y, { axis: 1 }).minimum(2);
        else y = y.div(3);
      }
      return y;
    };
    assertExact(f, args, `${choices} of [${m}, ${n}]`);
  });

  test("sums, products and convolutions are those of float32, rounded once", () => {
    const draw = new SeededDraw({ seed: 5, size: 4 });
    const cases: readonly (readonly [Function, ...number[][]])[] = [
      [(x) => x!.sum({ axis: 1 }), [37, 300]],
      [(x) => x!.sum({ axis: 0 }), [300, 37]],
      [(x) => x!.sum(), [70_000]],
      [(x) => ct.cumsum(x!), [500]],
      [(x) => x!.softmax(), [20, 90]],
      [(x, y) => ct.matmul(x!, y!), [33, 65], [65, 17]],
      [(x, y) => ct.conv(x!, y!, { padding: "same" }), [2, 3, 9, 8], [4, 3, 3, 3]],
    ];
    for (const [f, ...shapes] of cases) {
      const args = shapes.map((shape) => draw.tensor({ shape }, "float16"));
      const once = on(cpu, () => ct.jit(f)(...args));
      const exact = on(reference, () => f(...args.map((x) => x.astype("float64"))).astype("float16"));
      assertClose(once, exact, String(f));
    }
  });

  test("nothing runs on the host, and a table is not copied to be read", () => {
    const table = ct.ones([1000, 33], half);
    const at = ct.tensor([3, 999, 0], { dtype: "int32" });
    const f = ct.jit((x: Value, i: Value) => ct.take(x, i, { axis: 0 }).add(1).sum({ axis: 0 }));
    const text = on(cpu, () => f.show(table, at));
    expect(text).not.toContain(" host ");
    expect(text).not.toContain("f32[1000,33]");
    expect([...on(cpu, () => f(table, at)).dataSync()]).toEqual(new Array(33).fill(6));
  });

  test("storage that is given up is used again", () => {
    const step = ct.jit((w: Value, g: Value) => w.sub(g), { donate: 0 });
    on(cpu, () => {
      let w: Value = ct.full([100_003], 3, half);
      for (let i = 0; i < 3; i++) w = step(w, ct.full([100_003], 0.5, half));
      expect([w.dtype, w.dataSync()[0], w.dataSync()[100_002]]).toEqual(["float16", 1.5, 1.5]);
    });
  });
});

describe("mixed precision", () => {
  const key = ct.random.key(1);
  const draw = (i: number, shape: number[]): Value =>
    ct.random.normal(ct.random.foldIn(key, i), shape).mul(0.3);
  const params = { w: draw(0, [12, 20]), v: draw(1, [20, 5]) };
  const x = draw(2, [30, 12]);
  const y = draw(3, [30, 5]);

  /** The weights are float32; products and what is between them float16. */
  const lossIn =
    (dtype: ct.DType) =>
    (p: typeof params, x: Value, y: Value): Value => {
      const hidden = ct.matmul(x.astype(dtype), p.w.astype(dtype)).tanh();
      const out = ct.matmul(hidden, p.v.astype(dtype)).astype("float32");
      return out.sub(y).pow(2).mean();
    };

  test("gradients and products with the Hessian are float32 and near those of float32", () => {
    const tolerance = { relative: 2 ** -7, reason: "four products of float16, one after the other" };
    for (const transform of [
      (f: ReturnType<typeof lossIn>) => ct.grad(f)(params, x, y),
      (f: ReturnType<typeof lossIn>) => ct.jit(ct.grad(f))(params, x, y),
      (f: ReturnType<typeof lossIn>) =>
        ct.jit((p: typeof params) => ct.hvp((q: typeof params) => f(q, x, y))(p, p))(params),
      (f: ReturnType<typeof lossIn>) => {
        const each = (x: Value, y: Value) => ct.grad(f)(params, x.reshape([1, 12]), y.reshape([1, 5])).w;
        return { w: ct.vmap(each)(x, y).mean({ axis: 0 }) };
      },
    ]) {
      const [narrow, wide] = [transform(lossIn("float16")), transform(lossIn("float32"))] as Record<
        string,
        Value
      >[];
      for (const name of Object.keys(wide!)) {
        expect(narrow![name]!.dtype).toBe("float32");
        assertClose(narrow![name]!, wide![name]!, name, tolerance);
      }
    }
  });

  test("a compiled step of training learns", () => {
    const step = ct.jit((p: typeof params) => {
      const [loss, slope] = ct.valueAndGrad(lossIn("float16"))(p, x, y);
      return { loss, p: ct.tree.map((w: Value, g: Value) => w.sub(g.mul(0.5)), p, slope) };
    });
    let p = params;
    const losses: number[] = [];
    for (let i = 0; i < 40; i++) {
      const next = step(p);
      losses.push(next.loss.item());
      p = next.p as typeof params;
    }
    expect(losses.at(-1)!).toBeLessThan(0.7 * losses[0]!);
  });
});
