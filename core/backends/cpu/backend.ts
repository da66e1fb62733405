/** The compiled CPU backend: programs through the compiler, single primitives through a cache of one-equation programs. */
import { type Backend, type CompileOptions, type Executable, reference, sharing } from "../../backend.ts";
import { dataName } from "../../identity.ts";
import { isRowMajor, rowMajor } from "../../kernel.ts";
import type { AnyPrimitive } from "../../primitive.ts";
import { copied, type Program, Var } from "../../program.ts";
import type { Tensor } from "../../value.ts";
import { findBlas } from "./blas.ts";
import { convInputKernel, convKernel, convKernelKernel } from "./convolution.ts";
import { dotKernel } from "./dot.ts";
import { engine } from "./engine.ts";
import { Compiler, compile } from "./executable.ts";
import { indexingKernels } from "./indexing.ts";
import type { NamedKernel } from "./named.ts";
import { poolingKernels } from "./pooling.ts";
import { scanKernels } from "./scan.ts";
import { sortingKernels } from "./sorting.ts";
import { threefryKernels } from "./threefry.ts";

/** The kernels written by hand, by the names that records use. */
const namedKernels: ReadonlyMap<string, NamedKernel> = new Map([
  ["dot", dotKernel],
  ["conv", convKernel],
  ["convInput", convInputKernel],
  ["convKernel", convKernelKernel],
  ...indexingKernels,
  ...poolingKernels,
  ...scanKernels,
  ...threefryKernels,
  ...sortingKernels,
]);

let compiler: Compiler | null = null;

function theCompiler(): Compiler {
  compiler ??= new Compiler(engine(), namedKernels);
  return compiler;
}

type Entry = (args: readonly Tensor[]) => Tensor[];

/** Single primitives compiled so far, by parameters and abstract values. */
const entries = new Map<AnyPrimitive, Map<string, Entry>>();
/** More entries than this for one primitive are forgotten together. */
const MOST_ENTRIES = 512;

function keyOf(args: readonly Tensor[], params: unknown): string {
  let key = params === null ? "" : dataName(params);
  for (const x of args) key += `|${x.aval}`;
  return key;
}

function hasKernel({ kernel }: AnyPrimitive): boolean {
  return kernel !== undefined && (kernel.k !== "named" || namedKernels.has(kernel.name));
}

function entryOf(primitive: AnyPrimitive, args: readonly Tensor[], params: unknown): Entry {
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
  const program: Program = { ins, eqns: [{ prim: primitive, ins, outs: vars, params }], outs: vars };
  const executable = compile(program, theCompiler());
  return (xs) => executable.run(xs);
}

export const cpu: Backend = {
  name: "cpu",
  evaluate(primitive, args, params) {
    // Not kept as an entry: the parameters may be large, and there is nothing to compile.
    if (!hasKernel(primitive)) return reference.evaluate(primitive, args, params);
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
  },
  compile: (program: Program, options?: CompileOptions): Executable =>
    compile(program, theCompiler(), options),
  info() {
    const blas = findBlas();
    const products = typeof blas === "string" ? `own kernels (no BLAS: ${blas})` : blas.name;
    return { backend: "cpu", ...engine().info(), products };
  },
};
