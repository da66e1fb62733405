import { expect } from "bun:test";
import { jvp } from "../../autodiff/jvp.ts";
import { grad, valueAndGrad } from "../../autodiff/vjp.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { Aval } from "../../core/aval.ts";
import type { Value } from "../../core/value.ts";
import { stack } from "../support/host_oracle.ts";
import { prop } from "../support/prop.ts";
import { quartic, quartics } from "../support/quartic.ts";
import { assertClose } from "../support/tolerance.ts";

prop("vmap of grad gives the gradient of every example", quartics, (seed) => {
  const { f, x, u, v, gradient, value } = quartic(seed);
  const points = [x, u, v];
  const rows = stack(points, x.aval, 0);
  const expected = stack(points.map(gradient), x.aval, 0);
  assertClose(vmap(grad(f))(rows), expected, "gradients");
  const [values, gradients] = vmap(valueAndGrad(f))(rows);
  assertClose(values, stack(points.map(value), new Aval([], "float64"), 0), "values");
  assertClose(gradients, expected, "gradients with values");
});

prop("vmap of grad with the axis last, in and out", quartics, (seed) => {
  const { f, x, u, gradient } = quartic(seed);
  const columns = stack([x, u], x.aval, 1);
  const gradients = vmap(grad(f), { inAxes: 1, outAxes: 1 })(columns);
  assertClose(gradients, stack([gradient(x), gradient(u)], x.aval, 1), "gradients");
});

prop("vmap of jvp gives the tangent of every example, of none too", quartics, (seed) => {
  const { f, x, u, v, n, hessianTimes } = quartic(seed);
  const product = (p: Value, d: Value): Value => jvp(grad(f), [p], [d])[1];
  const shared = vmap(product, { inAxes: [null, 0] })(x, stack([u, v], x.aval, 0));
  assertClose(shared, stack([hessianTimes(u), hessianTimes(v)], x.aval, 0), "one point, two directions");
  const none = vmap(product)(stack([], x.aval, 0), stack([], x.aval, 0));
  expect(none.shape).toEqual([0, n]);
});
