import { grad, vjp } from "../../autodiff/vjp.ts";
import { dot } from "../../core/ops.ts";
import { scalar } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import { inner } from "../support/host_oracle.ts";
import { prop } from "../support/prop.ts";
import { float64, quartic, quartics } from "../support/quartic.ts";
import { assertClose } from "../support/tolerance.ts";

prop("reverse over reverse is the Hessian times a vector", quartics, (seed) => {
  const { f, x, v, hessianTimes } = quartic(seed);
  assertClose(grad((p: Value) => dot(grad(f)(p), v))(x), hessianTimes(v), "H v");
  const [, pullback] = vjp((p: Value) => vjp(f, p)[1](scalar(1, "float64"))[0], x);
  assertClose(pullback(v)[0], hessianTimes(v), "v H");
});

prop("the pullback is linear in its cotangent: its gradient there is the pushforward", quartics, (seed) => {
  const { f, x, v, gradient } = quartic(seed);
  const byCotangent = grad((ct: Value) => dot(vjp(f, x)[1](ct)[0], v))(scalar(3, "float64"));
  assertClose(byCotangent, float64(inner([gradient()], [v])), "d <ct g, v> / dct");
});
