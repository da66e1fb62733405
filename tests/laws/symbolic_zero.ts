import { isFloat } from "../../core/dtype.ts";
import { zeros } from "../../core/prims/movement.ts";
import { drawCall } from "../support/arbitrary_tensor.ts";
import { zero } from "../support/host_oracle.ts";
import { type Law, subsets } from "../support/laws.ts";
import { assertClose, assertSameBits } from "../support/tolerance.ts";

/** A symbolic zero tangent (`null`) means what an array of zeros means, for every choice of the arguments that have one. */
export const symbolicZero: Law = {
  name: "symbolic zero",
  exempt: () => null,
  check(primitive, draw) {
    const { args, params } = drawCall(primitive, draw, "float64");
    const floats = args.flatMap((x, i) => (isFloat(x.dtype) ? [i] : []));
    const tangents = args.map((x) => (isFloat(x.dtype) ? draw.direction(x) : null));
    const avals = primitive.shape(
      args.map((x) => x.aval),
      params,
    );
    let checks = 0;
    for (const subset of subsets(floats.length)) {
      const given = subset.map((k) => floats[k]!);
      const symbolic = args.map((_, i) => (given.includes(i) ? tangents[i]! : null));
      const explicit = args.map((x, i) => (isFloat(x.dtype) ? (symbolic[i] ?? zero(x.aval)) : null));
      const [ys, dys] = primitive.jvp(args, symbolic, params);
      const [zs, dzs] = primitive.jvp(args, explicit, params);
      avals.forEach((aval, i) => {
        assertSameBits(ys[i]!, zs[i]!, `output ${i}`);
        assertClose(dys[i] ?? zeros(aval), dzs[i] ?? zeros(aval), `tangent ${i} with tangents at ${given}`);
        checks++;
      });
    }
    // All zero: every tangent is a symbolic zero, or zeros.
    const [, dys] = primitive.jvp(
      args,
      args.map((x) => (isFloat(x.dtype) ? zero(x.aval) : null)),
      params,
    );
    dys.forEach((dy) => {
      if (dy?.dataSync().some((v) => v !== 0)) throw new Error(`the tangent of a zero direction is ${dy}`);
      checks++;
    });
    return checks;
  },
};
