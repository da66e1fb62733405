import { test } from "bun:test";
import { jacfwd } from "../../autodiff/hvp.ts";
import { jvp } from "../../autodiff/jvp.ts";
import { grad } from "../../autodiff/vjp.ts";
import { exp, log, mul, pow, sin, tanh } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { float64 } from "../support/quartic.ts";
import { assertClose } from "../support/tolerance.ts";

type Scalar = (x: Value) => Value;
const forward =
  (f: Scalar): Scalar =>
  (x) =>
    jvp(f, [x], [float64(1)])[1];
const reverse = (f: Scalar): Scalar => grad(f);

/** Functions with the closed forms of their derivatives of order 0 to 3. */
const table: readonly { name: string; f: Scalar; at: number; derivatives: (x: number) => number[] }[] = [
  {
    name: "x sin x",
    f: (x) => mul(x, sin(x)),
    at: 0.7,
    derivatives: (x) => [
      x * Math.sin(x),
      Math.sin(x) + x * Math.cos(x),
      2 * Math.cos(x) - x * Math.sin(x),
      -3 * Math.sin(x) - x * Math.cos(x),
    ],
  },
  {
    name: "exp 2x",
    f: (x) => exp(mul(x, 2)),
    at: -0.3,
    derivatives: (x) => [0, 1, 2, 3].map((k) => 2 ** k * Math.exp(2 * x)),
  },
  { name: "log x", f: log, at: 1.3, derivatives: (x) => [Math.log(x), 1 / x, -1 / x ** 2, 2 / x ** 3] },
  {
    name: "x^5",
    f: (x) => pow(x, 5),
    at: 1.1,
    derivatives: (x) => [x ** 5, 5 * x ** 4, 20 * x ** 3, 60 * x ** 2],
  },
  {
    name: "tanh x",
    f: tanh,
    at: 0.4,
    derivatives(x) {
      const t = Math.tanh(x);
      const s = 1 - t * t;
      return [t, s, -2 * t * s, 2 * s * (3 * t * t - 1)];
    },
  },
];

for (const { name, f, at, derivatives } of table) {
  test(`derivatives of ${name} up to order 3 are the closed forms in every order of modes`, () => {
    const expected = derivatives(at).map((y) => float64(y));
    const point = float64(at);
    assertClose(f(point), expected[0]!, "value");
    for (const a of [forward, reverse]) {
      assertClose(a(f)(point), expected[1]!, "first");
      for (const b of [forward, reverse]) {
        assertClose(b(a(f))(point), expected[2]!, "second");
        for (const c of [forward, reverse]) assertClose(c(b(a(f)))(point), expected[3]!, "third");
      }
    }
  });
}

test("the tensor of third derivatives of a product has 1 where all three meet", () => {
  const f = (x: Value): Value =>
    mul(mul(x.slice([0], [1]), x.slice([1], [2])), x.slice([2], [3])).reshape([]);
  const T = jacfwd(jacfwd(grad(f)))(float64([2, 3, 5]));
  const cube = [0, 1, 2].map((i) =>
    [0, 1, 2].map((j) => [0, 1, 2].map((k) => Number(new Set([i, j, k]).size === 3))),
  );
  assertClose(T as Value, float64(cube), "third derivatives");
});
