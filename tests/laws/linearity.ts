import { isFloat } from "../../core/dtype.ts";
import { Lin } from "../../core/primitive.ts";
import { bind } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import { drawCall } from "../support/arbitrary_tensor.ts";
import { combine, inner, zero } from "../support/host_oracle.ts";
import { type Law, subsets } from "../support/laws.ts";
import { assertClose, assertNumbersClose, table } from "../support/tolerance.ts";

/**
 * Where the transpose rule gives a cotangent to arguments marked linear, the primitive is affine in them together: what
 * is left after taking off the value at zero is additive and homogeneous, and the rule is the adjoint of that.
 */
export const linearity: Law = {
  name: "linearity",
  exempt: ({ transpose }) => (transpose ? null : "no transpose rule"),
  check(primitive, draw) {
    const { args, params } = drawCall(primitive, draw, "float64");
    const floats = args.flatMap((x, i) => (isFloat(x.dtype) ? [i] : []));
    let checks = 0;
    for (const subset of subsets(floats.length)) {
      const places = subset.map((k) => floats[k]!);
      const at = (vs: readonly Value[]): Value[] =>
        bind(
          primitive,
          args.map((x, i) => (places.includes(i) ? vs[places.indexOf(i)]! : x)),
          params,
        );
      const atZero = at(places.map((i) => zero(args[i]!.aval)));
      const L = (vs: readonly Value[]): Value[] => at(vs).map((y, i) => combine(1, y, -1, atZero[i]!));

      const cts = atZero.map((y) => draw.direction(y));
      const marked = args.map((x, i) => (places.includes(i) ? new Lin(x.aval) : x));
      const pulled = primitive.transpose!(cts, marked, params);
      args.forEach((x, i) => {
        const ct = pulled[i] ?? null;
        if (ct && !places.includes(i)) throw new Error(`argument ${i} is not marked and has a cotangent`);
        if (ct && !ct.aval.equals(x.aval))
          throw new Error(`cotangent ${i} is ${ct.aval}, ${x.aval} is needed`);
      });
      // A rule that gives nothing to a marked argument says: not linear in these together.
      if (!places.every((i) => pulled[i])) continue;

      const what = `arguments ${places}`;
      const [u, v] = [
        places.map((i) => draw.direction(args[i]!)),
        places.map((i) => draw.direction(args[i]!)),
      ];
      const [a, b] = [draw.int(-4, 4) / 2, draw.int(1, 4) / 2];
      const [ofU, ofV] = [L(u), L(v)];
      L(u.map((x, i) => combine(a, x, b, v[i]!))).forEach((y, i) => {
        assertClose(y, combine(a, ofU[i]!, b, ofV[i]!), `L(a u + b v) = a L u + b L v in ${what}`);
      });
      assertNumbersClose(
        [
          inner(
            pulled,
            args.map((_, i) => v[places.indexOf(i)] ?? null),
          ),
        ],
        [inner(cts, ofV)],
        `the adjoint in ${what}`,
        table.float64,
      );
      checks += 2;
    }
    // No cotangent means no work: all zero in, all zero out.
    const none = primitive.transpose!(
      primitive
        .shape(
          args.map((x) => x.aval),
          params,
        )
        .map(() => null),
      args.map((x) => (isFloat(x.dtype) ? new Lin(x.aval) : x)),
      params,
    );
    if (none.some((ct) => ct !== null)) throw new Error("a cotangent comes from symbolic zeros");
    return checks;
  },
};
