import { jvp } from "../../autodiff/jvp.ts";
import type { Value } from "../../core/value.ts";
import { inner } from "../support/host_oracle.ts";
import { prop } from "../support/prop.ts";
import { float64, quartic, quartics } from "../support/quartic.ts";
import { assertClose } from "../support/tolerance.ts";

prop("jvp of jvp is the second derivative in two directions", quartics, (seed) => {
  const { f, x, u, v, value, gradient, hessianTimes } = quartic(seed);
  const along = (p: Value): Value => jvp(f, [p], [u])[1];
  const [dy, ddy] = jvp(along, [x], [v]);
  assertClose(dy, float64(inner([gradient()], [u])), "<g, u>");
  assertClose(ddy, float64(inner([hessianTimes(v)], [u])), "<u, H v>");
  const [y] = jvp(f, [x], [u]);
  assertClose(y, value(), "the value");
});

prop("jvp of jvp is symmetric in its directions", quartics, (seed) => {
  const { f, x, u, v } = quartic(seed);
  const second = (a: Value, b: Value): Value => jvp((p: Value) => jvp(f, [p], [a])[1], [x], [b])[1];
  assertClose(second(u, v), second(v, u), "u, v and v, u");
});
