/**
 * Compiled programs: the steps of a schedule as kernels with their argument blocks, and where every buffer is when they
 * run. Small inputs and results are ordinary arrays, copied in and out; large ones stay in the heap.
 */

import { Aval } from "../../aval.ts";
import { type CompileOptions, type Executable, hostResults, reference, sharing } from "../../backend.ts";
import { bytesPerElement, type DType, makeArray, type TypedArray } from "../../dtype.ts";
import { invariant } from "../../errors.ts";
import type { ScalarFunction } from "../../expr.ts";
import { type CallStep, fused, type LoopStep, MOST_OPERANDS, Slot, type Step } from "../../passes/fuse.ts";
import { halvesWidened } from "../../passes/halves.ts";
import { arena, bytesOf, type Lifetime, lifetimes, mayOverwrite, slotsOf } from "../../passes/plan.ts";
import type { HostArray } from "../../primitive.ts";
import type { Program } from "../../program.ts";
import { isShared, markShared, moveStorage, storage, Tensor } from "../../value.ts";
import { type FunctionBuilder, ModuleBuilder } from "./assembler.ts";
import { type Engine, type LoadedKernel, SCRATCH_BYTES } from "./engine.ts";
import type { Heap } from "./heap.ts";
import type { NamedKernel } from "./named.ts";
import { type NestCall, nestOf, type Word } from "./nest.ts";
import { buffersOf, keyOf } from "./nest_key.ts";

/** Up to this many bytes an array is cheaper to copy in and out of the heap than to track there. */
export const SMALL_BYTES = 16384;
/** Element operations from which on a loop is worth more than one thread. */
const PARALLEL_WORK = 1 << 17;
/** Beyond this many different loops all are forgotten; programs keep their own. */
const MOST_KERNELS = 4096;
/** Nor are the texts of loops longer than this together. */
const MOST_CHARACTERS: number = 2 ** 25;

const LEAST_ARENA_BYTES = 65536;
/** After so many uses none of which needed this part of it, the arena is made smaller. */
const ARENA_USES = 4096;
const ARENA_EXCESS = 4;
/** A program that the heap has no room for is compiled again when there is room for this much, at most. */
const MOST_ROOM_BYTES: number = 2 ** 26;

/** The kernel of a loop, and how it is called. */
interface LoadedNest {
  readonly call: NestCall;
  readonly kernel: LoadedKernel;
}

/** What all compiled programs of an engine share: kernels by their code, and the arena. */
export class Compiler {
  readonly engine: Engine;
  readonly named: ReadonlyMap<string, NamedKernel>;
  /** By their code, which does not say where elements are, and by what the code and the rest was made from. */
  readonly #kernels = new Map<string, LoadedKernel>();
  readonly #nests = new Map<string, LoadedNest>();
  #keyLength = 0;
  readonly #functions = new Map<ScalarFunction, number>();
  #arena = 0;
  #arenaBytes = 0;
  /** The most that was asked of the arena in the uses since it was last looked at. */
  #arenaNeed = 0;
  #arenaUses = 0;
  /** A program runs now: the arena is its own. */
  isBusy = false;
  /** Is told of every step that runs, while somebody watches. */
  watch: ((work: StepWork, milliseconds: number) => void) | null = null;

  constructor(engine: Engine, named: ReadonlyMap<string, NamedKernel>) {
    this.engine = engine;
    this.named = named;
  }

  /** The address of the arena, which holds at least so many bytes; 0 when the heap is full. */
  arena(bytes: number): number {
    if (bytes > this.#arenaNeed) this.#arenaNeed = bytes;
    if (bytes > this.#arenaBytes || this.#arena === 0 || ++this.#arenaUses > ARENA_USES) this.#moveArena();
    return this.#arena;
  }

  #moveArena(): void {
    const { heap } = this.engine;
    const wanted = Math.max(LEAST_ARENA_BYTES, this.#arenaNeed);
    if (wanted > this.#arenaBytes || wanted * ARENA_EXCESS < this.#arenaBytes) {
      if (this.#arena !== 0) heap.free(this.#arena);
      this.#arena = heap.allocate(wanted);
      this.#arenaBytes = this.#arena === 0 ? 0 : wanted;
    }
    this.#arenaUses = 0;
    this.#arenaNeed = 0;
  }

  /** The kernels of loops, and how they are called; a loop like one that was seen before has its kernel. */
  load(steps: readonly LoopStep[]): readonly LoadedNest[] {
    if (this.#nests.size > MOST_KERNELS || this.#keyLength > MOST_CHARACTERS) this.#forget();
    const keys = steps.map((step) => keyOf(step, (scalar) => this.#identity(scalar)));
    const missing = new Map<string, LoopStep>();
    steps.forEach((step, i) => {
      if (!this.#nests.has(keys[i]!)) missing.set(keys[i]!, step);
    });
    const nests = this.#written([...missing.values()]);
    [...missing.keys()].forEach((key, i) => {
      this.#nests.set(key, nests[i]!);
      this.#keyLength += key.length;
    });
    return keys.map((key) => this.#nests.get(key)!);
  }

  #forget(): void {
    this.#kernels.clear();
    this.#nests.clear();
    this.#keyLength = 0;
  }

  /** Functions of loops, and the kernels that they are: those not seen before are loaded as one module. */
  #written(steps: readonly LoopStep[]): readonly LoadedNest[] {
    const { engine } = this;
    const written = steps.map((step) => {
      const calls: { readonly scalar: ScalarFunction; readonly arity: number }[] = [];
      const { body, call } = nestOf(step, {
        // Measured to gain nothing in loops of functions; without it, every engine gives the same bits.
        relaxed: false,
        scratchBytes: SCRATCH_BYTES,
        importCall: (scalar, arity) => {
          const known = calls.findIndex((call) => call.scalar === scalar);
          return known >= 0 ? known : calls.push({ scalar, arity }) - 1;
        },
      });
      const ids = calls.map(({ scalar }) => this.#identity(scalar));
      return { body, call, calls, key: `${ids}|${latin.decode(body.bytes())}` };
    });
    // Kernels with host functions cannot run on other threads, so each of them is a module of its own.
    const fresh = new Map<string, FunctionBuilder>();
    for (const { key, body, calls } of written) {
      if (this.#kernels.has(key)) continue;
      if (calls.length === 0) fresh.set(key, body);
      else {
        const module = new ModuleBuilder({ shared: engine.heap.shared });
        calls.forEach(({ arity }, i) => {
          module.importFunction(`c${i}`, new Array(arity).fill("f64"), ["f64"]);
        });
        module.add("kernel", body);
        const [kernel] = engine.load(
          module.bytes(),
          ["kernel"],
          calls.map(({ scalar }) => scalar),
        );
        this.#kernels.set(key, kernel!);
      }
    }
    if (fresh.size > 0) {
      const module = new ModuleBuilder({ shared: engine.heap.shared });
      const names = [...fresh.values()].map((body, i) => {
        module.add(`kernel${i}`, body);
        return `kernel${i}`;
      });
      const kernels = engine.load(module.bytes(), names);
      [...fresh.keys()].forEach((key, i) => {
        this.#kernels.set(key, kernels[i]!);
      });
    }
    return written.map(({ call, key }) => ({ call, kernel: this.#kernels.get(key)! }));
  }

  #identity(scalar: ScalarFunction): number {
    const known = this.#functions.get(scalar) ?? this.#functions.size;
    this.#functions.set(scalar, known);
    return known;
  }
}

const latin = new TextDecoder("latin1");

/** Runs one step: every buffer's address is in the table. */
type Runner = (addresses: Float64Array) => void;

/** What a step is for, for whoever counts. */
export interface StepWork {
  readonly label: string;
  /** What it writes first. */
  readonly result: string;
  /** Of the buffers that it reads and writes. */
  readonly bytes: number;
}

function workOf(step: Step): StepWork {
  const { reads, writes } = slotsOf(step);
  const names = step.k === "loop" ? step.names : [step.prim.name];
  return {
    label: names.join("+"),
    result: String(writes[0]!.aval),
    bytes: [...new Set([...reads, ...writes])].reduce((sum, slot) => sum + bytesOf(slot), 0),
  };
}

/** Where in the argument block an address belongs, and whose it is. */
interface Patch {
  readonly word: number;
  readonly slot: number;
  readonly byteOffset: number;
}

/** Compiles a program whose equations are already simplified. */
export function compile(program: Program, compiler: Compiler, options: CompileOptions = {}): Executable {
  for (const { outs } of program.eqns) for (const { aval } of outs) checkAxes(aval);
  const make = (): Executable | null => new Compilation(program, compiler, options).executable();
  return make() ?? new Waiting(program, compiler, make);
}

/** Runs on the reference until the heap has room for what the program keeps there. */
class Waiting implements Executable {
  readonly #compiler: Compiler;
  readonly #make: () => Executable | null;
  #executable: Executable;
  #isCompiled = false;
  /** Compiling begins when there is room for so much; more than it was, each time that this was not enough. */
  #roomBytes = LEAST_ARENA_BYTES;

  constructor(program: Program, compiler: Compiler, make: () => Executable | null) {
    this.#compiler = compiler;
    this.#make = make;
    this.#executable = reference.compile(program);
  }

  show(): string {
    return this.#executable.show();
  }

  run(args: readonly Tensor[]): Tensor[] {
    if (!this.#isCompiled && !this.#compiler.isBusy && this.#hasRoom()) {
      const made = this.#make();
      this.#isCompiled = made !== null;
      this.#executable = made ?? this.#executable;
      this.#roomBytes = Math.min(2 * this.#roomBytes, MOST_ROOM_BYTES);
    }
    return this.#executable.run(args);
  }

  #hasRoom(): boolean {
    const { heap } = this.#compiler.engine;
    const block = heap.allocate(this.#roomBytes);
    if (block !== 0) heap.free(block);
    return block !== 0;
  }
}

/** Kernels count along an axis in int32. */
function checkAxes(aval: Aval): void {
  const axis = aval.shape.findIndex((n) => n >= 2 ** 31);
  if (axis < 0) return;
  throw new RangeError(
    `Cannot compute ${aval}: axis ${axis} has ${aval.shape[axis]} elements, fewer than ${2 ** 31} are needed`,
  );
}

class Compilation {
  readonly #program: Program;
  readonly #compiler: Compiler;
  readonly #steps: readonly Step[];
  readonly #ins: readonly Slot[];
  readonly #outs: readonly { readonly slot: Slot; readonly aval: Aval }[];
  readonly #lives: ReadonlyMap<Slot, Lifetime>;
  readonly #donated: readonly boolean[];
  /** Every buffer has a number: its place in the table of addresses. */
  readonly #numbers = new Map<Slot, number>();
  readonly #patches: Patch[] = [];
  /** The argument block and those that plans of kernels written by hand keep; 0 where the heap was full. */
  readonly #blocks: number[] = [];

  constructor(program: Program, compiler: Compiler, options: CompileOptions) {
    this.#program = program;
    this.#compiler = compiler;
    const wide = halvesWidened(program, (name) => compiler.named.get(name)?.takesHalves === true);
    const schedule = fused(
      wide,
      (prim, args, outs, params) => {
        const kernel = prim.kernel?.k === "named" ? compiler.named.get(prim.kernel.name) : undefined;
        const operands = args.map(({ aval, layout }) => ({ dtype: aval.dtype, layout }));
        return kernel?.prepare({ args: operands, outs, params }) ?? null;
      },
      { loads: MOST_OPERANDS, halvesAsBits: true },
    );
    this.#steps = schedule.steps;
    this.#ins = schedule.ins;
    this.#outs = schedule.outs;
    this.#lives = lifetimes(schedule);
    this.#donated = options.donated ?? [];
  }

  #number(slot: Slot): number {
    const known = this.#numbers.get(slot) ?? this.#numbers.size;
    this.#numbers.set(slot, known);
    return known;
  }

  /** Null where the heap has no room for what the program keeps there. */
  executable(): Executable | null {
    try {
      return this.#compiled();
    } catch (error) {
      const { heap } = this.#compiler.engine;
      for (const block of this.#blocks) if (block !== 0) heap.free(block);
      if (!this.#blocks.includes(0)) throw error;
      return null;
    }
  }

  #compiled(): Executable {
    const { engine } = this.#compiler;
    const { heap } = engine;
    const loops = this.#compiler.load(this.#steps.filter((step) => step.k === "loop"));
    const lives = new Map(this.#lives);
    const inArena = new Set<Slot>();
    const workspace = (bytes: number, at: number): Slot => {
      const slot = new Slot(new Aval([Math.ceil(bytes / 8)], "float64"), "step");
      lives.set(slot, { from: at, to: at });
      inArena.add(slot);
      return slot;
    };
    const outSlots = new Set(this.#outs.map(({ slot }) => slot).filter((slot) => slot.origin === "step"));
    const isSmall = (slot: Slot): boolean => bytesOf(slot) <= SMALL_BYTES;
    const words: Word[] = [];
    let next = 0;
    const runners = this.#steps.map((step, at): Runner => {
      if (step.k === "loop") return this.#loop(step, loops[next++]!, words, (bytes) => workspace(bytes, at));
      return step.k === "named" ? this.#named(step, (bytes) => workspace(bytes, at)) : this.#host(step);
    });

    // Which buffers are where: small inputs and all that is computed, except for large outputs, in the arena.
    const outNumbers = new Map([...outSlots].map((slot, i) => [slot, i]));
    const inNumbers = new Map(this.#ins.map((slot, i) => [slot, i]));
    for (const slot of lives.keys()) {
      this.#number(slot);
      const isLargeOutput = outSlots.has(slot) && !isSmall(slot);
      if (slot.origin === "step" && !isLargeOutput) inArena.add(slot);
      if (slot.origin === "input" && isSmall(slot)) inArena.add(slot);
    }
    const { offsets, bytes: arenaBytes } = arena(this.#steps, lives, inArena);

    // The argument block, with everything but addresses written once.
    const blocks = this.#blocks;
    const block = heap.recording(blocks, () => heap.allocate(4 * Math.max(1, words.length)));
    invariant(!blocks.includes(0), "the heap has room for what a program keeps there");
    const first = block >>> 2;
    words.forEach((word, i) => {
      if (typeof word === "number") heap.i32[first + i] = word;
    });
    for (const runner of runners) bases.set(runner, block);

    return new CompiledProgram({
      program: this.#program,
      compiler: this.#compiler,
      runners,
      works: this.#steps.map(workOf),
      blocks,
      patches: this.#patches.map((patch) => ({ ...patch, word: first + patch.word })),
      count: this.#numbers.size,
      arenaBytes,
      arena: [...offsets].map(([slot, offset]) => ({ slot: this.#number(slot), offset })),
      ins: this.#ins.map((slot) => ({
        slot: this.#number(slot),
        isSmall: isSmall(slot),
        isRead: this.#isRead(slot),
        aval: slot.aval,
      })),
      constants: [...this.#numbers]
        .filter(([slot]) => slot.origin === "constant")
        .map(([slot, number]) => ({ slot: number, value: slot.value! })),
      computed: [...outSlots].map((slot) => ({
        slot: this.#number(slot),
        aval: slot.aval,
        isSmall: isSmall(slot),
        donor: isSmall(slot) ? -1 : this.#donor(slot),
      })),
      outs: this.#outs.map(({ slot, aval }) => ({
        aval,
        computed: outNumbers.get(slot) ?? -1,
        input: inNumbers.get(slot) ?? -1,
        constant: slot.value,
      })),
      text: () => this.#text(arenaBytes),
    });
  }

  #isRead(slot: Slot): boolean {
    return this.#lives.get(slot)!.to >= 0;
  }

  readonly #given = new Set<number>();

  /** The input whose storage a large output may take: given up, of the same size, and not needed any more. */
  #donor(slot: Slot): number {
    const { from } = this.#lives.get(slot)!;
    const found = this.#ins.findIndex((input, i) => {
      if (this.#donated[i] !== true || this.#given.has(i)) return false;
      if (input.aval.dtype !== slot.aval.dtype || input.aval.size !== slot.aval.size) return false;
      const { to } = this.#lives.get(input)!;
      return to < from || (to === from && mayOverwrite(this.#steps[from]!, input, slot));
    });
    if (found >= 0) this.#given.add(found);
    return found;
  }

  // --- steps -----------------------------------------------------------------------------------------------------

  #loop(
    step: LoopStep,
    { call, kernel }: LoadedNest,
    words: Word[],
    workspace: (bytes: number) => Slot,
  ): Runner {
    const { engine } = this.#compiler;
    const { heap } = engine;
    const { units, grain, pieces } = call;
    const partials = pieces ? workspace(8 * units * pieces.results.length) : null;
    const at = words.length;
    const buffers = buffersOf(step);
    call.words.forEach((word, i) => {
      words.push(word);
      if (typeof word === "number") return;
      const slot = word === "workspace" ? partials! : buffers[word.buffer]!;
      const byteOffset = word === "workspace" ? 0 : word.byteOffset;
      this.#patches.push({ word: at + i, slot: this.#number(slot), byteOffset });
    });
    const isParallel = kernel.threaded && units > grain && call.work >= PARALLEL_WORK;
    let args = 0;
    const runner: Runner = (addresses) => {
      if (units === 0) return;
      args ||= bases.get(runner)! + 4 * at;
      try {
        engine.run(kernel, units, grain, args, isParallel);
      } catch (error) {
        throw kernel.threaded ? error : ofHost(error);
      }
      if (pieces === null) return;
      const from = addresses[this.#number(partials!)]!;
      pieces.results.forEach(({ join, type, store }, r) => {
        const [view, distance] = partialsOf(engine, type);
        const { slot } = step.stores[store]!;
        const target = viewOf(heap.buffer, slot.aval, addresses[this.#number(slot)]!);
        for (let row = 0; row < target.length; row++) {
          const start =
            from / view.BYTES_PER_ELEMENT + (row * pieces.perRow * pieces.results.length + r) * distance;
          let value = view[start]!;
          for (let piece = 1; piece < pieces.perRow; piece++) {
            value = joined(join, type, value, view[start + piece * pieces.results.length * distance]!);
          }
          target[row] = value;
        }
      });
    };
    return runner;
  }

  #named({ prim, params, args, outs }: CallStep, workspace: (bytes: number) => Slot): Runner {
    const { engine, named } = this.#compiler;
    const { kernel } = prim;
    invariant(kernel?.k === "named", "a named step has a named kernel");
    const call = {
      args: args.map(({ slot, layout }) => ({ dtype: slot.aval.dtype, layout })),
      outs: outs.map((slot) => slot.aval),
      params,
    };
    const plan = engine.heap.recording(this.#blocks, () => named.get(kernel.name)!.plan(call, engine));
    const operands = args.map(({ slot, layout }) => ({
      slot: this.#number(slot),
      byteOffset: layout.offset * bytesPerElement(slot.aval.dtype),
    }));
    const results = outs.map((slot) => this.#number(slot));
    const space = plan.workspaceBytes > 0 ? this.#number(workspace(plan.workspaceBytes)) : -1;
    return (addresses) =>
      plan.run(
        operands.map(({ slot, byteOffset }) => addresses[slot]! + byteOffset),
        results.map((slot) => addresses[slot]!),
        space < 0 ? 0 : addresses[space]!,
      );
  }

  #host({ prim, params, args, outs }: CallStep): Runner {
    const { heap } = this.#compiler.engine;
    const numbers = args.map(({ slot }) => this.#number(slot));
    const avals = outs.map((slot) => slot.aval);
    const targets = outs.map((slot) => this.#number(slot));
    return (addresses) => {
      const hosts = args.map(({ slot, layout }, i): HostArray => {
        const aval = new Aval(layout.shape, slot.aval.dtype);
        return { aval, data: viewOf(heap.buffer, aval, addresses[numbers[i]!]!) };
      });
      const results = hostResults(prim, hosts, avals, params);
      avals.forEach((aval, i) => {
        viewOf(heap.buffer, aval, addresses[targets[i]!]!).set(results[i]!);
      });
    };
  }

  #text(arenaBytes: number): string {
    const name = (slot: Slot): string => `%${this.#number(slot)}: ${slot.aval}`;
    const lines = this.#steps.map((step) => {
      const { reads, writes } = slotsOf(step);
      const operands = reads.map((slot) => `%${this.#number(slot)}`);
      const written = writes.map(name).join(", ");
      if (step.k !== "loop") return `${written} = ${step.k} ${step.prim.name} ${operands.join(" ")}`;
      const { shape, reduced, names } = step;
      const axes = reduced.length > 0 ? ` reducing [${reduced}]` : "";
      return `${written} = loop [${shape}]${axes} ${names.join(" ")} of ${[...new Set(operands)].join(" ")}`;
    });
    return [
      `${this.#steps.length} steps, arena of ${arenaBytes} bytes, inputs ${this.#ins.map(name).join(", ")}`,
      ...lines.map((line) => `  ${line}`),
      `  return ${this.#outs.map(({ slot }) => `%${this.#number(slot)}`).join(", ")}`,
    ].join("\n");
  }
}

/** What a function of the host threw in a kernel that calls it, as it is; else the error itself. */
function ofHost(error: unknown): unknown {
  const cause = error instanceof Error ? error.cause : undefined;
  return cause === undefined || cause instanceof WebAssembly.RuntimeError ? error : cause;
}

/** The argument block of a step's program. */
const bases = new WeakMap<Runner, number>();

/** A typed array over the elements of a buffer in the heap. */
function viewOf(buffer: ArrayBuffer | SharedArrayBuffer, { dtype, size }: Aval, address: number): TypedArray {
  return new constructors[dtype](buffer as ArrayBuffer, address, size);
}

const constructors: Readonly<
  Record<DType, new (buffer: ArrayBuffer, offset: number, length: number) => TypedArray>
> = {
  float32: Float32Array,
  float64: Float64Array,
  int32: Int32Array,
  uint32: Uint32Array,
  bool: Uint8Array,
  get float16() {
    return Float16Array;
  },
};

/** Where pieces' results are read, and how many elements of that view lie between two of them. */
function partialsOf({ heap }: Engine, type: string): readonly [TypedArray, number] {
  if (type === "i32") return [heap.i32, 2];
  if (type === "u32") return [heap.u32, 2];
  return [heap.f64, 1];
}

function joined(join: string, type: string, x: number, y: number): number {
  if (join === "max") return Math.max(x, y);
  if (join === "min") return Math.min(x, y);
  if (join === "sum") return x + y;
  return type === "i32" || type === "u32" ? Math.imul(x, y) : x * y;
}

interface CompiledParts {
  readonly program: Program;
  readonly compiler: Compiler;
  readonly runners: readonly Runner[];
  /** Of each runner. */
  readonly works: readonly StepWork[];
  /** Of arguments: they live as long as the program. */
  readonly blocks: readonly number[];
  readonly patches: readonly Patch[];
  readonly count: number;
  readonly arenaBytes: number;
  readonly arena: readonly { readonly slot: number; readonly offset: number }[];
  readonly ins: readonly {
    readonly slot: number;
    readonly isSmall: boolean;
    readonly isRead: boolean;
    readonly aval: Aval;
  }[];
  readonly constants: readonly { readonly slot: number; readonly value: Tensor }[];
  readonly computed: readonly {
    readonly slot: number;
    readonly aval: Aval;
    readonly isSmall: boolean;
    readonly donor: number;
  }[];
  readonly outs: readonly {
    readonly aval: Aval;
    readonly computed: number;
    readonly input: number;
    readonly constant: Tensor | null;
  }[];
  readonly text: () => string;
}

/** Blocks of programs that nobody holds any more go back to the heap. */
const released = new FinalizationRegistry<{ readonly heap: Heap; readonly blocks: readonly number[] }>(
  ({ heap, blocks }) => {
    for (const block of blocks) heap.free(block);
  },
);

class CompiledProgram implements Executable {
  readonly #parts: CompiledParts;
  readonly #addresses: Float64Array;
  #arena = -1;
  #fallback: Executable | null = null;
  /** Constants in the heap, held so that they stay there. */
  readonly #constants: TypedArray[] = [];

  constructor(parts: CompiledParts) {
    this.#parts = parts;
    this.#addresses = new Float64Array(parts.count);
    released.register(this, { heap: parts.compiler.engine.heap, blocks: parts.blocks });
  }

  show(): string {
    return this.#parts.text();
  }

  run(args: readonly Tensor[]): Tensor[] {
    const { compiler, ins, computed, runners, patches, arenaBytes } = this.#parts;
    const { heap } = compiler.engine;
    // Called by a function of a record that runs as a step.
    if (compiler.isBusy) return this.#onReference(args);
    heap.pulse();
    const addresses = this.#addresses;
    const arena = compiler.arena(arenaBytes);
    if (arena === 0) return this.#onReference(args);
    if (arena !== this.#arena) {
      for (const { slot, offset } of this.#parts.arena) addresses[slot] = arena + offset;
      if (this.#arena < 0 && !this.#placeConstants()) return this.#onReference(args);
      this.#arena = arena;
    }
    /** Blocks for this call only. */
    const borrowed: number[] = [];
    const borrow = (bytes: number): number => {
      const block = heap.allocate(bytes);
      if (block !== 0) borrowed.push(block);
      return block;
    };
    compiler.isBusy = true;
    try {
      for (let i = 0; i < ins.length; i++) {
        const { slot, isSmall, isRead, aval } = ins[i]!;
        if (!isRead) continue;
        const data = storage(args[i]!);
        const address = heap.pointerOf(data);
        if (address !== 0) addresses[slot] = address;
        else if (isSmall) {
          // The slot's own place in the arena, which an address in the heap may have replaced in the last call.
          if (this.#home(slot) !== addresses[slot]) addresses[slot] = this.#home(slot);
          copyIn(heap, aval, data, addresses[slot]!);
        } else {
          const moved = heap.makeArray(aval.dtype, aval.size);
          if (moved !== null) {
            moved.set(data);
            if (isShared(data)) markShared(moved);
            moveStorage(args[i]!, moved);
            addresses[slot] = heap.pointerOf(moved);
          } else {
            const block = borrow(data.byteLength);
            if (block === 0) return this.#onReference(args);
            viewOf(heap.buffer, aval, block).set(data);
            addresses[slot] = block;
          }
        }
      }
      const arrays: (TypedArray | null)[] = new Array(computed.length).fill(null);
      for (let i = 0; i < computed.length; i++) {
        const { slot, aval, isSmall, donor } = computed[i]!;
        if (isSmall) continue;
        const array = (donor >= 0 ? this.#taken(args, donor) : null) ?? heap.makeArray(aval.dtype, aval.size);
        arrays[i] = array;
        addresses[slot] =
          array === null ? borrow(aval.size * bytesPerElement(aval.dtype)) : heap.pointerOf(array);
        if (addresses[slot] === 0) return this.#onReference(args);
      }
      for (let i = 0; i < patches.length; i++) {
        const { word, slot, byteOffset } = patches[i]!;
        heap.u32[word] = addresses[slot]! + byteOffset;
      }
      if (compiler.watch === null) for (let i = 0; i < runners.length; i++) runners[i]!(addresses);
      else this.#watched(compiler.watch);
      for (let i = 0; i < computed.length; i++) {
        const { slot, aval } = computed[i]!;
        arrays[i] ??= copyOut(heap, aval, addresses[slot]!);
      }
      return this.#results(args, arrays as TypedArray[]);
    } finally {
      compiler.isBusy = false;
      for (const block of borrowed) heap.free(block);
    }
  }

  #watched(watch: NonNullable<Compiler["watch"]>): void {
    const { runners, works } = this.#parts;
    runners.forEach((runner, i) => {
      const start = performance.now();
      runner(this.#addresses);
      watch(works[i]!, performance.now() - start);
    });
  }

  #homes: Map<number, number> | null = null;

  /** The address of a small input's place in the arena. */
  #home(slot: number): number {
    this.#homes ??= new Map(this.#parts.arena.map(({ slot: number, offset }) => [number, offset]));
    return this.#arena + this.#homes.get(slot)!;
  }

  #placeConstants(): boolean {
    const { heap } = this.#parts.compiler.engine;
    this.#constants.length = 0;
    for (const { slot, value } of this.#parts.constants) {
      let data = storage(value);
      if (heap.pointerOf(data) === 0) {
        const moved = heap.makeArray(value.dtype, value.size);
        if (moved === null) return false;
        moved.set(data);
        moveStorage(value, moved);
        data = moved;
      }
      // Read again in every call, even after the tensor was given up elsewhere.
      markShared(data);
      this.#constants.push(data);
      this.#addresses[slot] = heap.pointerOf(data);
    }
    return true;
  }

  /** The storage of a donated input, if nothing else has it. */
  #taken(args: readonly Tensor[], donor: number): TypedArray | null {
    const data = storage(args[donor]!);
    const { heap } = this.#parts.compiler.engine;
    if (isShared(data) || heap.pointerOf(data) === 0) return null;
    return args.every((x, i) => i === donor || storage(x) !== data) ? data : null;
  }

  #results(args: readonly Tensor[], arrays: readonly TypedArray[]): Tensor[] {
    const used = new Set<TypedArray>();
    return this.#parts.outs.map(({ aval, computed, input, constant }) => {
      if (computed >= 0) {
        const data = arrays[computed]!;
        if (used.has(data)) markShared(data);
        used.add(data);
        return new Tensor(aval, data);
      }
      return sharing(input >= 0 ? args[input]! : constant!, aval);
    });
  }

  /** Where the heap is full: slower, and the same numbers up to rounding. */
  #onReference(args: readonly Tensor[]): Tensor[] {
    this.#fallback ??= reference.compile(this.#parts.program);
    return this.#fallback.run(args);
  }
}

/** Copies a small array into the heap. */
function copyIn(heap: Engine["heap"], aval: Aval, data: TypedArray, address: number): void {
  const { dtype } = aval;
  if (dtype === "float32") heap.f32.set(data, address >>> 2);
  else if (dtype === "float64") heap.f64.set(data, address / 8);
  else if (dtype === "bool") heap.u8.set(data, address);
  else if (dtype === "int32") heap.i32.set(data, address >>> 2);
  else if (dtype === "uint32") heap.u32.set(data, address >>> 2);
  else viewOf(heap.buffer, aval, address).set(data);
}

/** Copies a small array out of the heap. */
function copyOut(heap: Engine["heap"], aval: Aval, address: number): TypedArray {
  const data = makeArray(aval.dtype, aval.size);
  if (aval.size > 64 || aval.dtype === "float16") {
    data.set(viewOf(heap.buffer, aval, address));
    return data;
  }
  const from: TypedArray =
    aval.dtype === "float32"
      ? heap.f32
      : aval.dtype === "float64"
        ? heap.f64
        : aval.dtype === "bool"
          ? heap.u8
          : aval.dtype === "int32"
            ? heap.i32
            : heap.u32;
  const start = address / data.BYTES_PER_ELEMENT;
  for (let i = 0; i < data.length; i++) data[i] = from[start + i]!;
  return data;
}
