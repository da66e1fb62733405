import { hvp } from "../../autodiff/hvp.ts";
import { hessianOperator } from "../../autodiff/operator.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { eye } from "../../core/create.ts";
import { stack } from "../support/host_oracle.ts";
import { prop } from "../support/prop.ts";
import { quartic, quartics } from "../support/quartic.ts";
import { assertClose } from "../support/tolerance.ts";

prop("vmap of hvp over the unit vectors is the Hessian", quartics, (seed) => {
  const { f, x, n, hessian } = quartic(seed);
  const units = eye(n, n, { dtype: "float64" });
  assertClose(vmap(hvp(f), { inAxes: [null, 0] })(x, units), hessian(), "H");
  assertClose(
    vmap((d: typeof x) => hessianOperator(f, x).apply(d) as typeof x)(units),
    hessian(),
    "H by operator",
  );
});

prop("vmap of hvp over points and directions", quartics, (seed) => {
  const { f, x, u, v, hessianTimes } = quartic(seed);
  const products = vmap(hvp(f))(stack([x, u], x.aval, 0), stack([v, x], x.aval, 0));
  assertClose(products, stack([hessianTimes(v, x), hessianTimes(x, u)], x.aval, 0), "products");
});
