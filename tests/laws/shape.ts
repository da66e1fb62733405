import { Aval } from "../../core/aval.ts";
import { type DType, dtypes, isFloat } from "../../core/dtype.ts";
import { DTypeError, ShapeError } from "../../core/errors.ts";
import type { AnyPrimitive, ArgSpec } from "../../core/primitive.ts";
import { stage, verify } from "../../core/program.ts";
import { bind } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import { drawCall, dtypeOf, type SeededDraw } from "../support/arbitrary_tensor.ts";
import type { Law } from "../support/laws.ts";
import { assertFinite } from "../support/tolerance.ts";

/**
 * The shape rule tells the truth: what the reference kernel returns has the abstract values that the rule says, for
 * every element type that the rule accepts; the staged equation verifies; what the rule refuses, it refuses with a
 * ShapeError or a DTypeError.
 */
export const shape: Law = {
  name: "shape",
  exempt: () => null,
  check(primitive, draw) {
    const { specs, params } = drawCall(primitive, draw, "float64");
    let checks = 0;
    // Every element type in the place of "float".
    for (const dtype of dtypes) {
      const accepted = agrees(
        primitive,
        specs,
        specs.map((spec) => dtypeOf(spec, dtype)),
        params,
        draw,
        false,
      );
      if (!accepted && isFloat(dtype)) throw new Error(`${dtype} is refused, a drawn call must be accepted`);
      checks++;
    }
    // One argument of another element type, of another shape, or missing: refused, or as true as before.
    const own = specs.map((spec) => dtypeOf(spec, "float32"));
    specs.forEach((spec, i) => {
      const others = dtypes.filter((dtype) => dtype !== own[i]);
      for (const dtype of others) agrees(primitive, specs, own.with(i, dtype), params, draw);
      for (const changed of otherShapes(spec)) {
        agrees(primitive, specs.with(i, changed), own, params, draw);
      }
      const [fewer, more] = [
        agrees(primitive, specs.toSpliced(i, 1), own.toSpliced(i, 1), params, draw),
        agrees(primitive, specs.toSpliced(i, 0, spec), own.toSpliced(i, 0, own[i]!), params, draw),
      ];
      if (primitive.arity !== undefined && (fewer || more))
        throw new Error("a wrong number of arguments is accepted");
      checks += 5 + others.length;
    });
    // An axis that no argument has.
    for (const wrong of wrongAxes(params)) {
      if (agrees(primitive, specs, own, wrong, draw)) {
        throw new Error(
          `the parameters ${JSON.stringify(wrong)} are accepted, an axis is outside or occurs twice`,
        );
      }
      checks++;
    }
    return checks;
  },
};

/** Whether the rule accepts a call; throws if its answer, or its way to refuse, is wrong. */
function agrees(
  primitive: AnyPrimitive,
  specs: readonly ArgSpec[],
  types: readonly DType[],
  params: unknown,
  draw: SeededDraw,
  changed = true,
): boolean {
  const avals = specs.map((spec, i) => new Aval(spec.shape, types[i]!));
  const call = `${primitive.name} ${avals.join(", ")} ${JSON.stringify(params)}`;
  let expected: Aval[];
  try {
    expected = primitive.shape(avals, params);
  } catch (error) {
    if (error instanceof ShapeError || error instanceof DTypeError) return false;
    throw new Error(`${call} is refused with another error: ${error}`, { cause: error });
  }
  const args = specs.map((spec, i) => draw.tensor(spec, types[i]!));
  let outs: Value[];
  try {
    outs = bind(primitive, args, params);
  } catch (error) {
    // A changed shape may leave drawn indices outside: elements, which the shape rule does not see.
    if (changed && error instanceof RangeError) return true;
    throw error;
  }
  if (outs.length !== expected.length || !outs.every((y, i) => y.aval.equals(expected[i]!))) {
    throw new Error(`${call} gives ${outs.map((y) => y.aval)}, the shape rule says ${expected}`);
  }
  if (types.every((dtype, i) => dtype === dtypeOf(specs[i]!, dtype))) assertFinite(outs, call);
  const program = stage((...xs) => bind(primitive, xs, params), avals);
  if (verify(program) !== 1)
    throw new Error(`${call} stages ${program.eqns.length} equations, one is needed`);
  return true;
}

function otherShapes(spec: ArgSpec): ArgSpec[] {
  const { shape: sizes } = spec;
  return [
    { ...spec, shape: [...sizes, 2] },
    { ...spec, shape: sizes.slice(1) },
    { ...spec, shape: sizes.map((n, a) => (a === sizes.length - 1 ? n + 1 : n)) },
  ];
}

/** The parameters with an axis out of range, or one twice, where they name axes at all. */
function wrongAxes(params: unknown): unknown[] {
  const { axis, axes, perm, starts, low } = (params ?? {}) as Readonly<Record<string, unknown>>;
  const known = params as Readonly<Record<string, unknown>>;
  const wrong: unknown[] = [];
  if (typeof axis === "number")
    wrong.push({ ...known, axis: axis + 10 }, { ...known, axis: -1 }, { ...known, axis: 0.5 });
  if (Array.isArray(axes)) wrong.push({ ...known, axes: [...axes, 10] }, { ...known, axes: [...axes, -1] });
  if (Array.isArray(axes) && axes.length > 0) wrong.push({ ...known, axes: [...axes, axes[0]] });
  if (Array.isArray(perm)) wrong.push({ ...known, perm: [...perm, 10] });
  if (Array.isArray(starts)) wrong.push({ ...known, starts: [...starts, 0] });
  if (Array.isArray(low)) wrong.push({ ...known, low: [...low, 0] });
  return wrong;
}
