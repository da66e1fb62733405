/** Nested derivatives keep their perturbations apart. */
import { test } from "bun:test";
import { jvp } from "../../autodiff/jvp.ts";
import { linearize } from "../../autodiff/linearize.ts";
import { grad } from "../../autodiff/vjp.ts";
import type { Value } from "../../core/value.ts";
import { float64 } from "../support/quartic.ts";
import { assertClose } from "../support/tolerance.ts";

type Scalar = (x: Value) => Value;
/** The derivative of a function of one number, by every mode. */
const modes: readonly { name: string; D: (f: Scalar) => Scalar }[] = [
  { name: "forward", D: (f) => (x) => jvp(f, [x], [float64(1)])[1] },
  { name: "reverse", D: (f) => grad(f) },
  { name: "linearize", D: (f) => (x) => linearize(f, x)[1](float64(1)) },
];
const one = float64(1);

for (const outer of modes) {
  for (const inner of modes) {
    const pair = `${outer.name} over ${inner.name}`;
    const at = (f: Scalar): Value => outer.D(f)(one);

    test(`${pair}: D (x -> x D (y -> x + y) 1) 1 = 1`, () => {
      assertClose(
        at((x) => x.mul(inner.D((y) => x.add(y))(one))),
        float64(1),
        "the classic",
      );
    });

    test(`${pair}: D (x -> x D (y -> x + y) x - x) 1 = 0`, () => {
      assertClose(
        at((x) => x.mul(inner.D((y) => x.add(y))(x)).sub(x)),
        float64(0),
        "nothing is left",
      );
    });

    test(`${pair}: the inner derivative of what depends on x alone is 0`, () => {
      assertClose(
        at((x) => inner.D(() => x.mul(x))(one)),
        float64(0),
        "D (x -> D (y -> x x) 1) 1",
      );
      assertClose(
        at((x) => inner.D(() => x.mul(x))(x)),
        float64(0),
        "D (x -> D (y -> x x) x) 1",
      );
    });

    test(`${pair}: D (x -> x D (y -> x y) 2) 1 = 2`, () => {
      assertClose(
        at((x) => x.mul(inner.D((y) => x.mul(y))(float64(2)))),
        float64(2),
        "d x² / dx",
      );
    });

    test(`${pair}: the inner point may be the outer variable`, () => {
      // D (y -> x y²) x = 2 x², and its derivative is 4 x
      assertClose(
        at((x) => inner.D((y) => x.mul(y).mul(y))(x)),
        float64(4),
        "4 x",
      );
    });
  }
}
