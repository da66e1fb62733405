import { vmapLeaves } from "../../autodiff/vmap.ts";
import { isFloat } from "../../core/dtype.ts";
import { bind } from "../../core/trace.ts";
import type { Tensor } from "../../core/value.ts";
import { dtypeOf } from "../support/arbitrary_tensor.ts";
import { stack, take } from "../support/host_oracle.ts";
import { type Law, subsets } from "../support/laws.ts";
import { assertClose, assertSameBits } from "../support/tolerance.ts";

/**
 * Mapping a primitive over an axis is a loop over it and a stack of the results, for every choice of the operands that
 * have the axis, wherever they have it, of size 0, 1 and more.
 */
export const batch: Law = {
  name: "batch",
  exempt: () => null,
  check(primitive, draw) {
    const { args: specs, params } = primitive.domain(draw);
    const float = draw.pick(["float32", "float64", "float16"] as const);
    const types = specs.map((spec) => dtypeOf(spec, float));
    const size = draw.pick([0, 1, 2, 2, 3]);
    const outAvals = primitive.shape(
      specs.map((spec, i) => draw.tensor(spec, types[i]!).aval),
      params,
    );
    let checks = 0;
    for (const mapped of subsets(specs.length)) {
      // Every place of the axis in the first mapped operand; drawn places in the others.
      const first = mapped[0]!;
      for (let place = 0; place <= specs[first]!.shape.length; place++) {
        const dims = specs.map((spec, i) =>
          mapped.includes(i) ? (i === first ? place : draw.int(0, spec.shape.length)) : null,
        );
        const args = specs.map((spec, i) => {
          const dim = dims[i]!;
          const one = (): Tensor => draw.tensor(spec, types[i]!);
          return dim === null ? one() : stack(Array.from({ length: size }, one), one().aval, dim);
        });
        const outAxis = draw.int(0, Math.min(...outAvals.map((aval) => aval.ndim)));
        const actual = vmapLeaves((...xs) => bind(primitive, xs, params), args, dims, size, outAxis);
        const rows = Array.from({ length: size }, (_, k) => bind(primitive, rowOf(args, dims, k), params));
        actual.forEach((y, i) => {
          const expected = stack(
            rows.map((row) => row[i]!),
            outAvals[i]!,
            outAxis,
          );
          const what = `output ${i} with the axis of size ${size} at ${JSON.stringify(dims)}`;
          if (isFloat(y.dtype)) assertClose(y, expected, what);
          else assertSameBits(y, expected, what);
          checks++;
        });
      }
    }
    return checks;
  },
};

function rowOf(args: readonly Tensor[], dims: readonly (number | null)[], k: number): Tensor[] {
  return args.map((x, i) => {
    const dim = dims[i]!;
    return dim === null ? x : take(x, dim, k);
  });
}
