/** Random numbers against published vectors: Random123 for the cipher, JAX in its partitionable mode for the rest. */
import { describe, expect, test } from "bun:test";
import { checkGrads } from "../../autodiff/check.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { tensor } from "../../core/create.ts";
import { DTypeError, ShapeError } from "../../core/errors.ts";
import { erfScalar } from "../../core/prims/elementwise.ts";
import { concat, permute, reshape } from "../../core/prims/movement.ts";
import { erfInv, erfInvScalar, threefry2x32 } from "../../core/prims/random.ts";
import * as random from "../../core/random.ts";
import type { Nested, Value } from "../../core/value.ts";

const words = (keys: readonly Value[]): Nested[] => keys.map((k) => k.toArray());
const numbers = (x: Value): number[] => [...x.dataSync()];
const close = (actual: Value, expected: readonly number[], tolerance: number): void => {
  const got = numbers(actual);
  expect(got.length).toBe(expected.length);
  got.forEach((v, i) => {
    expect(Math.abs(v - expected[i]!)).toBeLessThan(tolerance);
  });
};

test("threefry2x32-20 gives the known answers of Random123 (kat_vectors)", () => {
  const encrypt = (k0: number, k1: number, c0: number, c1: number): string[] => {
    const out = new Uint32Array(2);
    threefry2x32(k0, k1, c0, c1, out, 0);
    return [...out].map((word) => word.toString(16));
  };
  const ones = 0xffffffff;
  expect(encrypt(0, 0, 0, 0)).toEqual(["6b200159", "99ba4efe"]);
  expect(encrypt(ones, ones, ones, ones)).toEqual(["1cb996fc", "bb002be7"]);
  expect(encrypt(0x13198a2e, 0x03707344, 0x243f6a88, 0x85a308d3)).toEqual(["c4923a9c", "483df7a0"]);
});

describe("equal to JAX with jax_threefry_partitionable, its default since 0.5.0", () => {
  test("key", () => {
    expect(random.key(7).toArray()).toEqual([0, 7]);
    expect(random.key(2 ** 32 * 3 + 5).toArray()).toEqual([3, 5]);
  });

  // https://github.com/ekzhang/jax-js test/random.test.ts: values of jax.random.bits
  test("bits", () => {
    expect(random.bits(random.key(0)).item()).toBe(4070199207);
    expect(random.bits(random.key(10), [4]).toArray()).toEqual([
      169096361, 1572511259, 2689743692, 2228103506,
    ]);
  });

  // Same file; and https://github.com/NVIDIA/TensorRT-Incubator, the JAX tests of MLIR-TensorRT
  test("split", () => {
    expect(words(random.split(random.key(0)))).toEqual([
      [1797259609, 2579123966],
      [928981903, 3453687069],
    ]);
    expect(words(random.split(random.key(1), 3))).toEqual([
      [507451445, 1853169794],
      [1948878966, 4237131848],
      [2441914641, 3819641963],
    ]);
    expect(words(random.split(random.key(2)))).toEqual([
      [1821159224, 3364244817],
      [637334850, 3278974502],
    ]);
  });

  // https://github.com/jax-ml/jax/pull/13341: fold_in(key, i) equals split(key, n)[i]
  test("foldIn", () => {
    expect(random.foldIn(random.key(0), 2).toArray()).toEqual([4146024105, 2718843009]);
    expect(random.foldIn(random.key(1), 1).toArray()).toEqual([1948878966, 4237131848]);
    const root = random.key(72);
    expect(words([0, 1, 2].map((i) => random.foldIn(root, i)))).toEqual(words(random.split(root, 3)));
    expect(random.foldIn(root, tensor(5, { dtype: "int32" })).toArray()).toEqual(
      random.foldIn(root, 5).toArray(),
    );
  });

  // https://docs.jax.dev/en/latest/jax.random.html, and the two repositories above
  test("uniform, every bit", () => {
    close(random.uniform(random.key(0)), [0.947667], 5e-7);
    const [, subkey] = random.split(random.key(0));
    close(random.uniform(subkey!), [0.00729382], 5e-9);
    close(random.uniform(random.key(51), [4]), [0.471269, 0.12344253, 0.17550635, 0.5663593], 5e-8);
    const [, second] = random.split(random.key(0));
    close(
      random.uniform(second!, [4, 4]),
      [
        0.00729382, 0.02089119, 0.5814265, 0.36183798, 0.22303772, 0.11928833, 0.12543893, 0.61683, 0.0950073,
        0.9834225, 0.4248221, 0.8324801, 0.0966121, 0.22702086, 0.3545748, 0.67104137,
      ],
      6e-8,
    );
  });

  // https://docs.jax.dev/en/latest/random-numbers.html
  test("normal", () => {
    const key = random.key(42);
    close(random.normal(key), [-0.028304616], 1e-8);
    close(random.normal(key, [3]), [-0.02830462, 0.46713185, 0.29570296], 1e-7);
    const individually = random.split(key, 3).map((k) => random.normal(k).item());
    close(tensor(individually), [0.07592554, 0.60576403, 0.4323065], 1e-7);
    const draws: number[] = [];
    for (let [i, current] = [0, key as Value]; i < 3; i++) {
      const [next, subkey] = random.split(current);
      draws.push(random.normal(subkey!).item());
      current = next!;
    }
    close(tensor(draws), [0.6057640314102173, -0.21089035272598267, -0.3948981463909149], 1e-7);
  });

  // https://github.com/NVIDIA/TensorRT-Incubator, the JAX tests of MLIR-TensorRT
  test("normal, a matrix", () => {
    const [first] = random.split(random.key(0));
    close(
      random.normal(first!, [4, 4]),
      [
        1.0040143, -0.9063372, -0.7481722, -1.1713669, -0.8712328, 0.58883816, 0.72392994, -1.0255982,
        1.661628, -1.8910251, -1.2889339, 0.13360691, -1.1530392, 0.23929629, 1.7448071, 0.5050189,
      ],
      5e-7,
    );
  });
});

// Printed by jax 0.10.2 on CPU, default configuration; float64 with jax_enable_x64.
describe("equal to what JAX 0.10.2 prints", () => {
  const rows = tensor([
    [0, 1, 2],
    [3, 4, 5],
    [6, 7, 8],
    [9, 10, 11],
  ]);

  test("foldIn", () => {
    expect(random.foldIn(random.key(0), 5).toArray()).toEqual([1524306142, 1887795613]);
    expect(random.foldIn(random.key(123456789), 4000000000).toArray()).toEqual([4186000217, 2314533144]);
  });

  test("permutation, of one and of two rounds", () => {
    expect(random.permutation(random.key(0), 10).toArray()).toEqual([0, 1, 8, 5, 6, 4, 3, 2, 7, 9]);
    expect(random.permutation(random.key(1), 8).toArray()).toEqual([7, 6, 3, 2, 0, 1, 5, 4]);
    const many = numbers(random.permutation(random.key(5), 5000));
    expect(many.slice(0, 8)).toEqual([3885, 3236, 4827, 1095, 1821, 1534, 62, 2609]);
    expect(random.permutation(random.key(3), rows).toArray()).toEqual([
      [0, 1, 2],
      [6, 7, 8],
      [3, 4, 5],
      [9, 10, 11],
    ]);
    expect(random.permutation(random.key(3), rows, { axis: 1 }).toArray()).toEqual([
      [0, 2, 1],
      [3, 5, 4],
      [6, 8, 7],
      [9, 11, 10],
    ]);
  });

  test("categorical", () => {
    const logits = tensor([
      [0, 1, 2],
      [3, 0, -1],
    ]);
    expect(numbers(random.categorical(random.key(11), logits, { shape: [6, 2] }))).toEqual([
      2, 0, 1, 0, 1, 0, 1, 0, 2, 0, 1, 0,
    ]);
    expect(random.categorical(random.key(12), logits, { axis: 0 }).toArray()).toEqual([1, 0, 0]);
    const columns = permute(logits, [1, 0]);
    expect(numbers(random.categorical(random.key(13), columns, { axis: 0, shape: [4, 2] }))).toEqual([
      1, 0, 1, 0, 2, 0, 1, 0,
    ]);
  });

  test("bernoulli", () => {
    expect(numbers(random.bernoulli(random.key(4), 0.3, [12]))).toEqual([0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
    expect(numbers(random.bernoulli(random.key(4), tensor([0.1, 0.5, 0.9])))).toEqual([0, 0, 1]);
  });

  test("uniform between bounds, and float64", () => {
    expect(numbers(random.uniform(random.key(9), [3], { min: -3, max: 5 }))).toEqual([
      -2.6737756729125977, 4.740496635437012, 0.3588142395019531,
    ]);
    expect(numbers(random.uniform(random.key(0), [3], { dtype: "float64" }))).toEqual([
      0.41845711171638644, 0.21629545460551136, 0.9653214611189975,
    ]);
    close(
      random.normal(random.key(7), [3], { dtype: "float64" }),
      [1.0114813355590866, -1.6910609087906374, -0.7554662899926428],
      1e-15,
    );
  });
});

describe("ranges and moments", () => {
  const mean = (xs: readonly number[]): number => xs.reduce((sum, v) => sum + v, 0) / xs.length;
  const n = 20000;
  // Five standard errors: a correct generator fails with probability 6e-7.
  const errors = (variance: number): number => 5 * Math.sqrt(variance / n);

  test("uniform numbers fill [min, max)", () => {
    for (const dtype of ["float32", "float64"] as const) {
      const xs = numbers(random.uniform(random.key(1), [n], { min: -3, max: 5, dtype }));
      expect(Math.min(...xs)).toBeGreaterThanOrEqual(-3);
      expect(Math.max(...xs)).toBeLessThan(5);
      expect(Math.abs(mean(xs) - 1)).toBeLessThan(errors(64 / 12));
      // E u⁴ = 1/80 for u uniform in [-1/2, 1/2), variance of u² = 1/180
      const squares = xs.map((v) => ((v - 1) / 8) ** 2);
      expect(Math.abs(mean(squares) - 1 / 12)).toBeLessThan(errors(1 / 180));
    }
  });

  test("float64 numbers use 52 bits: both words of the cipher", () => {
    // key 0, counter 0: words 6b200159 99ba4efe
    const expected = (0x6b200159 * 2 ** 20 + Math.floor(0x99ba4efe / 2 ** 12)) / 2 ** 52;
    expect(random.uniform(random.key(0), [], { dtype: "float64" }).item()).toBe(expected);
  });

  test("normal numbers have mean 0, variance 1, kurtosis 3", () => {
    for (const dtype of ["float32", "float64"] as const) {
      const xs = numbers(random.normal(random.key(2), [n], { dtype }));
      expect(Math.abs(mean(xs))).toBeLessThan(errors(1));
      expect(Math.abs(mean(xs.map((v) => v ** 2)) - 1)).toBeLessThan(errors(2));
      expect(Math.abs(mean(xs.map((v) => v ** 4)) - 3)).toBeLessThan(errors(96));
      expect(xs.every(Number.isFinite)).toBe(true);
    }
  });

  test("bernoulli keeps its probabilities, given as number or value", () => {
    const coins = random.bernoulli(random.key(3), 0.3, [n]);
    expect(coins.dtype).toBe("bool");
    expect(Math.abs(mean(numbers(coins)) - 0.3)).toBeLessThan(errors(0.21));
    const rows = numbers(random.bernoulli(random.key(4), tensor([[0.2], [0.9]]), [2, n]));
    expect(Math.abs(mean(rows.slice(0, n)) - 0.2)).toBeLessThan(errors(0.16));
    expect(Math.abs(mean(rows.slice(n)) - 0.9)).toBeLessThan(errors(0.09));
    expect(random.bernoulli(random.key(5), tensor([0.5, 0.5])).shape).toEqual([2]);
    expect(numbers(random.bernoulli(random.key(5), 0, [50])).every((v) => v === 0)).toBe(true);
    expect(() => random.bernoulli(random.key(5), tensor([0.5, 0.5]), [3])).toThrow(ShapeError);
  });

  test("categorical draws classes with softmax probabilities, along any axis", () => {
    const p = [0.1, 0.2, 0.3, 0.4];
    const logits = tensor(p.map((v) => [Math.log(v) - 42, Math.log(p[0]! + p[3]! - v) + 7]));
    const drawn = random.categorical(random.key(6), logits, { axis: 0, shape: [n, 2] });
    expect(drawn.dtype).toBe("int32");
    const classes = numbers(drawn);
    for (let c = 0; c < 4; c++) {
      const share = (column: number): number =>
        mean(classes.filter((_, i) => i % 2 === column).map((v) => Number(v === c)));
      expect(Math.abs(share(0) - p[c]!)).toBeLessThan(errors(0.25));
      expect(Math.abs(share(1) - p[3 - c]!)).toBeLessThan(errors(0.25));
    }
    expect(random.categorical(random.key(7), tensor([[1, 2, 3]])).shape).toEqual([1]);
    expect(() => random.categorical(random.key(7), tensor([[1, 2, 3]]), { shape: [2] })).toThrow(ShapeError);
  });

  test("permutations contain everything once, and every order is as likely", () => {
    const many = numbers(random.permutation(random.key(8), 5000));
    expect(many).not.toEqual(many.toSorted((a, b) => a - b));
    expect(many.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 5000 }, (_, i) => i));
    const counts = new Map<string, number>();
    for (const key of random.split(random.key(9), 600)) {
      const order = String(random.permutation(key, 3).toArray());
      counts.set(order, (counts.get(order) ?? 0) + 1);
    }
    expect(counts.size).toBe(6);
    for (const count of counts.values()) expect(Math.abs(count - 100)).toBeLessThan(5 * Math.sqrt(600 / 6));
    const x = tensor([
      [1, 2, 3],
      [4, 5, 6],
    ]);
    const columns = random.permutation(random.key(10), x, { axis: -1 }).toArray() as number[][];
    expect(columns[1]).toEqual(columns[0]!.map((v) => v + 3));
    expect(random.permutation(random.key(0), 0).shape).toEqual([0]);
    expect(random.permutation(random.key(0), 1).toArray()).toEqual([0]);
  });
});

describe("erfInv", () => {
  // mpmath 1.3.0 with 40 digits
  const reference: [x: number, y: number][] = [
    [1e-300, 8.86226925452758e-301],
    [0.1, 0.08885599049425769],
    [0.5, 0.4769362762044699],
    [0.9, 1.1630871536766743],
    [0.9999, 2.75106390571208],
    [-0.999999, -3.458910737275499],
    [1 - 2 ** -53, 5.863584748755168],
  ];
  test("equals reference values to the last digits", () => {
    for (const [x, y] of reference) expect(Math.abs(erfInvScalar(x) / y - 1)).toBeLessThan(1e-14);
  });
  test("is the inverse of erf", () => {
    for (let y = -2.4; y <= 2.4; y += 0.1) expect(erfInvScalar(erfScalar(y))).toBeCloseTo(y, 12);
  });
  test("ends at infinity", () => {
    const at = [-1, 1, 1.5, Number.NaN, 0];
    expect(at.map(erfInvScalar)).toEqual([-Infinity, Infinity, Number.NaN, Number.NaN, 0]);
  });
  test("has its derivatives", () => {
    checkGrads((v: Value) => erfInv(v), [tensor([-0.8, 0, 0.5], { dtype: "float64" })]);
  });
});

describe("keys", () => {
  test("mapped draws equal draws key by key", () => {
    const list = random.split(random.key(1234), 5);
    const keys = concat(
      list.map((k) => reshape(k, [1, 2])),
      0,
    );
    const each = (draw: (k: Value) => Value): number[] => list.flatMap((k) => numbers(draw(k)));
    for (const draw of [
      (k: Value) => random.uniform(k, [3, 2]),
      (k: Value) => random.normal(k, [4], { dtype: "float64" }),
      (k: Value) => random.foldIn(k, 9),
      (k: Value) => random.split(k)[1]!,
      (k: Value) => random.permutation(k, 7),
      (k: Value) => random.categorical(k, tensor([0, 1, 2])),
    ]) {
      expect(numbers(vmap(draw)(keys))).toEqual(each(draw));
    }
    const steps = tensor([4, 5, 6], { dtype: "int32" });
    const folded = vmap((i: Value) => random.foldIn(list[0]!, i))(steps);
    expect(folded.toArray()).toEqual(words([4, 5, 6].map((i) => random.foldIn(list[0]!, i))));
  });

  test("what is not a key or a seed is refused", () => {
    expect(() => random.bits(tensor([0, 1]), [2])).toThrow(DTypeError);
    expect(() => random.bits(tensor([0, 1, 2], { dtype: "uint32" }), [2])).toThrow(ShapeError);
    expect(() => random.bits(tensor(0, { dtype: "uint32" }), [2])).toThrow(ShapeError);
    expect(() => random.bits(random.key(0), [-1])).toThrow(ShapeError);
    expect(() => random.uniform(random.key(0), [1], { dtype: "int32" })).toThrow(DTypeError);
    expect(() => random.normal(random.key(0), [1], { dtype: "bool" })).toThrow(DTypeError);
    expect(() => random.foldIn(random.key(0), tensor(1))).toThrow(DTypeError);
    for (const seed of [-1, 0.5, 2 ** 53, Number.NaN]) expect(() => random.key(seed)).toThrow(RangeError);
    for (const data of [-1, 0.5, 2 ** 32])
      expect(() => random.foldIn(random.key(0), data)).toThrow(RangeError);
  });

  test("nothing is drawn for empty shapes", () => {
    expect(random.normal(random.key(0), [0, 3]).shape).toEqual([0, 3]);
    expect(random.split(random.key(0), 0)).toEqual([]);
  });
});
