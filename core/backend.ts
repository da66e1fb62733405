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
  /** Makes what the first run would otherwise make before it runs; absent where nothing is left to make. */
  prepare?(): Promise<void>;
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
  /** Begins to count and time kernels; the result ends it, once all of them have run. */
  profile?(): () => Promise<Activity>;
  /** Where there are several ways to compute the same, of which the fastest is found by trying. */
  readonly tuning?: Tuner;
}

/**
 * All runs of one kernel while a profile was taken.
 *
 * @since 0.3.0
 */
export interface KernelProfile {
  readonly device: string;
  /** The primitives that it computes. */
  readonly label: string;
  /** What it writes first, as `f32[64,10]`. */
  readonly result: string;
  readonly calls: number;
  /** Of all calls together; null where the device cannot time them. */
  readonly milliseconds: number | null;
  /** Of the buffers that it was given, each once for each call. */
  readonly bytes: number;
  /** Floating-point operations of matrix products and convolutions, where the device counts them; else 0. */
  readonly operations: number;
}

/** What one device did while a profile was taken. */
export interface Activity {
  readonly kernels: readonly KernelProfile[];
  /** How long the program waited for the device, or was itself the device. */
  readonly busyMilliseconds: number;
  readonly submits: number;
  readonly reads: number;
  readonly sentBytes: number;
  readonly readBytes: number;
  readonly notes: readonly string[];
}

/**
 * The ways that were tried for one computation.
 *
 * @since 0.3.0
 */
export interface TuningChoice {
  /** The fastest: what programs use. */
  readonly variant: string;
  readonly microseconds: number;
  /** What they use without having tried. */
  readonly usual: string;
  readonly usualMicroseconds: number;
}

/**
 * What was tried on a device; as text, a table.
 *
 * @since 0.3.0
 */
export interface TuningTable {
  /** The adapter with its driver: times of one say nothing about another. */
  readonly adapter: string;
  /** By computation: element type, sizes, and how operands lie in memory. */
  readonly choices: Readonly<Record<string, TuningChoice>>;
  /** The file that keeps the table; null where none does. */
  readonly path: string | null;
  /** What could not be read, written or tried. */
  readonly notes: readonly string[];
  toString(): string;
}

export interface Tuner {
  table(): TuningTable;
  /** Runs the function and tries what its programs compute in several ways. */
  tune(f: () => unknown, again: boolean): Promise<void>;
}

/** Moves elements between the host and a device. */
export interface Transfers {
  /** The same tensor on the device. */
  put(x: Tensor): Tensor;
  /** The same tensors on the host, in one transfer. */
  toHost(xs: readonly Tensor[]): Promise<Tensor[]>;
  /**
   * The same at once.
   *
   * @throws {DeviceError} where the host cannot wait for the device
   */
  toHostSync(xs: readonly Tensor[]): Tensor[];
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
