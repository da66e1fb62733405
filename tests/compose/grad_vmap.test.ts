import { test } from "bun:test";
import { hvp } from "../../autodiff/hvp.ts";
import { grad } from "../../autodiff/vjp.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { sin, sum } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { combine, stack } from "../support/host_oracle.ts";
import { prop } from "../support/prop.ts";
import { float64, quartic, quartics } from "../support/quartic.ts";
import { assertClose } from "../support/tolerance.ts";

prop("grad of a sum of vmap is the gradient of every example", quartics, (seed) => {
  const { f, x, u, v, gradient, hessianTimes } = quartic(seed);
  const points = [x, u];
  const loss = (rows: Value): Value => sum(vmap(f)(rows));
  const rows = stack(points, x.aval, 0);
  assertClose(grad(loss)(rows), stack(points.map(gradient), x.aval, 0), "gradients");
  const directions = stack([v, x], x.aval, 0);
  const products = stack([hessianTimes(v, x), hessianTimes(x, u)], x.aval, 0);
  assertClose(hvp(loss)(rows, directions), products, "block diagonal Hessian");
});

prop("grad in what all examples share is the sum over the examples", quartics, (seed) => {
  const { f, x, u, v } = quartic(seed);
  // d/dw sum_i f(w + x_i) = sum_i f'(w + x_i)
  const loss = (w: Value, rows: Value): Value => sum(vmap((row: Value) => f(w.add(row)))(rows));
  const rows = stack([u, v], x.aval, 0);
  const { gradient } = quartic(seed);
  const expected = combine(1, gradient(combine(1, x, 1, u)), 1, gradient(combine(1, x, 1, v)));
  assertClose(grad(loss)(x, rows), expected, "sum of gradients");
});

test("grad through vmap through grad", () => {
  // sum_i d/dx sin(w x)|x_i = sum_i w cos(w x_i); its derivative in w: sum_i cos(w x_i) - w x_i sin(w x_i)
  const slopes = (w: Value, xs: Value): Value => vmap(grad((x: Value) => sin(w.mul(x))))(xs);
  const xs = [0.5, -1.25, 2];
  const w = 0.75;
  const expected = xs.reduce((s, x) => s + Math.cos(w * x) - w * x * Math.sin(w * x), 0);
  const actual = grad((at: Value) => sum(slopes(at, float64(xs))))(float64(w));
  assertClose(actual, float64(expected), "d/dw");
});
