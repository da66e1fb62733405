/** Single primitives by programs of one equation, compiled once for each kind of operands and parameters. */
import { type Executable, sharing } from "../backend.ts";
import { dataName } from "../identity.ts";
import { isRowMajor, rowMajor } from "../kernel.ts";
import type { AnyPrimitive } from "../primitive.ts";
import { copied, type Program, Var } from "../program.ts";
import type { Tensor } from "../value.ts";

type Entry = (args: readonly Tensor[]) => Tensor[];

/** More entries than this for one primitive are forgotten together. */
const MOST_ENTRIES = 512;

function keyOf(args: readonly Tensor[], params: unknown): string {
  let key = params === null ? "" : dataName(params);
  for (const x of args) key += `|${x.aval}`;
  return key;
}

/** Evaluates primitives by what `compile` makes of one equation. */
export function eagerly(
  compile: (program: Program) => Executable,
): (primitive: AnyPrimitive, args: readonly Tensor[], params: unknown) => Tensor[] {
  const entries = new Map<AnyPrimitive, Map<string, Entry>>();
  const entryOf = (primitive: AnyPrimitive, args: readonly Tensor[], params: unknown): Entry => {
    const avals = args.map((x) => x.aval);
    const outs = primitive.shape(avals, params);
    const { kernel } = primitive;
    if (kernel?.k === "view") {
      const layout = kernel.view(rowMajor(avals[0]!.shape), params, outs[0]!);
      if (layout && layout.offset === 0 && avals[0]!.size === outs[0]!.size && isRowMajor(layout)) {
        const aval = outs[0]!;
        return ([x]) => [sharing(x!, aval)];
      }
    }
    const ins = avals.map((aval) => new Var(aval));
    const vars = outs.map((aval) => new Var(aval));
    const executable = compile({
      ins,
      eqns: [{ prim: primitive, ins, outs: vars, params }],
      outs: vars,
    });
    return (xs) => executable.run(xs);
  };
  return (primitive, args, params) => {
    let known = entries.get(primitive);
    if (!known) {
      known = new Map();
      entries.set(primitive, known);
    }
    const key = keyOf(args, params);
    let entry = known.get(key);
    if (!entry) {
      if (known.size >= MOST_ENTRIES) known.clear();
      entry = entryOf(primitive, args, copied(params));
      known.set(key, entry);
    }
    return entry(args);
  };
}
