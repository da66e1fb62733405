/** The switch that makes the other tests run compiled does something, and only when it is on. */
import { expect, test } from "bun:test";
import * as ct from "../../mod.ts";
import { countCompiledCalls } from "../support/force_jit.ts";
import { assertTreesClose } from "../support/tolerance.ts";

test("FORCE_JIT=1 compiles every transform, and changes no result", () => {
  const f = (x: ct.Value): ct.Value => x.mul(x).sum();
  const [x, v] = [ct.tensor([1, 2]), ct.tensor([3, 4])];
  const before = countCompiledCalls();
  const results = [
    ct.grad(f)(x),
    ct.valueAndGrad(f)(x),
    ct.vjp(f, x)[1](ct.tensor(2)),
    ct.vjp(f, x)[0],
    ct.jvp(f, [x], [v]),
    ct.linearize(f, x)[1](v),
    ct.hvp(f)(x, v),
    ct.hessian(f)(x),
    ct.jacfwd(f)(x),
    ct.jacrev(f)(x),
    ct.vmap(f)(ct.stack([x, v])),
  ];
  const expected = [
    [2, 4],
    [5, [2, 4]],
    [[4, 8]],
    5,
    [5, 22],
    22,
    [6, 8],
    [
      [2, 0],
      [0, 2],
    ],
    [2, 4],
    [2, 4],
    [5, 25],
  ];
  const trees = (result: unknown): unknown => ct.tree.map((y) => y.toArray(), result) as unknown;
  expect(results.map(trees)).toEqual(expected);
  assertTreesClose(ct.grad(f)(x), ct.tensor([2, 4]), "gradient");
  const isForced = process.env["FORCE_JIT"] === "1";
  expect(countCompiledCalls() - before > 0).toBe(isForced);
  if (isForced) expect(countCompiledCalls() - before).toBeGreaterThanOrEqual(11);
});
