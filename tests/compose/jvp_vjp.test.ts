import { hvp } from "../../autodiff/hvp.ts";
import { jvp } from "../../autodiff/jvp.ts";
import { hessianOperator } from "../../autodiff/operator.ts";
import { grad, vjp } from "../../autodiff/vjp.ts";
import { scalar } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import { prop } from "../support/prop.ts";
import { quartic, quartics } from "../support/quartic.ts";
import { assertClose } from "../support/tolerance.ts";

prop("forward over reverse is the Hessian times a vector", quartics, (seed) => {
  const { f, x, v, gradient, hessianTimes } = quartic(seed);
  const [g, Hv] = jvp((p: Value) => vjp(f, p)[1](scalar(1, "float64"))[0], [x], [v]);
  assertClose(g, gradient(), "gradient");
  assertClose(Hv, hessianTimes(v), "H v");
  assertClose(jvp(grad(f), [x], [v])[1], hessianTimes(v), "H v by grad");
  assertClose(hvp(f)(x, v), hessianTimes(v), "H v by hvp");
});

prop("the Hessian operator is hvp with the point fixed", quartics, (seed) => {
  const { f, x, u, v, hessianTimes } = quartic(seed);
  const H = hessianOperator(f, x);
  assertClose(H.apply(u), hessianTimes(u), "H u");
  assertClose(H.apply(v), hessianTimes(v), "H v, the same operator again");
  assertClose(H.transpose().apply(v), hessianTimes(v), "Hᵀ v");
});
