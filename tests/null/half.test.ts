/** float16 on the host: its numbers, its rounding, and everything that makes, moves and keeps tensors. */
import { describe, expect, test } from "bun:test";
import { DTypeError } from "../../core/errors.ts";
import * as e from "../../core/expr.ts";
import { input } from "../../core/expr.ts";
import { bitsOfHalf, halfOfBits, halfOfDouble, keepsHalf, roundedToHalf } from "../../core/half.ts";
import { halvesWidened } from "../../core/passes/halves.ts";
import { simplified } from "../../core/passes/simplify.ts";
import { type Program, stage, verify } from "../../core/program.ts";
import { decodeValue, encodeValue } from "../../dist/runtime/payload.ts";
import * as ct from "../../mod.ts";
import { SeededDraw } from "../support/arbitrary_tensor.ts";
import { interpret } from "../support/expr_interpreter.ts";

const half = { dtype: "float16" } as const;

/** All float16 numbers, in the order of their bits. */
const numbers = new Float16Array(Uint16Array.from({ length: 65536 }, (_, i) => i).buffer);
const bits = new Int16Array(numbers.buffer);

/** Numbers beside and between float16 numbers, of every size, and some that are none. */
function hardNumbers(): number[] {
  const draw = new SeededDraw({ seed: 7, size: 1 });
  const found = [0, -0, Infinity, -Infinity, Number.NaN, 65519, 65520, -65520, 1e30, 2 ** -25, 2 ** -149];
  for (let i = 0; i < 3000; i++) {
    const at = draw.int(0, 0x7bfe);
    const middle = (numbers[at]! + numbers[at + 1]!) / 2;
    const sign = draw.bool() ? 1 : -1;
    for (const x of [middle, middle * (1 + 2 ** -23), middle * (1 - 2 ** -24)])
      found.push(sign * Math.fround(x));
  }
  return found;
}

describe("rounding", () => {
  const x = input(0, "f32");

  test("the expression gives the nearest float16, as typed arrays do", () => {
    const rounded = roundedToHalf(x);
    const sum = bitsOfHalf(x);
    for (const number of hardNumbers()) {
      const want = Math.f16round(number);
      expect(interpret(rounded, [number], 0)).toBe(want);
      const stored = new Float16Array(Int16Array.of(interpret(sum, [number], 0)).buffer)[0]!;
      expect(stored).toBe(want);
    }
  });

  test("bits become their number, and numbers their bits", () => {
    const [decoded, encoded] = [halfOfBits(input(0, "i32")), bitsOfHalf(x)];
    for (let i = 0; i < 65536; i += i % 1024 < 3 || i % 1024 > 1020 ? 1 : 61) {
      expect(interpret(decoded, [bits[i]!], 0)).toBe(numbers[i]!);
      if (!Number.isNaN(numbers[i])) expect(interpret(encoded, [numbers[i]!], 0)).toBe(bits[i]!);
    }
  });

  test("a float64 is rounded once", () => {
    const rounded = halfOfDouble(input(0, "f64"));
    const twice = 1 + 2 ** -11 + 2 ** -40;
    expect(Math.f16round(Math.fround(twice))).toBe(1);
    expect(interpret(rounded, [twice], 0)).toBe(1 + 2 ** -10);
    for (const number of hardNumbers()) {
      for (const factor of [1, 1 + 2 ** -45, 1 - 2 ** -45]) {
        expect(interpret(rounded, [number * factor], 0)).toBe(Math.f16round(number * factor));
      }
    }
    expect(ct.tensor([twice], { dtype: "float64" }).astype("float16").item()).toBe(1 + 2 ** -10);
  });

  test("what only chooses among float16 numbers needs none", () => {
    const [a, b, c] = [input(0, "f32"), input(1, "f32"), input(2, "f32")];
    const own = new Set([a, b]);
    expect(keepsHalf(e.max(e.neg(a), e.select(e.lt(a, c), b, e.constant(0.5, "f32"))), own)).toBe(true);
    expect(keepsHalf(e.max(a, e.constant(0.1, "f32")), own)).toBe(false);
    expect(keepsHalf(e.select(e.lt(a, b), a, c), own)).toBe(false);
    expect(keepsHalf(e.add(a, b), own)).toBe(false);
  });
});

describe("tensors", () => {
  test("are made of the nearest numbers and read back", async () => {
    const x = ct.tensor(
      [
        [0.1, 70000],
        [-2, 1e-9],
      ],
      half,
    );
    expect(String(x.aval)).toBe("f16[2,2]");
    expect(x.toArray()).toEqual([
      [Math.f16round(0.1), Infinity],
      [-2, 0],
    ]);
    expect(x.dataSync()).toBeInstanceOf(Float16Array);
    expect(await x.data()).toEqual(Float16Array.of(0.1, 70000, -2, 1e-9));
    expect(ct.tensor(Float16Array.of(1, 2)).dtype).toBe("float16");
    expect(ct.tensor(0.1, half).item()).toBe(Math.f16round(0.1));
    expect(String(ct.tensor([0.5], half))).toBe("f16[1] [0.5]");
  });

  test("come from every maker", () => {
    const made = [
      ct.zeros([2], half),
      ct.ones([2], half),
      ct.full([2], 0.1, half),
      ct.arange(0, 1, 0.25, half),
      ct.linspace(0, 1, 5, half),
      ct.eye(2, 2, half),
      ct.oneHot(ct.tensor([1], { dtype: "int32" }), 3, half),
      ct.zerosLike(ct.ones([2], half)),
    ];
    expect(made.map((x) => x.dtype)).toEqual(made.map(() => "float16"));
    expect(made[2]!.toArray()).toEqual([Math.f16round(0.1), Math.f16round(0.1)]);
    expect(made[3]!.toArray()).toEqual([0, 0.25, 0.5, 0.75]);
  });

  test("meet no other element type without a cast", () => {
    const x = ct.ones([2], half);
    expect(() => ct.add(x, ct.ones([2]))).toThrow(DTypeError);
    expect(() => ct.matmul(ct.ones([2, 2], half), ct.ones([2, 2]))).toThrow(DTypeError);
    expect(x.mul(0.1).toArray()).toEqual([Math.f16round(0.1), Math.f16round(0.1)]);
  });

  test("sums, means and lengths do not lose what float16 cannot hold", () => {
    const ones = ct.ones([100_000], half);
    expect(ones.sum().item()).toBe(Infinity);
    expect(ones.mean().item()).toBe(1);
    expect(
      ct
        .full([30_000], 2 ** -10, half)
        .sum()
        .item(),
    ).toBe(Math.f16round(30_000 / 1024));
    expect(ct.tensor([300, 400], half).norm().item()).toBe(500);
    expect(ct.var(ct.tensor([1000, 3000], half)).item()).toBe(Infinity);
    expect(ct.std(ct.tensor([1000, 3000], half)).item()).toBe(1000);
    expect(
      ct
        .grad((x: ct.Value) => x.mean())(ct.ones([4], half))
        .toArray(),
    ).toEqual([0.25, 0.25, 0.25, 0.25]);
  });

  test("a host without such arrays says so", async () => {
    const own = Float16Array;
    const path: string = "../../core/dtype.ts?without";
    try {
      Reflect.deleteProperty(globalThis, "Float16Array");
      const old = (await import(path)) as typeof import("../../core/dtype.ts");
      expect(() => old.makeArray("float16", 1)).toThrow(
        "Cannot make float16 elements: this host has no Float16Array, a newer one is needed; use float32",
      );
      expect(old.dtypeOf(new Float32Array(1))).toBe("float32");
    } finally {
      globalThis.Float16Array = own;
    }
  });
});

describe("files and messages", () => {
  test("safetensors have them as F16", () => {
    const tree = {
      a: ct.tensor([1, -2.5, 65504], half),
      b: ct.tensor([1], { dtype: "bool" }),
      c: ct.tensor([7]),
    };
    const bytes = ct.io.encode(tree);
    const header = new TextDecoder().decode(
      bytes.subarray(8, 8 + new DataView(bytes.buffer).getUint32(0, true)),
    );
    expect(JSON.parse(header).a).toEqual({ dtype: "F16", shape: [3], data_offsets: [4, 10] });
    // 1, -2.5 and the largest, as IEEE 754 writes them, after the one float32.
    const body = bytes.subarray(bytes.length - 11);
    expect([...body.subarray(4, 10)]).toEqual([0x00, 0x3c, 0x00, 0xc1, 0xff, 0x7b]);
    const { tree: read } = ct.io.decode<typeof tree>(bytes);
    expect(read.a.dtype).toBe("float16");
    expect(read.a.toArray()).toEqual([1, -2.5, 65504]);
  });

  test("they travel between processes", () => {
    const back = decodeValue(encodeValue([ct.tensor([0.5, 1], half)])) as ct.Value[];
    expect(String(back[0])).toBe("f16[2] [0.5,1]");
  });
});

describe("random numbers", () => {
  const key = ct.random.key(3);

  test("uniform ones are below 1 and evenly spaced", () => {
    const drawn = ct.random.uniform(key, [20_000], half).dataSync();
    const wide = ct.random.uniform(key, [20_000]).dataSync();
    drawn.forEach((x, i) => {
      expect(x).toBe(Math.floor(wide[i]! * 2048) / 2048);
    });
    const shifted = ct.random.uniform(key, [1000], { ...half, min: 2, max: 3 }).dataSync();
    expect(shifted.every((x) => x >= 2 && x <= 3)).toBe(true);
  });

  test("normal ones are those of float32, rounded", () => {
    const drawn = ct.random.normal(key, [500], half);
    expect(drawn.dtype).toBe("float16");
    expect([...drawn.dataSync()]).toEqual([...ct.random.normal(key, [500]).dataSync()].map(Math.f16round));
  });

  test("events and classes are drawn in float32", () => {
    expect(
      ct.random
        .bernoulli(key, ct.ones([5000], half))
        .dataSync()
        .every((x) => x === 1),
    ).toBe(true);
    const logits = ct.tensor([0, 1, -1], half);
    const options = { shape: [200] };
    expect(ct.random.categorical(key, logits, options).toArray()).toEqual(
      ct.random.categorical(key, logits.astype("float32"), options).toArray(),
    );
  });
});

test("derivatives are float16 where the point is", () => {
  const x = ct.tensor([0.5, -1, 2], half);
  const f = (y: ct.Value) => y.sin().mul(y).sum();
  const slope = ct.grad(f)(x);
  expect(slope.dtype).toBe("float16");
  const exact = ct.grad(f)(x.astype("float32")).dataSync();
  slope.dataSync().forEach((one, i) => {
    expect(Math.abs(one - exact[i]!)).toBeLessThan(2 ** -8);
  });
  ct.checkGrads(f, [x]);
});

describe("programs", () => {
  const recorded = (f: (x: ct.Value) => ct.Value, dtype: ct.DType): Program =>
    stage((x) => [f(x!)], [ct.aval([4, 4], dtype)]);

  test("a cast that loses nothing is undone, one that rounds is not", () => {
    const there = recorded((x) => x.astype("float32").astype("float16"), "float16");
    expect(simplified(there).eqns).toEqual([]);
    const back = recorded((x) => x.astype("float16").astype("float32"), "float32");
    expect(simplified(back).eqns.length).toBe(2);
  });

  test("kernels by hand read one float32 copy of an operand, others their own types", () => {
    const program = recorded((x) => ct.matmul(ct.matmul(x, x), x).add(x), "float16");
    const wide = halvesWidened(program, () => false);
    verify(wide);
    const names = wide.eqns.map(({ prim, outs }) => `${prim.name} ${outs[0]!.aval}`);
    expect(names).toEqual([
      "cast f32[4,4]",
      "dot f32[4,4]",
      "cast f16[4,4]",
      "cast f32[4,4]",
      "dot f32[4,4]",
      "cast f16[4,4]",
      "add f16[4,4]",
    ]);
    expect(halvesWidened(program, () => true)).toBe(program);
  });
});
