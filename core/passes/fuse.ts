/**
 * Fusion: a program as steps. Equations that compute element by element join one loop with the reductions they feed
 * and are fed by; equations that only move elements become layouts of what is read. What remains are kernels written by
 * hand and equations that the host runs. A value is computed in one loop and stored where another reads it, except for a
 * cheap one that only a reduction along other axes reads: it is computed there again.
 */
import type { Aval } from "../aval.ts";
import { invariant } from "../errors.ts";
import { constant, type Expr, exprType, input } from "../expr.ts";
import { bitsOfHalf, halfOfBits, keepsHalf, roundedToHalf } from "../half.ts";
import { isRowMajor, type Kernel, type Layout, reshaped, rowMajor } from "../kernel.ts";
import type { AnyPrimitive } from "../primitive.ts";
import { type Atom, type Program, Var } from "../program.ts";
import { type Shape, sameShape, sizeOf, withoutAxes } from "../shape.ts";
import { hostStorage, type Tensor } from "../value.ts";

/** A buffer: an input of the program, a constant, or the result of a step. Its elements are in row-major order. */
export class Slot {
  readonly aval: Aval;
  readonly origin: "input" | "constant" | "step";
  /** The elements of a constant. */
  readonly value: Tensor | null;
  constructor(aval: Aval, origin: Slot["origin"], value: Tensor | null = null) {
    this.aval = aval;
    this.origin = origin;
    this.value = value;
  }
}

/** `full`: one value per element of the iteration space. `row`: one per element that is left when axes are reduced. */
export type Level = "full" | "row";

/** Elements of a buffer that a loop reads: their value is the expression, an input. */
export interface Load {
  readonly expr: Expr;
  readonly level: Level;
  readonly slot: Slot;
  /** Over the iteration space, or at level `row` over the axes that are kept. */
  readonly layout: Layout;
}

export interface Store {
  readonly expr: Expr;
  readonly level: Level;
  readonly slot: Slot;
  readonly layout: Layout;
}

export type Join = "sum" | "prod" | "max" | "min";

/** Joins the values of an expression along the reduced axes; the result is the other expression, an input. */
export interface Reduction {
  readonly join: Join;
  readonly arg: Expr;
  readonly result: Expr;
}

/** One pass over an iteration space. */
export interface LoopStep {
  readonly k: "loop";
  readonly names: readonly string[];
  readonly shape: Shape;
  readonly reduced: readonly number[];
  readonly loads: readonly Load[];
  /** In order: what a reduction's argument needs comes before it. */
  readonly reductions: readonly Reduction[];
  /** Results of equations in order, for whoever wants to keep one instead of computing it again. */
  readonly values: readonly { readonly expr: Expr; readonly level: Level }[];
  readonly stores: readonly Store[];
}

export interface Operand {
  readonly slot: Slot;
  readonly layout: Layout;
}

/** A loop over the result of a call, which computes it: see epilogue.ts. */
export interface Epilogue {
  /** Its shape is the result's; it may read the result, always in row-major order. */
  readonly loop: LoopStep;
  /** Whether the result is needed besides: otherwise it need not be in memory. */
  readonly keepsResult: boolean;
}

/** A kernel written by hand, or the function of the record. */
export interface CallStep {
  readonly k: "named" | "host";
  readonly prim: AnyPrimitive;
  readonly params: unknown;
  readonly args: readonly Operand[];
  readonly outs: readonly Slot[];
  readonly epilogue: Epilogue | null;
}

export type Step = LoopStep | CallStep;

/** Where an output of the program is: a buffer in row-major order, under a shape of the same size. */
export interface Output {
  readonly slot: Slot;
  readonly aval: Aval;
}

export interface Schedule {
  readonly ins: readonly Slot[];
  readonly steps: readonly Step[];
  readonly outs: readonly Output[];
}

/** What a backend says about its kernels written by hand: which operands must be row-major, null if it has none. */
export type Prepare = (
  prim: AnyPrimitive,
  args: readonly { readonly aval: Aval; readonly layout: Layout }[],
  outs: readonly Aval[],
  params: unknown,
) => readonly boolean[] | null;

/** Rows longer than this are not kept for a second pass: they would not stay in the nearest cache. */
const LONGEST_ROW = 16384;
/** With fewer rows than this, long rows are reduced in pieces, so nothing may follow in the same loop. */
const FEW_ROWS = 8;
/** More buffers than this in one loop leave no registers for their addresses. */
export const MOST_OPERANDS = 14;
/** More equations than this in one loop leave no registers for their values. */
const MOST_VALUES = 64;
/** How many steps back an equation may join a loop that it does not depend on. */
const HORIZON = 12;
/** Up to so many operations for each element are done again rather than their results written and read, */
const CHEAP = 8;
/** if no more than so many buffers as large are read for it that would not be read otherwise. */
const MOST_READ_AGAIN = 2;

/** Whether an equation can be computed in a loop, which is that step. */
type Fits = (loop: Loop, step: number) => boolean;

/** A value under some layout: the elements are those of `base`, which is row-major. */
interface Source {
  readonly base: Var | Tensor;
  readonly layout: Layout;
}

/** An equation that computes element by element and that nothing has asked for yet. */
interface Pending {
  readonly name: string;
  readonly args: readonly Source[];
  readonly expr: (args: readonly Expr[]) => Expr;
  /** The last step that its operands come from, as far as that was known. */
  readonly first: number;
}

/** How a loop can compute a value of another one again. */
interface Again {
  /** What is computed, operands first. */
  readonly order: readonly Var[];
  /** What it is computed of: in memory, or small. */
  readonly leaves: readonly Source[];
}

/** A pending equation that waits for its operands. */
interface Demand {
  readonly out: Var;
  readonly pending: Pending;
  /** Its operands, the one from the latest step first. */
  readonly order: readonly Source[];
  next: number;
  /** The loop to join if possible. */
  near: number;
}

/** A value that a loop computes. */
interface LoopValue {
  readonly expr: Expr;
  readonly level: Level;
  /** After how many reductions, one after the other, it is known. */
  readonly phase: number;
  /** What it is computed of. */
  readonly from: readonly Expr[];
}

/** A loop while equations still join it. */
class Loop {
  readonly shape: Shape;
  reduced: readonly number[] = [];
  readonly loads: Load[] = [];
  readonly reductions: Reduction[] = [];
  readonly values = new Map<Var, LoopValue>();
  readonly stores: Store[] = [];
  readonly names: string[] = [];
  /** By values of float16 their bits, which are read or written; and by bits that are read their values. */
  readonly bits = new Map<Expr, Expr>();
  readonly decoded = new Map<Expr, Expr>();
  /** Nothing may join. */
  closed = false;
  inputs = 0;

  constructor(shape: Shape) {
    this.shape = shape;
  }

  get kept(): Shape {
    return withoutAxes(this.shape, this.reduced);
  }

  /** Whether the innermost axis that matters is reduced: only then can values follow a reduction. */
  get inRows(): boolean {
    const last = this.shape.findLastIndex((n) => n !== 1);
    return last < 0 || this.reduced.includes(last);
  }

  /** Whether a reduction's result can be used within the loop. */
  get canFollow(): boolean {
    const rows = sizeOf(this.kept);
    const length = sizeOf(this.shape) / Math.max(rows, 1);
    return this.inRows && length <= LONGEST_ROW && (rows >= FEW_ROWS || length <= 1024);
  }

  /** At which level a value of this shape, or of one with as many elements, can be computed. */
  levelOf(shape: Shape): Level | null {
    const size = sizeOf(shape);
    if (size === sizeOf(this.shape)) return "full";
    return this.reductions.length > 0 && this.canFollow && size === sizeOf(this.kept) ? "row" : null;
  }

  /** The iteration space of a level. */
  spaceOf(level: Level): Shape {
    return level === "full" ? this.shape : this.kept;
  }

  /** A fresh input expression: for a load or for the result of a reduction. */
  input(dtype: Aval["dtype"]): Expr {
    return input(this.inputs++, exprType(dtype));
  }
}

/** Whether a layout over the iteration space repeats row values along the reduced axes. */
function repeatsRows(layout: Layout, loop: Loop): boolean {
  const kept = rowMajor(loop.kept).strides;
  let next = 0;
  return (
    layout.offset === 0 &&
    layout.shape.every((n, a) => {
      const wanted = loop.reduced.includes(a) ? 0 : kept[next++]!;
      return n === 1 || layout.strides[a] === wanted;
    })
  );
}

const isWhole = (layout: Layout, size: number): boolean =>
  layout.offset === 0 && sizeOf(layout.shape) === size && isRowMajor(layout);

/** What a backend can have in one loop. */
export interface LoopLimits {
  /** Buffers that are read. */
  readonly loads: number;
  /** Whether a loop can compute this of its operands' elements; what it cannot, the host runs. Default: everything. */
  readonly computes?: (expr: Expr) => boolean;
  /** Whether elements of float16 are read and written as their bits, sign-extended to an i32. Default: as numbers. */
  readonly halvesAsBits?: boolean;
}

/** Groups the equations of a program, which has no symbolic zeros among its outputs, into steps. */
export function fused(
  program: Program,
  prepare: Prepare,
  limits: LoopLimits = { loads: MOST_OPERANDS },
): Schedule {
  return new Fusion(program, prepare, limits).run(program);
}

class Fusion {
  readonly #prepare: Prepare;
  readonly #limits: LoopLimits;
  readonly #steps: (Loop | CallStep)[] = [];
  readonly #sources = new Map<Var, Source>();
  readonly #slots = new Map<Var | Tensor, Slot>();
  /** Index of the step that computes a value; inputs have none. */
  readonly #producer = new Map<Var, number>();
  /** Placed when a value is needed: late, so that it joins the loop of the one who needs it. */
  readonly #pending = new Map<Var, Pending>();
  /** The same equations, also after they were placed. */
  readonly #equations = new Map<Var, Pending>();
  /** Values that only reductions read. */
  readonly #summands: Set<Var>;

  constructor(program: Program, prepare: Prepare, limits: LoopLimits) {
    this.#summands = summandsOf(program);
    this.#prepare = prepare;
    this.#limits = limits;
  }

  run(program: Program): Schedule {
    const ins = program.ins.map((v) => {
      const slot = new Slot(v.aval, "input");
      this.#slots.set(v, slot);
      this.#sources.set(v, { base: v, layout: rowMajor(v.aval.shape) });
      return slot;
    });
    for (const { prim, ins: atoms, outs, params } of program.eqns) {
      this.#add(prim, atoms, outs, params);
    }
    const outs = program.outs.map((atom): Output => {
      invariant(atom !== null, "a compiled program has no symbolic zeros");
      return { slot: this.#whole(this.#source(atom), atom.aval), aval: atom.aval };
    });
    const steps = this.#steps.map((step): Step => (step instanceof Loop ? finished(step) : step));
    return { ins, steps: steps.filter((step) => step.k !== "loop" || step.stores.length > 0), outs };
  }

  #add(prim: AnyPrimitive, atoms: readonly Atom[], outs: readonly Var[], params: unknown): void {
    const { kernel } = prim;
    const args = atoms.map((atom) => this.#source(atom));
    const out = outs[0]!;
    if (kernel?.k === "map" && this.#isComputed(kernel, atoms, params, out.aval)) {
      const first = Math.max(-1, ...args.map((source) => this.#firstOf(source)));
      const expr: Pending["expr"] = (exprs) => {
        const value = kernel.expr(exprs, params, out.aval);
        return out.aval.dtype === "float16" ? roundedOf(value, exprs, atoms) : value;
      };
      const pending = { name: prim.name, args, expr, first };
      this.#pending.set(out, pending);
      this.#equations.set(out, pending);
      this.#sources.set(out, { base: out, layout: rowMajor(out.aval.shape) });
    } else if (kernel?.k === "view") {
      const layout = kernel.view(args[0]!.layout, params, out.aval);
      if (layout) this.#sources.set(out, { base: args[0]!.base, layout });
      else {
        const copy = this.#copy(args[0]!, atoms[0]!.aval);
        const whole = kernel.view(rowMajor(atoms[0]!.aval.shape), params, out.aval);
        invariant(whole, "every layout of row-major elements has a view");
        this.#sources.set(out, { base: copy, layout: whole });
      }
    } else if (kernel?.k === "reduce") {
      const axes = kernel.axes(params);
      if (axes.length === 0) this.#sources.set(out, args[0]!);
      else this.#reduce(prim.name, out, args[0]!, kernel.join, axes);
    } else if (kernel?.k === "place") {
      const avals = atoms.map((atom) => atom.aval);
      const { fill, pieces } = kernel.place(avals, params, out.aval);
      for (const arg of args) this.#demand(arg, -1);
      this.#own(out, this.#steps.length);
      if (fill !== null) {
        const number = out.aval.dtype === "float16" ? Math.f16round(fill) : fill;
        this.#place(prim.name, out, rowMajor(out.aval.shape), constant(number, exprType(out.aval.dtype)));
      }
      for (const { arg, layout } of pieces) {
        if (sizeOf(layout.shape) > 0) this.#place(prim.name, out, layout, args[arg]!);
      }
      this.#producer.set(out, this.#steps.length - 1);
    } else {
      this.#call(prim, params, atoms, args, outs);
    }
  }

  #isComputed(
    { expr }: Extract<Kernel<unknown>, { k: "map" }>,
    atoms: readonly Atom[],
    params: unknown,
    out: Aval,
  ): boolean {
    const { computes } = this.#limits;
    if (computes === undefined) return true;
    const operands = atoms.map(({ aval }, i) => input(i, exprType(aval.dtype)));
    return computes(expr(operands, params, out));
  }

  #source(atom: Atom): Source {
    if (!(atom instanceof Var)) return { base: atom as Tensor, layout: rowMajor(atom.aval.shape) };
    const source = this.#sources.get(atom);
    invariant(source, "a variable is written before it is read");
    return source;
  }

  #firstOf(source: Source): number {
    const pending = source.base instanceof Var ? this.#pending.get(source.base) : undefined;
    return pending?.first ?? this.#producerOf(source);
  }

  /** Places the equation of a value and those it needs, if they are still pending; best in the loop `hint`. */
  #demand(source: Source, hint: number): void {
    // Depth first with a list of its own: chains of equations are longer than the stack is deep.
    const open: Demand[] = [];
    const enter = ({ base }: Source, near: number): void => {
      if (!(base instanceof Var)) return;
      const pending = this.#pending.get(base);
      if (!pending) return;
      this.#pending.delete(base);
      const order = pending.args.toSorted((x, y) => this.#firstOf(y) - this.#firstOf(x));
      open.push({ out: base, pending, order, next: 0, near });
    };
    enter(source, hint);
    for (let demand = open.at(-1); demand; demand = open.at(-1)) {
      const { out, pending, order, next } = demand;
      if (next > 0) demand.near = Math.max(demand.near, this.#producerOf(order[next - 1]!));
      if (next < order.length) {
        demand.next++;
        enter(order[next]!, demand.near);
      } else {
        this.#map(pending.name, out, pending.args, pending.expr, demand.near);
        open.pop();
      }
    }
  }

  #producerOf({ base }: Source): number {
    return base instanceof Var ? (this.#producer.get(base) ?? -1) : -1;
  }

  /** Says that a step computes a variable. */
  #own(v: Var, step: number): void {
    this.#producer.set(v, step);
    this.#sources.set(v, { base: v, layout: rowMajor(v.aval.shape) });
  }

  /** The buffer of a value that is used outside the step that computes it. */
  #slot(base: Var | Tensor): Slot {
    this.#demand({ base, layout: rowMajor(base.aval.shape) }, -1);
    const known = this.#slots.get(base);
    if (known) return known;
    const slot = base instanceof Var ? new Slot(base.aval, "step") : new Slot(base.aval, "constant", base);
    this.#slots.set(base, slot);
    const step = base instanceof Var ? this.#steps[this.#producer.get(base) ?? -1] : undefined;
    if (step instanceof Loop) {
      const value = step.values.get(base as Var);
      if (value) {
        const { expr, level } = value;
        this.#store(step, expr, { level, slot, layout: rowMajor(step.spaceOf(level)) });
      }
    }
    return slot;
  }

  /** A buffer that holds the value in row-major order. */
  #whole(source: Source, aval: Aval): Slot {
    if (isWhole(source.layout, source.base.aval.size)) return this.#slot(source.base);
    return this.#slot(this.#copy(source, aval));
  }

  /** A new variable with the elements of the source in row-major order. */
  #copy(source: Source, aval: Aval): Var {
    const v = new Var(aval);
    this.#demand(source, -1);
    this.#map("copy", v, [source], (exprs) => exprs[0]!, -1);
    return v;
  }

  // --- elementwise -----------------------------------------------------------------------------------------------

  /** Places an equation whose operands are placed. */
  #map(name: string, out: Var, args: readonly Source[], expr: Pending["expr"], hint: number): void {
    const { shape } = out.aval;
    const at = this.#home(args, shape, hint, (loop, step) => {
      const level = loop.levelOf(shape);
      return level !== null && this.#readable(args, loop, step, level);
    });
    const loop = this.#steps[at] as Loop;
    const level = loop.levelOf(shape)!;
    const exprs = args.map((source) => this.#read(source, loop, at, level));
    const phase = Math.max(0, ...exprs.map((e) => phaseOf(e, loop)));
    loop.values.set(out, { expr: expr(exprs), level, phase, from: exprs });
    loop.names.push(name);
    this.#own(out, at);
  }

  /** The step that an equation over `shape` joins: its last producer, a later loop with a common operand, or a new one. */
  #home(args: readonly Source[], shape: Shape, hint: number, fits: Fits): number {
    const found = this.#find(args, shape, hint, fits);
    return found >= 0 ? found : this.#steps.push(new Loop(shape)) - 1;
  }

  /** The same, and -1 where there is none. */
  #find(args: readonly Source[], shape: Shape, hint: number, fits: Fits): number {
    const first = Math.max(-1, ...args.map((source) => this.#producerOf(source)));
    const last = this.#steps.length - 1;
    const joins = (step: number): boolean => {
      const loop = this.#openLoop(step, args);
      if (loop === null) return false;
      const isRelated = step === first || step === hint || sizeOf(shape) <= 1 || this.#readsOneOf(args, loop);
      return isRelated && fits(loop, step);
    };
    if (first >= 0 && joins(first)) return first;
    if (hint > first && joins(hint)) return hint;
    for (let step = Math.max(first + 1, last - HORIZON); step <= last; step++) if (joins(step)) return step;
    return -1;
  }

  /** The loop that is a step, if an equation with these operands may still join it. */
  #openLoop(step: number, args: readonly Source[]): Loop | null {
    const loop = this.#steps[step];
    if (!(loop instanceof Loop) || loop.closed || loop.values.size >= MOST_VALUES) return null;
    if (loop.loads.length + loop.stores.length + args.length > MOST_OPERANDS) return null;
    return loop.loads.length + args.length > this.#limits.loads ? null : loop;
  }

  #readsOneOf(args: readonly Source[], loop: Loop): boolean {
    return args.some(({ base }) => loop.loads.some((load) => load.slot === this.#slots.get(base)));
  }

  #readable(args: readonly Source[], loop: Loop, step: number, level: Level): boolean {
    return args.every((source) => {
      const { base } = source;
      const layout = reshaped(source.layout, loop.spaceOf(level));
      if (layout === null) return false;
      if (this.#producerOf(source) !== step) return this.#producerOf(source) < step;
      const value = loop.values.get(base as Var);
      if (!value) return false;
      if (value.level === level) return isWhole(layout, base.aval.size);
      return value.level === "row" && loop.canFollow && repeatsRows(layout, loop);
    });
  }

  /** The expression of a value within a loop: computed there, a constant, or loaded. */
  #read(source: Source, loop: Loop, step: number, level: Level): Expr {
    const { base } = source;
    if (this.#producerOf(source) === step && base instanceof Var) return loop.values.get(base)!.expr;
    const layout = reshaped(source.layout, loop.spaceOf(level));
    invariant(layout, "an operand has a layout over the space of its loop");
    const single = base instanceof Var || base.aval.size !== 1 ? null : hostStorage(base);
    if (single !== null) return constant(single[0]!, exprType(base.aval.dtype));
    const slot = this.#slot(base);
    const known = loop.loads.find(
      (load) => load.slot === slot && load.level === level && sameLayout(load.layout, layout),
    );
    if (known) return loop.decoded.get(known.expr) ?? known.expr;
    const isBits = this.#limits.halvesAsBits === true && base.aval.dtype === "float16";
    const expr = loop.input(isBits ? "int32" : base.aval.dtype);
    loop.loads.push({ expr, level, slot, layout });
    if (!isBits) return expr;
    const value = halfOfBits(expr);
    loop.decoded.set(expr, value);
    loop.bits.set(value, expr);
    return value;
  }

  #store(loop: Loop, expr: Expr, place: Omit<Store, "expr">): void {
    const isBits = this.#limits.halvesAsBits === true && place.slot.aval.dtype === "float16";
    const stored = isBits ? (loop.bits.get(expr) ?? bitsOfHalf(unrounded.get(expr) ?? expr)) : expr;
    if (isBits) loop.bits.set(expr, stored);
    loop.stores.push({ ...place, expr: stored });
  }

  // --- reductions ------------------------------------------------------------------------------------------------

  #reduce(name: string, out: Var, arg: Source, join: Join, axes: readonly number[]): void {
    const reduced = [...axes].sort((a, b) => a - b);
    this.#demand(arg, -1);
    const { at, again } = this.#reductionHome(arg, reduced);
    const loop = this.#steps[at] as Loop;
    loop.reduced = reduced;
    for (const v of again?.order ?? []) this.#computeAgain(v, loop, at);
    const expr = again ? loop.values.get(again.order.at(-1)!)!.expr : this.#read(arg, loop, at, "full");
    const result = loop.input(out.aval.dtype);
    const phase = phaseOf(expr, loop) + 1;
    loop.reductions.push({ join, arg: expr, result });
    resultPhases.set(result, phase);
    loop.values.set(out, { expr: result, level: "row", phase, from: [expr] });
    loop.names.push(name);
    this.#own(out, at);
  }

  /** The step that a reduction joins, and how its argument is computed there if it is not read or computed anyway. */
  #reductionHome(
    arg: Source,
    reduced: readonly number[],
  ): { readonly at: number; readonly again: Again | null } {
    const { shape } = arg.layout;
    const fitsWith =
      (args: readonly Source[]): Fits =>
      (loop, step) => {
        if (!sameShape(loop.shape, shape)) return false;
        if (loop.reductions.length > 0 && !sameShape(loop.reduced, reduced)) return false;
        if (!this.#readable(args, loop, step, "full")) return false;
        const value = arg.base instanceof Var ? loop.values.get(arg.base) : undefined;
        return loop.reductions.length === 0 || value === undefined || value.phase === 0 || loop.canFollow;
      };
    const own = this.#producerOf(arg);
    const ownLoop = this.#openLoop(own, [arg]);
    const joinsOwn = ownLoop !== null && fitsWith([arg])(ownLoop, own);
    const again = this.#again(arg);
    if (again !== null && !(joinsOwn && ownLoop.stores.length + ownLoop.reductions.length > 0)) {
      const { leaves } = again;
      const fits = fitsWith(leaves);
      const later = joinsOwn
        ? -1
        : this.#find(leaves, shape, -1, (loop, step) => step !== own && fits(loop, step));
      const earlier = later < 0 ? this.#earlier(leaves, reduced, fits) : -1;
      const isNew = later < 0 && earlier < 0;
      // A loop of its own reads the leaves over its space: a broadcast one may have no layout there.
      const isPossible =
        !isNew || (!joinsOwn && leaves.every(({ layout }) => reshaped(layout, shape) !== null));
      if (isPossible && this.#readAgain(again, Math.max(later, earlier)) <= MOST_READ_AGAIN) {
        if (isNew) return { at: this.#steps.push(new Loop(shape)) - 1, again };
        return { at: later >= 0 ? later : this.#toEnd(earlier), again };
      }
    }
    return { at: joinsOwn ? own : this.#home([arg], shape, -1, fitsWith([arg])), again: null };
  }

  /** How a value that only reductions read can be computed again; null where that takes long, or more than is in memory. */
  #again({ base, layout }: Source): Again | null {
    const { size } = base.aval;
    if (!(base instanceof Var) || !this.#summands.has(base) || !isWhole(layout, size)) return null;
    const order = new Set<Var>();
    const leaves: Source[] = [];
    let work = 0;
    const visit = (source: Source): boolean => {
      const { base, layout } = source;
      if (order.has(base as Var)) return isWhole(layout, size);
      const isLeaf = !(base instanceof Var) || this.#slots.has(base) || base.aval.size < size;
      if (isLeaf) leaves.push(source);
      if (isLeaf) return true;
      const equation = this.#equations.get(base);
      if (equation === undefined || !isWhole(layout, size)) return false;
      work += workOf(equation);
      if (work > CHEAP || !equation.args.every(visit)) return false;
      order.add(base);
      return true;
    };
    const isPossible =
      visit({ base, layout }) &&
      order.size > 0 &&
      leaves.length <= Math.min(this.#limits.loads, MOST_OPERANDS - 1);
    return isPossible ? { order: [...order], leaves } : null;
  }

  /** How many large buffers would be read for a value that is computed again, beside those that the loop reads anyway. */
  #readAgain({ order, leaves }: Again, at: number): number {
    const { size } = order.at(-1)!.aval;
    const step = this.#steps[at];
    const read = step instanceof Loop ? step.loads.map(({ slot }) => slot) : [];
    const large = new Set(leaves.map(({ base }) => base).filter(({ aval }) => aval.size >= size));
    return [...large].filter((base) => !read.includes(this.#slots.get(base)!)).length;
  }

  #computeAgain(v: Var, loop: Loop, at: number): void {
    if (loop.values.has(v)) return;
    const { name, args, expr } = this.#equations.get(v)!;
    const from = args.map((source) => {
      const known = source.base instanceof Var ? loop.values.get(source.base) : undefined;
      return known?.level === "full" ? known.expr : this.#read(source, loop, at, "full");
    });
    const phase = Math.max(0, ...from.map((e) => phaseOf(e, loop)));
    loop.values.set(v, { expr: expr(from), level: "full", phase, from });
    loop.names.push(name);
  }

  /**
   * A loop with the same reduced axes that reads the same elements, but runs before the operands are there: -1 where there
   * is none that can as well run after all the other steps.
   */
  #earlier(args: readonly Source[], reduced: readonly number[], fits: Fits): number {
    const last = this.#steps.length - 1;
    for (let step = last; step >= Math.max(0, last - HORIZON); step--) {
      const loop = this.#openLoop(step, args);
      if (loop === null || loop.reductions.length === 0 || !sameShape(loop.reduced, reduced)) continue;
      const size = sizeOf(loop.shape);
      const large = args.filter(({ base }) => base.aval.size >= size);
      if (!this.#readsOneOf(large, loop) || args.some((source) => this.#producerOf(source) === step))
        continue;
      if (fits(loop, last + 1) && !this.#isRead(loop, step + 1)) return step;
    }
    return -1;
  }

  /** Whether a step from this one on reads what the loop stores. */
  #isRead({ stores }: Loop, from: number): boolean {
    const written = new Set(stores.map(({ slot }) => slot));
    return this.#steps
      .slice(from)
      .some((step) => (step instanceof Loop ? step.loads : step.args).some(({ slot }) => written.has(slot)));
  }

  /** Has a loop run after all other steps. */
  #toEnd(step: number): number {
    const loop = this.#steps[step] as Loop;
    const end = this.#steps.push(loop) - 1;
    const none = new Loop([]);
    none.closed = true;
    this.#steps[step] = none;
    for (const v of loop.values.keys()) if (this.#producer.get(v) === step) this.#producer.set(v, end);
    return end;
  }

  // --- everything else -------------------------------------------------------------------------------------------

  /** A loop that writes one piece of a variable. */
  #place(name: string, out: Var, layout: Layout, what: Source | Expr): void {
    const loop = new Loop(layout.shape);
    if ("base" in what) this.#demand(what, -1);
    const at = this.#steps.push(loop) - 1;
    const expr = "base" in what ? this.#read(what, loop, at, "full") : what;
    this.#store(loop, expr, { level: "full", slot: this.#slot(out), layout });
    loop.names.push(name);
    loop.closed = true;
  }

  #call(
    prim: AnyPrimitive,
    params: unknown,
    atoms: readonly Atom[],
    args: readonly Source[],
    outs: readonly Var[],
  ): void {
    const avals = atoms.map((atom) => atom.aval);
    const needs =
      prim.kernel?.k === "named"
        ? this.#prepare(
            prim,
            args.map(({ layout }, i) => ({ aval: avals[i]!, layout })),
            outs.map((v) => v.aval),
            params,
          )
        : null;
    const operands = args.map((source, i): Operand => {
      if (needs && !needs[i]) return { slot: this.#slot(source.base), layout: source.layout };
      return { slot: this.#whole(source, avals[i]!), layout: rowMajor(avals[i]!.shape) };
    });
    const at = this.#steps.length;
    const slots = outs.map((v): Slot => {
      this.#own(v, at);
      const slot = new Slot(v.aval, "step");
      this.#slots.set(v, slot);
      return slot;
    });
    const k = needs ? "named" : "host";
    this.#steps.push({ k, prim, params, args: operands, outs: slots, epilogue: null });
  }
}

/** The nearest float16 of what an equation computes, of operands of which some are float16. */
function roundedOf(value: Expr, exprs: readonly Expr[], atoms: readonly Atom[]): Expr {
  const halves = exprs.filter((_, i) => atoms[i]!.aval.dtype === "float16");
  if (keepsHalf(value, new Set(halves))) return value;
  const rounded = roundedToHalf(value);
  unrounded.set(rounded, value);
  return rounded;
}

/** What was rounded to float16: where bits are written, they are of this. */
const unrounded = new WeakMap<Expr, Expr>();

/** The values that only reductions read. */
function summandsOf({ eqns, outs }: Program): Set<Var> {
  const others = new Set<Atom | null>(outs);
  const summands = new Set<Var>();
  for (const { prim, ins, outs } of eqns.toReversed()) {
    for (const v of outs) if (!others.has(v)) summands.add(v);
    const k = prim.kernel?.k;
    if (k === "reduce" || (k === "view" && summands.has(outs[0]!))) continue;
    for (const atom of ins) others.add(atom);
  }
  return summands;
}

/** What an equation costs for each element, in additions. */
function workOf({ args, expr }: Pending): number {
  const operands = args.map(({ base }, i) => input(i, exprType(base.aval.dtype)));
  const seen = new Set<Expr>(operands);
  let work = 0;
  const visit = (e: Expr): void => {
    if (seen.has(e)) return;
    seen.add(e);
    if (e.op === "call") work = Number.POSITIVE_INFINITY;
    else if (e.op !== "const") work += e.op === "div" || e.op === "sqrt" ? 4 : 1;
    e.args.forEach(visit);
  };
  visit(expr(operands));
  return work;
}

/** After how many reductions of its loop a reduction's result is known. */
const resultPhases = new WeakMap<Expr, number>();

/** After how many reductions, one after the other, an expression of a loop is known. */
function phaseOf(e: Expr, loop: Loop): number {
  const known = resultPhases.get(e);
  if (known !== undefined) return known;
  for (const value of loop.values.values()) if (value.expr === e) return value.phase;
  return 0;
}

function sameLayout(x: Layout, y: Layout): boolean {
  return (
    x.offset === y.offset &&
    sameShape(x.shape, y.shape) &&
    x.strides.every((s, a) => s === y.strides[a] || x.shape[a] === 1)
  );
}

function finished(loop: Loop): LoopStep {
  const { names, shape, reduced, loads, reductions, stores } = loop;
  // Value by value: the nodes between are many.
  const from = new Map<Expr, readonly Expr[]>();
  for (const [value, bits] of loop.bits) {
    if (loop.decoded.has(bits)) from.set(value, [bits]);
    else from.set(bits, [value]);
  }
  for (const value of loop.values.values()) if (!from.has(value.expr)) from.set(value.expr, value.from);
  const used = new Set<Expr>();
  const visit = (e: Expr): void => {
    if (used.has(e)) return;
    used.add(e);
    from.get(e)?.forEach(visit);
  };
  for (const { expr } of stores) visit(expr);
  return {
    k: "loop",
    names,
    shape,
    reduced,
    loads: loads.filter(({ expr }) => used.has(expr)),
    reductions: reductions.filter(({ result }) => used.has(result)),
    values: [...loop.values.values()]
      .filter(({ expr }) => used.has(expr))
      .map(({ expr, level }) => ({ expr, level })),
    stores,
  };
}
