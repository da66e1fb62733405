import { expect, test } from "bun:test";
import { hessian, jacfwd, jacrev } from "../../autodiff/hvp.ts";
import { jvp } from "../../autodiff/jvp.ts";
import { vjp } from "../../autodiff/vjp.ts";
import { dot, mul, sin, sum } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { randomFunction } from "../support/arbitrary_program.ts";
import { SeededDraw, seeds } from "../support/arbitrary_tensor.ts";
import { prop } from "../support/prop.ts";
import { float64, quartic, quartics } from "../support/quartic.ts";
import { assertClose, assertTreesClose } from "../support/tolerance.ts";

prop("the Hessian is the closed form, by all four orders", quartics, (seed) => {
  const { f, x, hessian: expected } = quartic(seed);
  assertClose(hessian(f)(x), expected(), "hessian");
  assertClose(jacfwd(jacfwd(f))(x), expected(), "forward over forward");
  assertClose(jacfwd(jacrev(f))(x), expected(), "forward over reverse");
  assertClose(jacrev(jacfwd(f))(x), expected(), "reverse over forward");
  assertClose(jacrev(jacrev(f))(x), expected(), "reverse over reverse");
});

prop("jacfwd and jacrev agree on random programs, and contract to jvp and vjp", seeds(2), (seed) => {
  const { f, xs } = randomFunction(seed, 5);
  const g = (p: readonly Value[]): Value[] => f(...p);
  const [rows, columns] = [jacrev(g)(xs), jacfwd(g)(xs)] as unknown as [Value[][], Value[][]];
  assertTreesClose(columns, rows, "Jacobian");
  const draw = new SeededDraw({ ...seed, seed: ~seed.seed });
  const vs = xs.map((x) => draw.direction(x));
  const [ys, dys] = jvp(g, [xs], [vs]);
  const cts = ys.map((y) => draw.direction(y));
  const pulled = vjp(g, xs as readonly Value[])[1](cts)[0];
  const flat = (x: Value, n: number): Value => x.reshape([n, x.size / Math.max(n, 1)]);
  ys.forEach((y, i) => {
    const parts = xs.map((x, j) => dot(flat(rows[i]![j]!, y.size), vs[j]!.reshape([x.size])));
    const product = parts.reduce((s, part) => s.add(part)).reshape(y.shape);
    assertClose(product, dys[i]!, `J v at output ${i}`);
  });
  xs.forEach((x, j) => {
    const parts = ys.map((y, i) => dot(cts[i]!.reshape([y.size]), flat(rows[i]![j]!, y.size)));
    const product = parts.reduce((s, part) => s.add(part)).reshape(x.shape);
    assertClose(product, pulled[j]!, `ct J at input ${j}`);
  });
});

test("the Jacobian of a function of trees is a tree of trees of blocks", () => {
  const f = (p: { a: Value; b: { c: Value } }): [Value, { y: Value }] => [
    mul(p.a, p.b.c),
    { y: sum(mul(p.a, p.a)) },
  ];
  const p = { a: float64([1, 2]), b: { c: float64([3, 4]) } };
  const expected = [
    {
      a: float64([
        [3, 0],
        [0, 4],
      ]),
      b: {
        c: float64([
          [1, 0],
          [0, 2],
        ]),
      },
    },
    { y: { a: float64([2, 4]), b: { c: float64([0, 0]) } } },
  ];
  assertTreesClose(jacfwd(f)(p), expected, "jacfwd");
  assertTreesClose(jacrev(f)(p), expected, "jacrev");
});

test("the Hessian of a function of a tree has every block, cross blocks too", () => {
  // f = sum(a² c) sin(s): d²/da² = 2 c sin s, d²/da dc = 2 a sin s, d²/da ds = 2 a c cos s, d²/ds² = -sum(a² c) sin s
  const f = ({ a, c, s }: { a: Value; c: Value; s: Value }): Value => mul(sum(mul(mul(a, a), c)), sin(s));
  const [a, c, s] = [[1, 2], [3, -1], 0.5] as const;
  const [S, C] = [Math.sin(s), Math.cos(s)];
  const H = hessian(f)({ a: float64(a), c: float64(c), s: float64(s) });
  const ac = float64([
    [2 * a[0] * S, 0],
    [0, 2 * a[1] * S],
  ]);
  const expected = {
    a: {
      a: float64([
        [2 * c[0] * S, 0],
        [0, 2 * c[1] * S],
      ]),
      c: ac,
      s: float64([2 * a[0] * c[0] * C, 2 * a[1] * c[1] * C]),
    },
    c: {
      a: ac,
      c: float64([
        [0, 0],
        [0, 0],
      ]),
      s: float64([a[0] ** 2 * C, a[1] ** 2 * C]),
    },
    s: {
      a: float64([2 * a[0] * c[0] * C, 2 * a[1] * c[1] * C]),
      c: float64([a[0] ** 2 * C, a[1] ** 2 * C]),
      s: float64(-(a[0] ** 2 * c[0] + a[1] ** 2 * c[1]) * S),
    },
  };
  assertTreesClose(H, expected, "Hessian");
});

test("a Jacobian of an empty input or output has size 0", () => {
  expect((jacfwd((x: Value) => mul(x, x))(float64([])) as Value).shape).toEqual([0, 0]);
  expect((jacrev((x: Value) => mul(x, x))(float64([])) as Value).shape).toEqual([0, 0]);
});
