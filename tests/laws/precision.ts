import { tensor } from "../../core/create.ts";
import { isFloat } from "../../core/dtype.ts";
import { bind } from "../../core/trace.ts";
import { dtypeOf } from "../support/arbitrary_tensor.ts";
import type { Law } from "../support/laws.ts";
import { epsilon } from "../support/tolerance.ts";

/**
 * The reference kernel in float32 is the one in float64, rounded once: within one unit in the last place of float32 on
 * the same numbers, and equal where the result is not a float.
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
    let checks = 0;
    ys.forEach((y, i) => {
      const [a, b] = [y.dataSync(), exact[i]!.dataSync()];
      for (let k = 0; k < b.length; k++) {
        // Below the normal numbers of float32 the spacing is that of the smallest one.
        const ulp = isFloat(y.dtype) ? epsilon.float32 * Math.max(Math.abs(b[k]!), 2 ** -126) : 0;
        if (!Number.isFinite(a[k]) || !Number.isFinite(b[k]) || !(Math.abs(a[k]! - b[k]!) <= ulp)) {
          throw new Error(`element ${k} of output ${i} is ${a[k]}, ${b[k]} is needed within ${ulp}`);
        }
      }
      checks++;
    });
    return checks;
  },
};
