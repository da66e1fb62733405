import { jvp } from "../../autodiff/jvp.ts";
import { grad } from "../../autodiff/vjp.ts";
import { dot } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { inner } from "../support/host_oracle.ts";
import { prop } from "../support/prop.ts";
import { float64, quartic, quartics } from "../support/quartic.ts";
import { assertClose } from "../support/tolerance.ts";

type Scalar = (x: Value) => Value;
/** <g, d> as a function of the point, by forward or by reverse mode. */
const forward =
  (f: Scalar, d: Value): Scalar =>
  (p) =>
    jvp(f, [p], [d])[1];
const reverse =
  (f: Scalar, d: Value): Scalar =>
  (p) =>
    dot(grad(f)(p), d);

prop("forward over reverse over forward is the third derivative", quartics, (seed) => {
  const { f, x, u, v, third } = quartic(seed);
  const T = jvp((p: Value) => grad((q: Value) => jvp(f, [q], [v])[1])(p), [x], [u])[1];
  assertClose(T, third(u, v), "T(u, v)");
});

prop("the third derivative is the same in all eight orders of modes", quartics, (seed) => {
  const { f, x, u, v, third } = quartic(seed);
  const expected = float64(inner([third(u, v)], [u]));
  for (const a of [forward, reverse]) {
    for (const b of [forward, reverse]) {
      for (const c of [forward, reverse]) {
        const names = [a, b, c].map((mode) => (mode === forward ? "forward" : "reverse")).join(" over ");
        assertClose(a(b(c(f, u), v), u)(x), expected, names);
      }
    }
  }
});
