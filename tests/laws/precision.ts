import { tensor } from "../../core/create.ts";
import { isFloat } from "../../core/dtype.ts";
import { bind, currentBackend } from "../../core/trace.ts";
import { dtypeOf } from "../support/arbitrary_tensor.ts";
import type { Law } from "../support/laws.ts";
import { epsilon, table } from "../support/tolerance.ts";

/**
 * The reference kernel in float32 is the one in float64, rounded once: within one unit in the last place of float32 on
 * the same numbers, and equal where the result is not a float. Compiled kernels may use two units for a function of one
 * element, and add float32 numbers in float32.
 */
export const precision: Law = {
  name: "precision",
  // Long sums: an accumulator in float32 would lose digits.
  largest: 8,
  exempt: () => null,
  check(primitive, draw) {
    const { args: specs, params } = primitive.domain(draw);
    const wide = specs.map((spec) => draw.tensor(spec, dtypeOf(spec, "float64")));
    // The drawn numbers are float32 numbers: nothing is lost.
    const narrow = wide.map((x) =>
      isFloat(x.dtype) ? tensor(Float32Array.from(x.dataSync()), { shape: x.shape }) : x,
    );
    const [ys, exact] = [bind(primitive, narrow, params), bind(primitive, wide, params)];
    const isReference = currentBackend().name === "reference";
    let checks = 0;
    ys.forEach((y, i) => {
      const [a, b] = [y.dataSync(), exact[i]!.dataSync()];
      const joined = table.float32.relative * Math.max(1, ...b.map(Math.abs));
      for (let k = 0; k < b.length; k++) {
        // Below the normal numbers of float32 the spacing is that of the smallest one.
        const unit = isFloat(y.dtype) ? epsilon.float32 * Math.max(Math.abs(b[k]!), 2 ** -126) : 0;
        const ulp =
          isReference || unit === 0 ? unit : primitive.traits.elementwise ? 2 * unit : unit + joined;
        if (!Number.isFinite(a[k]) || !Number.isFinite(b[k]) || !(Math.abs(a[k]! - b[k]!) <= ulp)) {
          throw new Error(`element ${k} of output ${i} is ${a[k]}, ${b[k]} is needed within ${ulp}`);
        }
      }
      checks++;
    });
    return checks;
  },
};
