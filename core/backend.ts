/**
 * Backends: what evaluates primitives and runs compiled programs. The reference runs the records' own functions; another
 * makes itself the current one when it is imported.
 */
import { invariant } from "./errors.ts";
import type { AnyPrimitive, HostArray } from "./primitive.ts";
import type { Program, Var } from "./program.ts";
import { markShared, storage, Tensor, type Value } from "./value.ts";

/** A compiled program: takes its inputs in order and gives its outputs. */
export interface Executable {
  run(args: readonly Tensor[]): Tensor[];
  /** The steps as text, with the buffers they use. */
  show(): string;
}

export interface CompileOptions {
  /** For each input, whether its storage may be overwritten because the caller has given it up. Default: none. */
  readonly donated?: readonly boolean[];
}

export interface Backend {
  readonly name: string;
  /** Applies one primitive now. */
  evaluate(primitive: AnyPrimitive, args: readonly Tensor[], params: unknown): Tensor[];
  /** Compiles a program that has no symbolic zeros among its outputs. */
  compile(program: Program, options?: CompileOptions): Executable;
  /** What it runs on, as text by topic. */
  info(): Readonly<Record<string, string>>;
}

/** Runs the function of the record. */
function evaluate(primitive: AnyPrimitive, args: readonly Tensor[], params: unknown): Tensor[] {
  const hosts = args.map((x): HostArray => ({ aval: x.aval, data: storage(x) }));
  const outs = primitive.shape(
    hosts.map((h) => h.aval),
    params,
  );
  const data = primitive.cpu(hosts, outs, params);
  for (const one of data) if (hosts.some((host) => host.data === one)) markShared(one);
  return outs.map((aval, i) => new Tensor(aval, data[i]!));
}

/** Runs every equation by the function of its record: what the other backends are compared with. */
export const reference: Backend = {
  name: "reference",
  evaluate,
  compile(program) {
    return {
      run(args) {
        const env = new Map<Var, Tensor>(program.ins.map((v, i) => [v, args[i]!]));
        const read = (atom: Var | Value | null): Tensor => {
          const value = atom instanceof Tensor ? atom : env.get(atom as Var);
          invariant(value, "a compiled program reads tensors and variables that are written");
          return value;
        };
        for (const { prim, ins, outs, params } of program.eqns) {
          const results = evaluate(prim, ins.map(read), params);
          outs.forEach((v, i) => {
            env.set(v, results[i]!);
          });
        }
        return program.outs.map(read);
      },
      show: () => "the reference: one step per equation",
    };
  },
  info: () => ({ backend: "reference" }),
};
