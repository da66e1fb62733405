import { jvpLeaves } from "../../autodiff/jvp.ts";
import { zeros } from "../../core/prims/movement.ts";
import type { Value } from "../../core/value.ts";
import type { SeededDraw } from "../support/arbitrary_tensor.ts";
import { centralDifference } from "../support/host_oracle.ts";
import { drawFunction, type Law } from "../support/laws.ts";
import { assertClose, differenceStep, differences, type Tolerance } from "../support/tolerance.ts";

/**
 * The directional derivative is what central differences in float64 say, and so is the directional derivative of the
 * directional derivative. Outputs that are not floats have no tangent. A stopped derivative is zero by definition.
 */
export const jvp: Law = {
  name: "jvp",
  exempt: () => null,
  check(primitive, draw) {
    const { f, xs } = drawFunction(primitive, draw);
    const stopped = primitive.traits.gradient === "stopped";
    if (!stopped) return agreesWithDifferences((...ys) => f(...ys), xs, draw, 2);
    const [, tangents] = jvpLeaves(
      f,
      xs,
      xs.map((x) => draw.direction(x)),
    );
    if (tangents.some((dy) => dy !== null)) throw new Error("a stopped derivative is not zero");
    return tangents.length;
  },
};

const rounded: Tolerance = {
  relative: 1e-4,
  reason: "outputs rounded to float32 differ by 1e-7 over a step of 1/64",
};

/** Checks derivatives up to an order along random directions; returns the number of comparisons. */
function agreesWithDifferences(
  f: (...xs: Value[]) => Value[],
  xs: readonly Value[],
  draw: SeededDraw,
  order: number,
): number {
  const vs = xs.map((x) => draw.direction(x));
  // A float32 output of float64 inputs, as of cast, is a staircase: larger steps, of fewer digits.
  const coarse = f(...xs).some((y) => y.dtype === "float32");
  const expected = centralDifference(f, xs, vs, coarse ? 2 ** -6 : differenceStep);
  const [ys, tangents] = jvpLeaves(f, xs, vs);
  ys.forEach((y, i) => {
    const dy = tangents[i]!;
    const difference = expected[i]!;
    if (difference === null) {
      if (dy !== null) throw new Error(`output ${i} is ${y.aval} and has a tangent, null is needed`);
    } else {
      assertClose(dy ?? zeros(y.aval), difference, `tangent of output ${i}`, coarse ? rounded : differences);
    }
  });
  if (order === 1) return ys.length;
  const next = (...at: Value[]): Value[] => {
    const [outs, dys] = jvpLeaves(f, at, vs);
    return outs.map((y, i) => dys[i] ?? zeros(y.aval));
  };
  return ys.length + agreesWithDifferences(next, xs, draw, order - 1);
}
