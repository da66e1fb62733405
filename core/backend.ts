/**
 * Backends: what evaluates primitives and runs compiled programs. The reference runs the records' own functions; another
 * makes itself the current one when it is imported.
 */
import type { Aval } from "./aval.ts";
import { dtypeOf, type TypedArray } from "./dtype.ts";
import { invariant, RuleError } from "./errors.ts";
import type { AnyPrimitive, HostArray } from "./primitive.ts";
import type { Program, Var } from "./program.ts";
import { elementsOf, markShared, storage, Tensor, type Value } from "./value.ts";

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
  /** Where tensors have memory of their own; absent where they are arrays of the host. */
  readonly transfers?: Transfers;
}

/** Moves elements between the host and a device. */
export interface Transfers {
  /** The same tensor on the device. */
  put(x: Tensor): Tensor;
  /** The same tensors on the host, in one transfer. */
  toHost(xs: readonly Tensor[]): Promise<Tensor[]>;
}

/**
 * What the function of the record gives, one array for each result.
 *
 * @throws {RuleError} if an array has another length or element type than its abstract value
 */
export function hostResults(
  primitive: AnyPrimitive,
  hosts: readonly HostArray[],
  outs: readonly Aval[],
  params: unknown,
): readonly TypedArray[] {
  const data = primitive.cpu(hosts, outs, params);
  outs.forEach((aval, i) => {
    const one = data[i] as TypedArray | undefined;
    if (one !== undefined && dtypeOf(one) === aval.dtype && one.length === aval.size) return;
    const given = one === undefined ? "nothing" : `${one.constructor.name} of length ${one.length}`;
    throw new RuleError(
      primitive.name,
      "cpu",
      `Cannot use result ${i} of primitive "${primitive.name}": its cpu function gives ${given}, the ${aval.size} elements of ${aval} are needed`,
    );
  });
  return data;
}

/** Another tensor of the same elements, perhaps under another shape: either may be given up. */
export function sharing(x: Tensor, aval: Aval = x.aval): Tensor {
  const data = elementsOf(x);
  markShared(data);
  return new Tensor(aval, data);
}

/** Runs the function of the record. */
function evaluate(primitive: AnyPrimitive, args: readonly Tensor[], params: unknown): Tensor[] {
  const hosts = args.map((x): HostArray => ({ aval: x.aval, data: storage(x) }));
  const outs = primitive.shape(
    hosts.map((h) => h.aval),
    params,
  );
  const data = hostResults(primitive, hosts, outs, params);
  return outs.map((aval, i) => {
    const one = data[i]!;
    const isOperand = hosts.some((host) => host.data === one);
    if (isOperand) markShared(one);
    // A part of an operand: its memory may be used again when the operand is gone.
    const isPart = !isOperand && hosts.some((host) => host.data.buffer === one.buffer);
    return new Tensor(aval, isPart ? one.slice() : one);
  });
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
        const computed = new Set<unknown>(program.eqns.flatMap(({ outs }) => outs));
        return program.outs.map((atom) => (computed.has(atom) ? read(atom) : sharing(read(atom))));
      },
      show: () => "the reference: one step per equation",
    };
  },
  info: () => ({ backend: "reference" }),
};
