/** Compilation: a function is recorded once for each kind of arguments, simplified, compiled, and then only run. */
import type { Backend, Executable } from "../core/backend.ts";
import { TreeError } from "../core/errors.ts";
import { observing } from "../core/observe.ts";
import { deadCodeEliminated } from "../core/passes/dce.ts";
import { simplified } from "../core/passes/simplify.ts";
import { type Atom, evalProgram, type Program, show, stage, Var } from "../core/program.ts";
import { backendFor, checkSynchronous, isEager } from "../core/trace.ts";
import { flatten, type TreeDef, unflatten } from "../core/tree.ts";
import { donate, elementsOf, hostStorage, markShared, Tensor, Tracer, type Value } from "../core/value.ts";
import { filledIn, matches, type Signature, signatureName, signatureOf } from "./signature.ts";

/**
 * What may be reused, and how much is kept.
 *
 * @since 0.1.0
 */
export interface JitOptions {
  /** Positions of arguments that the caller gives up: results may take their storage, and using them later throws. */
  readonly donate?: number | readonly number[];
  /** How many programs are kept, one for each signature; the one unused for longest goes first. Default 64. */
  readonly cacheSize?: number;
}

/**
 * How often functions were recorded, how often a program was there already, and how many programs were dropped.
 *
 * @since 0.1.0
 */
export interface JitCounts {
  readonly traces: number;
  readonly hits: number;
  readonly evictions: number;
}

/**
 * The counts of one function, and how many programs it keeps.
 *
 * @since 0.1.0
 */
export interface JitStats extends JitCounts {
  readonly size: number;
}

/**
 * What a compiled function says about itself.
 *
 * @since 0.1.0
 */
export interface Compiled<A extends readonly unknown[]> {
  stats(): JitStats;
  /** The simplified program for these arguments; it is recorded if need be, not run. */
  program(...args: A): Program;
  /** The program as text, and the steps that the backend makes of it. */
  show(...args: A): string;
  /**
   * Records and compiles the function for these arguments, all shaders at the same time where there are any, and does
   * not run it: the first call need not wait.
   */
  prepare(...args: A): Promise<void>;
}

/**
 * The type of `jit`.
 *
 * @since 0.1.0
 */
export interface Jit {
  <F extends (...args: never[]) => unknown>(f: F, options?: JitOptions): F & Compiled<Parameters<F>>;
  /** The counts of all functions together. */
  stats(): JitCounts;
}

type AnyFunction = (...args: readonly unknown[]) => unknown;

/** What a backend made of a program; an output is a result by number, an input as `~position`, or a constant. */
interface Prepared {
  readonly backend: Backend;
  readonly outs: readonly (number | Tensor)[];
  /** For each output whether its tensor is another value too, one that the function as recorded tells from it. */
  readonly isOther: readonly boolean[];
  /** For each input the position of its argument where that is given up, else -1. */
  readonly givenUp: readonly number[];
  /** Null where nothing is computed. */
  readonly executable: Executable | null;
  /** For calls that read one storage in two places, which overwrite nothing; the first such call makes it. */
  careful: Executable | null;
}

/** One signature with its program. */
interface Entry {
  readonly signature: Signature;
  /** As recorded, for other transforms. */
  readonly program: Program;
  readonly outDef: TreeDef;
  /** For each input the position of its argument if that is a donated one, else -1. */
  readonly donated: readonly number[];
  readonly constants: readonly Tensor[];
  simplified: Program | null;
  /** By backend; what a closed device had goes with it. */
  readonly prepared: WeakMap<Backend, Prepared>;
}

const made = new WeakSet<object>();

/** Whether a function came from `jit`: it may be recorded once and kept. */
export function isCompiled(f: object): boolean {
  return made.has(f);
}

const totals = { traces: 0, hits: 0, evictions: 0 };

function compiled(f: AnyFunction, options: JitOptions = {}): AnyFunction & Compiled<readonly unknown[]> {
  const { donate: given = [], cacheSize = 64 } = options;
  const positions = typeof given === "number" ? [given] : given;
  const name = `jit(${f.name || "anonymous"})`;
  if (!Number.isInteger(cacheSize) || cacheSize < 1)
    throw new RangeError(`Cannot ${name}: cacheSize is ${cacheSize}, a positive integer is needed`);
  const entries = new Map<string, Entry>();
  const counts = { traces: 0, hits: 0, evictions: 0 };
  let latest: Entry | null = null;

  const count = (what: keyof JitCounts): void => {
    counts[what]++;
    totals[what]++;
  };
  /** The entry for the arguments, whose tensors are added to `leaves`. */
  const find = (args: readonly unknown[], leaves: Value[]): Entry => {
    if (latest && matches(latest.signature, args, leaves)) {
      count("hits");
      return latest;
    }
    leaves.length = 0;
    const signature = signatureOf(args, leaves);
    const key = signatureName(signature);
    const known = entries.get(key);
    if (known) count("hits");
    else count("traces");
    const entry = known ?? record(f, name, signature, leaves, donatedBy(positions, args, name));
    // A value of a transform that runs now means nothing in the next call.
    if (readsTracer(entry.program)) return entry;
    latest = entry;
    entries.delete(key);
    entries.set(key, entry);
    if (entries.size > cacheSize) {
      entries.delete(entries.keys().next().value!);
      count("evictions");
    }
    return entry;
  };
  const call: AnyFunction = (...args) => {
    const leaves: Value[] = [];
    const entry = find(args, leaves);
    const isPlain = isEager() && leaves.every((x) => x instanceof Tensor);
    return unflatten(entry.outDef, isPlain ? run(entry, leaves, name) : evalProgram(entry.program, leaves));
  };
  Object.defineProperty(call, "name", { value: name });
  made.add(call);
  return Object.assign(call, {
    stats: (): JitStats => ({ ...counts, size: entries.size }),
    program: (...args: readonly unknown[]): Program => simplifiedOf(find(args, [])),
    show(...args: readonly unknown[]): string {
      const leaves: Value[] = [];
      const entry = find(args, leaves);
      const text = show(simplifiedOf(entry));
      const { executable } = preparedOf(entry, leaves);
      return executable ? `${text}\n${executable.show()}` : text;
    },
    async prepare(...args: readonly unknown[]): Promise<void> {
      const leaves: Value[] = [];
      const entry = find(args, leaves);
      await preparedOf(entry, leaves).executable?.prepare?.();
    },
  });
}

/** Records the function for arguments of the signature. */
function record(
  f: AnyFunction,
  name: string,
  signature: Signature,
  leaves: readonly Value[],
  donated: readonly number[],
): Entry {
  let outDef: TreeDef | undefined;
  const traced = (...xs: Value[]): readonly Value[] => {
    // An observer of the caller would be recorded for callers that have none.
    const out = observing({}, () => f(...(filledIn(signature, xs) as readonly unknown[])));
    checkSynchronous(out, "jit");
    const [outs, def] = flatten(out);
    outDef = def;
    return outs;
  };
  const avals = leaves.map((x) => x.aval);
  const program = deadCodeEliminated(named(name, () => stage(traced, avals, name)));
  const constants = new Set<Tensor>();
  for (const atom of atomsOf(program)) if (atom instanceof Tensor) constants.add(atom);
  return {
    signature,
    program,
    outDef: outDef!,
    donated,
    constants: [...constants],
    simplified: null,
    prepared: new WeakMap(),
  };
}

/** Adds the function's name to the library's errors. */
function named<T>(name: string, f: () => T): T {
  try {
    return f();
  } catch (error) {
    if (error instanceof Error && error.message.includes("(docs/errors.md#"))
      error.message += ` while tracing ${name}`;
    throw error;
  }
}

function* atomsOf(program: Program): Iterable<Atom | null> {
  for (const { ins } of program.eqns) yield* ins;
  yield* program.outs;
}

function readsTracer(program: Program): boolean {
  for (const atom of atomsOf(program)) if (atom instanceof Tracer) return true;
  return false;
}

/** For each tensor among the arguments, the position of its argument if it is a donated one, else -1. */
function donatedBy(positions: readonly number[], args: readonly unknown[], name: string): number[] {
  for (const i of positions) {
    if (!Number.isInteger(i) || i < 0 || i >= args.length) {
      throw new TreeError(
        "",
        `Cannot donate argument ${i} of ${name}: the call has ${args.length} arguments, a position among them is needed`,
      );
    }
  }
  return args.flatMap((arg, i) => {
    const leaves: Value[] = [];
    signatureOf(arg, leaves);
    return leaves.map(() => (positions.includes(i) ? i : -1));
  });
}

function simplifiedOf(entry: Entry): Program {
  entry.simplified ??= simplified(entry.program);
  return entry.simplified;
}

/** For the device that holds an argument or a constant. */
function preparedOf(entry: Entry, args: readonly Value[]): Prepared {
  const backend = backendFor(entry.constants.length === 0 ? args : [...args, ...entry.constants]);
  const known = entry.prepared.get(backend);
  if (known) return known;
  const program = simplifiedOf(entry);
  const places = new Map<Atom | null, number>();
  program.ins.forEach((v, i) => {
    places.set(v, ~i);
  });
  computed(program).forEach((v, i) => {
    places.set(v, i);
  });
  const outs = program.outs.map((atom) => (atom instanceof Tensor ? near(backend, atom) : places.get(atom)!));
  const given = new Set<number | Tensor>();
  const repeated = new Set<number | Tensor>();
  for (const out of outs) (given.has(out) ? repeated : given).add(out);
  const isOther = outs.map((out, i) => {
    if (out instanceof Tensor) return true;
    return out < 0 ? entry.program.outs[i] !== program.ins[~out] : repeated.has(out);
  });
  // What is returned as it came stays with the caller.
  const givenUp = entry.donated.map((position, i) => (given.has(~i) ? -1 : position));
  const executable = compile(backend, program, givenUp);
  const prepared = { backend, outs, isOther, givenUp, executable, careful: null };
  entry.prepared.set(backend, prepared);
  return prepared;
}

/** A result that is a constant, where the other results are; float64 stays on the host. */
function near({ transfers }: Backend, x: Tensor): Tensor {
  return transfers && hostStorage(x) !== null && x.dtype !== "float64" ? transfers.put(x) : x;
}

/** The distinct outputs that equations give: inputs and constants need no code. */
function computed({ ins, outs }: Program): Var[] {
  const given = new Set<Atom>(ins);
  return [...new Set(outs)].filter((atom) => atom instanceof Var && !given.has(atom)) as Var[];
}

/** Tensors that are several values: giving up one of them leaves the others. */
const several = new WeakSet<Tensor>();

/** Says that others hold the tensors of a tree, too: where they are donated they are read and stay as they are. */
export function keepForOthers(tree: unknown): void {
  const held: Value[] = [];
  signatureOf(tree, held);
  for (const x of held) {
    if (!(x instanceof Tensor)) continue;
    several.add(x);
    markShared(elementsOf(x));
  }
}

function compile(backend: Backend, program: Program, givenUp: readonly number[]): Executable | null {
  const outs = computed(program);
  if (outs.length === 0) return null;
  const donated = givenUp.map((position) => position >= 0);
  return backend.compile({ ...program, outs }, { donated });
}

/** Runs the compiled program on tensors. */
function run(entry: Entry, args: readonly Value[], name: string): Value[] {
  const prepared = preparedOf(entry, args);
  const tensors = args as readonly Tensor[];
  const { givenUp, isOther } = prepared;
  const isDonating = givenUp.some((position) => position >= 0);
  const kept = isDonating ? readTwice(entry, tensors) : null;
  let { executable } = prepared;
  if (kept && executable) {
    const none = givenUp.map(() => -1);
    prepared.careful ??= compile(prepared.backend, simplifiedOf(entry), none);
    executable = prepared.careful;
  }
  let results: readonly Tensor[] = [];
  try {
    if (executable) results = executable.run(tensors);
  } finally {
    // Also after an error: the storage may be overwritten in part.
    for (let i = 0; isDonating && i < givenUp.length; i++) {
      const x = tensors[i]!;
      const position = givenUp[i]!;
      if (position >= 0 && !kept?.has(x) && !several.has(x)) donate(x, `argument ${position} of ${name}`);
    }
  }
  return prepared.outs.map((out, i) => {
    const x = typeof out !== "number" ? out : out < 0 ? tensors[~out]! : results[out]!;
    if (isOther[i]) keepForOthers(x);
    return x;
  });
}

/** The tensors whose storage the call reads in two places, as two inputs or as a constant; null if there are none. */
function readTwice({ constants }: Entry, args: readonly Tensor[]): ReadonlySet<Tensor> | null {
  const places = [...constants, ...args];
  const first = new Map<unknown, Tensor>();
  const twice = new Set<Tensor>();
  for (const x of places) {
    const data = elementsOf(x);
    const seen = first.get(data);
    if (seen) twice.add(seen).add(x);
    else first.set(data, x);
  }
  return twice.size === 0 ? null : twice;
}

/**
 * Compiles a function: its first call with arguments of one kind records, simplifies and compiles it, later calls run
 * what was compiled.
 *
 * The kind is the structure of the arguments, the shapes and element types of their tensors, and everything else in
 * them: numbers, strings and other data by value, functions and instances of classes by identity. So a number that
 * changes from call to call belongs into a tensor. The function must be pure: what it reads from outside is read once,
 * when it is recorded, and kept. Inside another transform the recorded program is run by that transform, so
 * `grad(jit(f))`, `vmap(jit(f))` and `jit(grad(f))` all work; the outermost `jit` is what is compiled.
 *
 * Shapes: as `f`; the function is recorded once for each shape.
 * Units: none.
 * Determinism: the same bits for the same inputs on one backend; compiled and uncompiled results agree to rounding.
 *
 * @param f function that returns a tree of tensors; its arguments may hold tensors and anything else
 * @param options `donate`: arguments whose storage may be reused; `cacheSize`: how many programs are kept
 * @returns `f`, compiled, with `stats`, `program`, `show` and `prepare`
 * @throws {TraceError} if `f` returns a Promise or reads elements, or a donated tensor is used again
 * @throws {TreeError} if `f` returns something else than a tree of tensors, or a donated argument is missing
 * @throws {RangeError} if `cacheSize` is not a positive integer
 * @example Recorded once
 * ```ts
 * const slope = ct.jit(ct.grad((x: ct.Value) => x.mul(x).sum()));
 * assertClose(slope(ct.tensor([1, 2])), [2, 4]);
 * assertClose(slope(ct.tensor([3, 4])), [6, 8]);
 * assert(slope.stats().traces === 1 && slope.stats().hits === 1);
 * ```
 * @example A step that reuses the storage of the parameters
 * ```ts
 * const step = ct.jit((w: ct.Value, g: ct.Value) => w.sub(g.mul(0.5)), { donate: 0 });
 * const w = ct.tensor([1, 2]);
 * assertClose(step(w, ct.tensor([2, 2])), [0, 1]);
 * assertThrows(() => w.dataSync(), ct.TraceError);
 * ```
 * @since 0.1.0
 */
export const jit: Jit = Object.assign(compiled as unknown as Jit, {
  stats: (): JitCounts => ({ ...totals }),
});
