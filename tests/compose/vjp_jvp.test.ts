import { jvp } from "../../autodiff/jvp.ts";
import { linearize } from "../../autodiff/linearize.ts";
import { grad } from "../../autodiff/vjp.ts";
import type { Value } from "../../core/value.ts";
import { prop } from "../support/prop.ts";
import { quartic, quartics } from "../support/quartic.ts";
import { assertClose } from "../support/tolerance.ts";

prop("reverse over forward is the Hessian times a vector", quartics, (seed) => {
  const { f, x, v, hessianTimes } = quartic(seed);
  assertClose(grad((p: Value) => jvp(f, [p], [v])[1])(x), hessianTimes(v), "H v");
  assertClose(grad((p: Value) => linearize(f, p)[1](v))(x), hessianTimes(v), "H v through linearize");
});

prop("reverse over forward in the direction is the gradient", quartics, (seed) => {
  const { f, x, v, gradient } = quartic(seed);
  assertClose(grad((d: Value) => jvp(f, [x], [d])[1])(v), gradient(), "d <g, v> / dv");
});
