import { linearizeLeaves } from "../../autodiff/linearize.ts";
import { transposeProgram } from "../../autodiff/transpose.ts";
import { isFloat } from "../../core/dtype.ts";
import { zeros } from "../../core/prims/movement.ts";
import { evalProgram, stage, verify } from "../../core/program.ts";
import { inner } from "../support/host_oracle.ts";
import { drawFunction, type Law } from "../support/laws.ts";
import { assertClose, assertNumbersClose, table } from "../support/tolerance.ts";

/**
 * The transpose of the linearized primitive is its adjoint, <ct, L v> = <Lᵀ ct, v>, and the transpose of the transpose is
 * the linear function itself.
 */
export const transpose: Law = {
  name: "transpose",
  exempt: () => null,
  check(primitive, draw) {
    const { f, xs } = drawFunction(primitive, draw);
    const { outs, program } = linearizeLeaves(f, xs);
    verify(program);
    const vs = xs.map((x) => draw.direction(x));
    const pushed = evalProgram(program, vs);
    const cts = outs.map((y, i) => (program.outs[i] && isFloat(y.dtype) ? draw.direction(y) : null));
    const pulled = transposeProgram(program, cts);
    pulled.forEach((ct, i) => {
      if (ct && !ct.aval.equals(xs[i]!.aval))
        throw new Error(`cotangent ${i} is ${ct.aval}, ${xs[i]!.aval} is needed`);
    });
    const [left, right] = [inner(cts, pushed), inner(pulled, vs)];
    assertNumbersClose([right], [left], "<transpose(ct), v> = <ct, L v>", table.float64);

    // Lᵀ as a program of the cotangents of the outputs that have a tangent; its transpose is L.
    const present = program.outs.flatMap((atom, i) => (atom === null ? [] : [i]));
    const adjoint = stage(
      (...given) => {
        const full = outs.map((_, i) => (present.includes(i) ? given[present.indexOf(i)]! : null));
        return transposeProgram(program, full).map((ct, i) => ct ?? zeros(xs[i]!.aval));
      },
      present.map((i) => outs[i]!.aval),
    );
    verify(adjoint);
    const again = transposeProgram(adjoint, vs);
    present.forEach((i, k) => {
      assertClose(
        again[k] ?? zeros(outs[i]!.aval),
        pushed[i]!,
        `output ${i} of the transpose of the transpose`,
      );
    });
    return 1 + present.length;
  },
};
