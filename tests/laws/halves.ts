import { Aval } from "../../core/aval.ts";
import { bind } from "../../core/trace.ts";
import { Tensor } from "../../core/value.ts";
import { drawCall } from "../support/arbitrary_tensor.ts";
import type { Law } from "../support/laws.ts";
import { epsilon } from "../support/tolerance.ts";

/**
 * float16 is storage: a primitive gives the float16 numbers nearest to what it gives in float32 of the same operands, one
 * unit in the last place apart at most, where the reference rounds a float64; results that are no floats are equal.
 */
export const halves: Law = {
  name: "halves",
  // Long sums: an accumulator in float16 would lose digits.
  largest: 6,
  exempt: () => null,
  check(primitive, draw) {
    const { args, params } = drawCall(primitive, draw, "float16");
    const wide = args.map((x) =>
      x.dtype === "float16" ? new Tensor(new Aval(x.shape, "float32"), Float32Array.from(x.dataSync())) : x,
    );
    const [ys, exact] = [bind(primitive, args, params), bind(primitive, wide, params)];
    let checks = 0;
    ys.forEach((y, i) => {
      const [a, b] = [y.dataSync(), exact[i]!.dataSync()];
      const isHalf = y.dtype === "float16";
      if (exact[i]!.dtype !== (isHalf ? "float32" : y.dtype))
        throw new Error(`output ${i} is ${y.aval}, of float32 operands ${exact[i]!.aval}`);
      for (let k = 0; k < b.length; k++) {
        const nearest = isHalf ? Math.f16round(b[k]!) : b[k]!;
        // Below the normal numbers the spacing is that of the smallest one.
        const unit = isHalf ? epsilon.float16 * Math.max(Math.abs(nearest), 2 ** -14) : 0;
        if (!Object.is(a[k], nearest) && !(Math.abs(a[k]! - nearest) <= unit))
          throw new Error(`element ${k} of output ${i} is ${a[k]}, ${nearest} is needed within ${unit}`);
      }
      checks++;
    });
    return checks;
  },
};
