/**
 * Scalar expressions to WebAssembly SIMD, four elements at a time: float32, int32, uint32 and bool are one v128 each,
 * float64 is two. A bool is a mask, all ones or all zeros in its 32 bits.
 */
import type { DType } from "../../dtype.ts";
import { invariant } from "../../errors.ts";
import { constant, type Expr, type ExprType, type ScalarFunction } from "../../expr.ts";
import type { FunctionBuilder, Local, VectorOp } from "./assembler.ts";

/** Four lanes in v128 locals: one, or two for f64 (lanes 0 and 1, lanes 2 and 3). */
export type Vec = readonly Local[];

export interface VectorOptions {
  /** Whether the engine has relaxed SIMD: `fma` is then one instruction. */
  readonly relaxed: boolean;
  /** Index of the imported function that calls `scalar` with this many f64 and returns f64. */
  importCall(scalar: ScalarFunction, arity: number): number;
  /** Memory of this thread alone for constants; absent: all are in locals. */
  readonly pool?: ConstantPool;
}

/**
 * Where the prologue writes constants that do not fit into registers. JavaScriptCore keeps every constant in a register
 * for the whole loop, and the values between in memory; reading constants from memory makes long expressions up to 1.5
 * times as fast there and changes nothing in V8.
 */
export interface ConstantPool {
  readonly address: Local;
  /** Bytes from the address to the first constant. */
  readonly offset: number;
  /** How many constants fit, of 16 bytes each. */
  readonly capacity: number;
}

/** What is known wherever the code goes on: values in locals, and constants in memory by their offsets. */
export interface Kept {
  readonly values: ReadonlyMap<Expr | string, Vec>;
  readonly pooled: ReadonlyMap<Expr | string, number>;
}

type Lanes = "f32x4" | "f64x2" | "i32x4";

const lanesOf: Readonly<Record<ExprType, Lanes>> = {
  f32: "f32x4",
  f64: "f64x2",
  i32: "i32x4",
  u32: "i32x4",
  bool: "i32x4",
};

// Bytes of two vectors side by side, 0 to 31, that make a third.
const lowHalves = [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23];
const highHalf = [8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15];
const evenWords = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27];

/** The bytes of a v128 with one constant in every lane. */
function constantBytes(value: number, type: ExprType): Uint8Array {
  if (type === "f32") return new Uint8Array(new Float32Array(4).fill(value).buffer);
  if (type === "f64") return new Uint8Array(new Float64Array(2).fill(value).buffer);
  if (type === "bool") return new Uint8Array(16).fill(value === 0 ? 0 : 255);
  return new Uint8Array(new Int32Array(4).fill(value).buffer);
}

/** Leaves are the same wherever they occur; other nodes are known by identity. */
function keyOf(e: Expr): Expr | string {
  if (e.op === "input") return `input ${e.value}`;
  if (e.op === "const") return `${e.type} ${Object.is(e.value, -0) ? "-0" : e.value}`;
  return e;
}

/**
 * Constants that the code of a node uses beside its arguments. A shift to the left is a product, and an absolute value
 * an `and`: in both engines a constant in a local is cheaper than what they make of the instruction.
 */
function constantsOf({ op, type, args, value }: Expr): readonly Expr[] {
  if (op === "shl") return [constant(2 ** value, type)];
  if (op === "abs" && type === "f32") return [constant(0x7fffffff, "i32")];
  if (op === "div" && type === "u32") return [constant(0, type)];
  if (op === "div" && type === "i32") return [constant(0, type), constant(-1, type)];
  if (op !== "convert") return [];
  const from = args[0]!.type;
  if (type === "bool") return [constant(0, from)];
  if (from === "bool") return [constant(1, type)];
  if (from === "i32" && type === "u32") return [constant(0, "i32")];
  if (from === "u32" && type === "i32") return [constant(0x7fffffff, "u32")];
  return [];
}

function isZero({ op, value }: Expr): boolean {
  return op === "const" && Object.is(value, 0);
}

/** The arguments whose values are always needed: a rare branch computes its own where it is taken. */
export function neededBy({ op, args }: Expr): readonly Expr[] {
  return op === "rare" ? [args[2]!, args[0]!] : args;
}

/** The expressions and all below them, each once, arguments first. */
function nodesOf(roots: readonly Expr[], argsOf: (e: Expr) => readonly Expr[]): readonly Expr[] {
  const found = new Set<Expr>();
  const visit = (e: Expr): void => {
    if (found.has(e)) return;
    const args = argsOf(e);
    for (let i = args.length - 1; i >= 0; i--) visit(args[i]!);
    found.add(e);
  };
  roots.forEach(visit);
  return [...found];
}

const wrapped = new WeakMap<ScalarFunction, ScalarFunction>();

/** The function with its result modulo 2^32, as typed arrays store integers; always the same one. */
function wrapping(scalar: ScalarFunction): ScalarFunction {
  let modulo = wrapped.get(scalar);
  if (!modulo) {
    modulo = (x, y, z) => scalar(x, y, z) | 0;
    wrapped.set(scalar, modulo);
  }
  return modulo;
}

/** What is known of one copy of a loop's body. */
interface Copy {
  known: Map<Expr | string, Vec>;
  /** Masks as two vectors of 64-bit lanes, where a comparison or a selection of f64 made or needed them. */
  wide: Map<Local, Vec>;
}

/**
 * Writes the code of expressions into a function; what a node needs is computed once. A loop's body may be there several
 * times, for elements that follow each other: `emitTogether` then writes each instruction for all copies in a row,
 * so that the processor always has some that do not wait for each other.
 */
export class VectorEmitter {
  readonly #f: FunctionBuilder;
  readonly #options: VectorOptions;
  /** What `forget` keeps: what the prologue left in locals. */
  #kept = new Map<Expr | string, Vec>();
  #copies: readonly Copy[] = [{ known: new Map(), wide: new Map() }];
  /** The copy that `bind` and `emit` are about. */
  #copy: Copy = this.#copies[0]!;
  /** Constants in memory: their offsets. */
  #pooled = new Map<Expr | string, number>();

  constructor(f: FunctionBuilder, options: VectorOptions) {
    this.#f = f;
    this.#options = options;
  }

  newVec(type: ExprType): Vec {
    const first = this.#f.local("v128");
    return type === "f64" ? [first, this.#f.local("v128")] : [first];
  }

  /** Says that the value of a node is in these locals. */
  bind(e: Expr, v: Vec): void {
    this.#copy.known.set(keyOf(e), v);
  }

  /** Forgets every value that the prologue did not leave: before a body, or copies of it, where inputs are others. */
  forget(copies = 1): void {
    this.#copies = Array.from({ length: copies }, () => ({ known: new Map(this.#kept), wide: new Map() }));
    this.#copy = this.#copies[0]!;
  }

  /** Says which copy of the body `bind` and `emit` are about from here on. */
  at(copy: number): void {
    this.#copy = this.#copies[copy]!;
  }

  /** What `forget` keeps now, for `restore`. */
  save(): Kept {
    return { values: this.#kept, pooled: this.#pooled };
  }

  /** Forgets what is kept since `save`: after a loop whose body had a prologue of its own. */
  restore(saved: Kept): void {
    this.#kept = new Map(saved.values);
    this.#pooled = new Map(saved.pooled);
    this.forget();
  }

  /**
   * Before the loops: places the constants of these expressions, so many in locals, those that are used most, and
   * computes all that depends only on what is bound.
   */
  prologue(exprs: readonly Expr[], inLocals = 8): void {
    const always = nodesOf(exprs, neededBy);
    this.#placeConstants(
      always,
      nodesOf(exprs, ({ args }) => args),
      inLocals,
    );
    const invariants = new Set<Expr>();
    for (const e of always) {
      const isInvariant =
        this.#copy.known.has(keyOf(e)) ||
        e.op === "const" ||
        (e.op !== "rare" && e.args.length > 0 && e.args.every((x) => invariants.has(x)));
      if (!isInvariant) continue;
      invariants.add(e);
      if (e.op !== "const") this.emit(e);
    }
    this.#kept = new Map(this.#copy.known);
    for (const key of this.#pooled.keys()) this.#kept.delete(key);
  }

  #placeConstants(always: readonly Expr[], all: readonly Expr[], most: number): void {
    this.#pooled = new Map(this.#pooled);
    const uses = new Map<Expr | string, { readonly constant: Expr; count: number }>();
    const constantsIn = (e: Expr): readonly Expr[] => [
      ...e.args.filter(({ op }) => op === "const"),
      ...constantsOf(e),
    ];
    const isPlaced = (e: Expr): boolean => this.#copy.known.has(keyOf(e)) || this.#pooled.has(keyOf(e));
    for (const one of always.flatMap((e) => (e.op === "const" ? e : constantsIn(e)))) {
      const use = uses.get(keyOf(one)) ?? { constant: one, count: 0 };
      use.count++;
      if (!isPlaced(one)) uses.set(keyOf(one), use);
    }
    const ranked = [...uses.values()].sort((a, b) => b.count - a.count).map((use) => use.constant);
    const { pool } = this.#options;
    const inLocals = !pool || ranked.length <= most ? ranked.length : most;
    for (const one of ranked.slice(0, inLocals)) this.emit(one);
    if (!pool) return;
    for (const one of [...ranked.slice(inLocals), ...all.flatMap(constantsIn)]) {
      if (isPlaced(one) || this.#pooled.size === pool.capacity) continue;
      const offset = pool.offset + 16 * this.#pooled.size;
      this.#f.get(pool.address).v128(constantBytes(one.value, one.type)).simdMemory("v128.store", offset);
      this.#pooled.set(keyOf(one), offset);
    }
  }

  /** Writes the code for whatever of the expression is not known yet; its value is in the locals returned. */
  emit(root: Expr): Vec {
    this.#write(root, [this.#copy]);
    return this.#of(root);
  }

  /** The same for all copies, of which the same is known; the value in each. */
  emitTogether(root: Expr): readonly Vec[] {
    this.#write(root, this.#copies);
    return this.#copies.map(({ known }) => known.get(keyOf(root))!);
  }

  #write(root: Expr, copies: readonly Copy[]): void {
    const current = this.#copy;
    this.#visit(root, copies);
    this.#copy = current;
  }

  #visit(e: Expr, copies: readonly Copy[]): void {
    const key = keyOf(e);
    if (copies[0]!.known.has(key)) return;
    const needed = neededBy(e);
    const own = constantsOf(e);
    for (const x of needed) if (x.op !== "const") this.#visit(x, copies);
    // Constants last, so that they do not wait in a register for the other arguments.
    for (let i = own.length - 1; i >= 0; i--) this.#visit(own[i]!, copies);
    for (let i = needed.length - 1; i >= 0; i--)
      if (needed[i]!.op === "const") this.#visit(needed[i]!, copies);
    const shared = e.op === "const" ? this.#constant(e) : null;
    for (const copy of copies) {
      this.#copy = copy;
      copy.known.set(key, shared ?? this.#compute(e));
    }
  }

  #of(e: Expr): Vec {
    const v = this.#copy.known.get(keyOf(e));
    invariant(v !== undefined, `the kernel expression ${e.op} ${e.value} is bound before it is used`);
    return v;
  }

  /** One new vector per vector of `like`, each from the code that `body` writes for it. */
  #make(type: ExprType, body: (half: 0 | 1) => void): Vec {
    const v = this.newVec(type);
    v.forEach((local, half) => {
      body(half === 0 ? 0 : 1);
      this.#f.set(local);
    });
    return v;
  }

  /** The same instruction on each half of the arguments. */
  #apply(type: ExprType, name: VectorOp, ...args: readonly Vec[]): Vec {
    return this.#make(type, (half) => {
      for (const x of args) this.#f.get(x[half]!);
      this.#f.simd(name);
    });
  }

  #compute(e: Expr): Vec {
    const { op, type } = e;
    if (op === "rare") return this.#rare(e);
    const xs = e.args.map((x) => this.#of(x));
    const [x, y, z] = xs as [Vec, Vec, Vec];
    const from = e.args[0]?.type ?? type;
    const lanes = lanesOf[from];
    const isFloat = lanes !== "i32x4";
    switch (op) {
      case "input":
      case "iota":
        return this.#of(e);
      case "const":
        return this.#constant(e);
      case "add":
      case "sub":
      case "mul":
        return this.#apply(type, `${lanes}.${op}`, x, y);
      case "div":
        return isFloat ? this.#apply(type, `${lanes}.div`, x, y) : this.#divide(e, x, y);
      case "neg":
        return this.#apply(type, `${lanes}.neg`, x);
      case "abs":
        if (type === "f32") return this.#apply(type, "v128.and", x, this.emit(constantsOf(e)[0]!));
        return type === "u32" ? x : this.#apply(type, `${lanes}.abs`, x);
      case "sqrt":
        invariant(isFloat, "the square root is of a float");
        return this.#apply(type, `${lanes}.sqrt`, x);
      case "floor":
      case "ceil":
      case "trunc":
      case "nearest":
        return isFloat ? this.#apply(type, `${lanes}.${op}`, x) : x;
      case "min":
      case "max":
        return this.#extremum(e, x, y);
      case "fma":
        return this.#multiplyAdd(x, y, z, type);
      case "eq":
      case "ne":
      case "lt":
      case "le":
        return this.#compare(op, x, y, from);
      case "select":
        return this.#select(e, x, y, z);
      case "and":
      case "or":
      case "xor":
      case "not":
        return this.#bits(op, xs, type);
      case "shl":
        return this.#apply(type, "i32x4.mul", x, this.emit(constantsOf(e)[0]!));
      case "shr":
        return this.#make(type, () => {
          this.#f.get(x[0]!).i32(e.value);
          this.#f.simd(type === "i32" ? "i32x4.shr_s" : "i32x4.shr_u");
        });
      case "convert":
        return this.#convert(x, from, type);
      case "bitcast":
        return x;
      case "call":
        return this.#call(e, xs);
    }
    return op satisfies never;
  }

  #constant(e: Expr): Vec {
    const local = this.#f.local("v128");
    const offset = this.#pooled.get(keyOf(e));
    const { pool } = this.#options;
    if (offset !== undefined && pool) this.#f.get(pool.address).simdMemory("v128.load", offset);
    else this.#f.v128(constantBytes(e.value, e.type));
    this.#f.set(local);
    return e.type === "f64" ? [local, local] : [local];
  }

  /** The second value, and in a branch that is taken where any lane needs it the first. */
  #rare({ type, args }: Expr): Vec {
    const f = this.#f;
    const [condition, x, y] = args as [Expr, Expr, Expr];
    const mask = this.#of(condition);
    const otherwise = this.#of(y);
    const result = this.newVec(type);
    for (const [half, local] of result.entries()) f.get(otherwise[half]!).set(local);
    this.when(mask, () => {
      const chosen = this.#apply(type, "v128.bitselect", this.emit(x), otherwise, this.#maskFor(type, mask));
      for (const [half, local] of result.entries()) f.get(chosen[half]!).set(local);
    });
    return result;
  }

  /** A branch that is taken where any lane of the mask is set. What it computes is not known after it. */
  when(mask: Vec, body: () => void): void {
    this.#f.get(mask[0]!).simd("v128.any_true");
    this.#f.when(() => {
      const outside = this.#copy;
      this.#copy = { known: new Map(outside.known), wide: new Map(outside.wide) };
      body();
      this.#copy = outside;
    });
  }

  #multiplyAdd(x: Vec, y: Vec, z: Vec, type: ExprType): Vec {
    const lanes = lanesOf[type];
    if (this.#options.relaxed && lanes !== "i32x4")
      return this.#apply(type, `${lanes}.relaxed_madd`, x, y, z);
    return this.#make(type, (half) => {
      this.#f.get(x[half]!).get(y[half]!).simd(`${lanes}.mul`).get(z[half]!).simd(`${lanes}.add`);
    });
  }

  /** Integer quotient through float64, which has bits to spare: towards zero, 0 where the divisor is 0. */
  #divide(e: Expr, x: Vec, y: Vec): Vec {
    const { type } = e;
    const [zero, minusOne] = constantsOf(e).map((one) => this.emit(one)) as [Vec, Vec];
    const f = this.#f;
    const wide = this.#apply(
      "f64",
      "f64x2.div",
      this.#convert(x, type, "f64"),
      this.#convert(y, type, "f64"),
    );
    const quotient = this.#convert(wide, "f64", type);
    const isNonzero = this.#apply("bool", "i32x4.ne", y, zero);
    const whole = this.#apply(type, "v128.and", quotient, isNonzero);
    if (type === "u32") return whole;
    // The only quotient out of range is -2^31 / -1, which wraps around as the negation does.
    return this.#make(type, () => {
      f.get(x[0]!).simd("i32x4.neg").get(whole[0]!);
      f.get(y[0]!).get(minusOne[0]!).simd("i32x4.eq").simd("v128.bitselect");
    });
  }

  #extremum({ op, type, args }: Expr, x: Vec, y: Vec): Vec {
    invariant(op === "min" || op === "max", "the extremum is min or max");
    const lanes = lanesOf[type];
    if (type === "bool") return this.#bits(op === "min" ? "and" : "or", [x, y], type);
    if (lanes === "i32x4") return this.#apply(type, `i32x4.${op}_${type === "u32" ? "u" : "s"}`, x, y);
    // pmax(y, x) is x > y ? x : y, so NaN where y is; a constant x is no NaN.
    if (args[0]!.op === "const" && !Number.isNaN(args[0]!.value))
      return this.#apply(type, `${lanes}.p${op}`, y, x);
    // Where x is NaN all ones, which are a NaN too. Both engines take longer for f32x4.max.
    return this.#make(type, (half) => {
      this.#f.get(y[half]!).get(x[half]!).simd(`${lanes}.p${op}`);
      this.#f.get(x[half]!).get(x[half]!).simd(`${lanes}.ne`).simd("v128.or");
    });
  }

  #compare(op: "eq" | "ne" | "lt" | "le", x: Vec, y: Vec, from: ExprType): Vec {
    if (from === "f64") {
      const wide = this.#apply("f64", `f64x2.${op}`, x, y);
      return this.#narrow(wide);
    }
    if (from === "f32") return this.#apply("bool", `f32x4.${op}`, x, y);
    // A mask is 0 or -1, so that true is the smaller.
    const [a, b] = from === "bool" ? [y, x] : [x, y];
    const sign = op === "eq" || op === "ne" ? "" : from === "u32" ? "_u" : "_s";
    return this.#apply("bool", `i32x4.${op}${sign}` as VectorOp, a, b);
  }

  /** A mask of 32-bit lanes from one of 64-bit lanes, which is remembered. */
  #narrow(wide: Vec): Vec {
    const mask = this.#make("bool", () => this.#f.get(wide[0]!).get(wide[1]!).shuffle(evenWords));
    this.#copy.wide.set(mask[0]!, wide);
    return mask;
  }

  /** A mask of 64-bit lanes from one of 32-bit lanes. */
  #widen(mask: Vec): Vec {
    const known = this.#copy.wide.get(mask[0]!);
    if (known) return known;
    const wide = this.#make("f64", (half) => {
      this.#f.get(mask[0]!).simd(half === 0 ? "i64x2.extend_low_i32x4_s" : "i64x2.extend_high_i32x4_s");
    });
    this.#copy.wide.set(mask[0]!, wide);
    return wide;
  }

  #maskFor(type: ExprType, mask: Vec): Vec {
    return type === "f64" ? this.#widen(mask) : mask;
  }

  #select({ type, args }: Expr, condition: Vec, x: Vec, y: Vec): Vec {
    const mask = this.#maskFor(type, condition);
    // Where one side is all zero bits one instruction does it.
    if (isZero(args[2]!)) return this.#apply(type, "v128.and", x, mask);
    if (isZero(args[1]!)) return this.#apply(type, "v128.andnot", y, mask);
    return this.#apply(type, "v128.bitselect", x, y, mask);
  }

  #bits(op: "and" | "or" | "xor" | "not", xs: readonly Vec[], type: ExprType): Vec {
    invariant(type !== "f32" && type !== "f64", "bits are of an integer or a bool");
    const wides = xs.map((x) => this.#copy.wide.get(x[0]!));
    if (type === "bool" && wides.every((wide) => wide !== undefined))
      return this.#narrow(this.#apply("f64", `v128.${op}`, ...wides));
    return this.#apply(type, `v128.${op}`, ...xs);
  }

  #convert(x: Vec, from: ExprType, to: ExprType): Vec {
    const f = this.#f;
    if (from === to) return x;
    if (to === "bool") return this.#compare("ne", x, this.emit(constant(0, from)), from);
    if (from === "bool") {
      const mask = to === "f64" ? this.#widen(x) : x;
      return this.#apply(to, "v128.and", mask, this.emit(constant(1, to)));
    }
    if (to === "f64") {
      const name: VectorOp =
        from === "f32"
          ? "f64x2.promote_low_f32x4"
          : from === "i32"
            ? "f64x2.convert_low_i32x4_s"
            : "f64x2.convert_low_i32x4_u";
      return this.#make("f64", (half) => {
        f.get(x[0]!);
        if (half === 1) f.get(x[0]!).shuffle(highHalf);
        f.simd(name);
      });
    }
    if (from === "f64") {
      const name: VectorOp =
        to === "f32"
          ? "f32x4.demote_f64x2_zero"
          : to === "i32"
            ? "i32x4.trunc_sat_f64x2_s_zero"
            : "i32x4.trunc_sat_f64x2_u_zero";
      return this.#make(to, () => f.get(x[0]!).simd(name).get(x[1]!).simd(name).shuffle(lowHalves));
    }
    if (from === "f32")
      return this.#apply(to, to === "i32" ? "i32x4.trunc_sat_f32x4_s" : "i32x4.trunc_sat_f32x4_u", x);
    if (to === "f32")
      return this.#apply(to, from === "i32" ? "f32x4.convert_i32x4_s" : "f32x4.convert_i32x4_u", x);
    // Between the integers the nearest value: negative numbers give 0, those above the largest int32 give it.
    return to === "u32"
      ? this.#apply(to, "i32x4.max_s", x, this.emit(constant(0, from)))
      : this.#apply(to, "i32x4.min_u", x, this.emit(constant(0x7fffffff, from)));
  }

  /** Lane by lane through the host, all numbers float64 on the way. */
  #call({ scalar, type, args }: Expr, xs: readonly Vec[]): Vec {
    const f = this.#f;
    invariant(scalar !== null, "a call has a function");
    const isInteger = type === "i32" || type === "u32";
    const callee = this.#options.importCall(isInteger ? wrapping(scalar) : scalar, xs.length);
    const numbers = xs.map((x, i) => this.#convert(x, args[i]!.type, "f64"));
    const result = this.newVec("f64");
    result.forEach((local, half) => {
      for (const x of numbers) f.get(x[half]!).lane("f64x2.extract_lane", 0);
      f.call(callee).simd("f64x2.splat").set(local).get(local);
      for (const x of numbers) f.get(x[half]!).lane("f64x2.extract_lane", 1);
      f.call(callee).lane("f64x2.replace_lane", 1).set(local);
    });
    return this.#convert(result, "f64", isInteger ? "i32" : type);
  }
}

// --- memory ------------------------------------------------------------------------------------------------------

/** Loads four neighbouring elements, `offset` bytes after the address. */
export function loadVec(
  f: FunctionBuilder,
  _type: ExprType,
  dst: Vec,
  pushAddress: () => void,
  dtype: DType,
  offset = 0,
): void {
  pushAddress();
  if (dtype === "bool") {
    f.simdMemory("v128.load32_zero", offset)
      .simd("i16x8.extend_low_i8x16_u")
      .simd("i32x4.extend_low_i16x8_u");
    maskOfNumbers(f).set(dst[0]!);
    return;
  }
  if (dtype === "float16") {
    f.simdMemory("v128.load64_zero", offset).simd("i32x4.extend_low_i16x8_s").set(dst[0]!);
    return;
  }
  f.simdMemory("v128.load", offset).set(dst[0]!);
  if (dtype !== "float64") return;
  pushAddress();
  f.simdMemory("v128.load", offset + 16).set(dst[1]!);
}

/** Stores four neighbouring elements, `offset` bytes after the address. */
export function storeVec(
  f: FunctionBuilder,
  _type: ExprType,
  src: Vec,
  pushAddress: () => void,
  dtype: DType,
  offset = 0,
): void {
  pushAddress();
  f.get(src[0]!);
  if (dtype === "bool") {
    f.get(src[0]!).simd("i16x8.narrow_i32x4_s").get(src[0]!).simd("i8x16.narrow_i16x8_s").simd("i8x16.neg");
    f.simdLaneMemory("v128.store32_lane", 0, offset);
    return;
  }
  if (dtype === "float16") {
    f.get(src[0]!).simd("i16x8.narrow_i32x4_s").simdLaneMemory("v128.store64_lane", 0, offset);
    return;
  }
  f.simdMemory("v128.store", offset);
  if (dtype !== "float64") return;
  pushAddress();
  f.get(src[1]!).simdMemory("v128.store", offset + 16);
}

/** Loads one element into every lane. */
export function splatLoad(
  f: FunctionBuilder,
  _type: ExprType,
  dst: Vec,
  pushAddress: () => void,
  dtype: DType,
): void {
  pushAddress();
  if (dtype === "bool") maskOfNumbers(f.memory("i32.load8_u").simd("i32x4.splat")).set(dst[0]!);
  else if (dtype === "float16") f.memory("i32.load16_s").simd("i32x4.splat").set(dst[0]!);
  else if (dtype === "float64") f.simdMemory("v128.load64_splat").tee(dst[0]!).set(dst[1]!);
  else f.simdMemory("v128.load32_splat").set(dst[0]!);
}

/** Loads one element for the end of a loop; the other lanes repeat it, so that they hold nothing unexpected. */
export const loadOne: typeof splatLoad = splatLoad;

/** Stores the element of lane 0. */
export function storeOne(
  f: FunctionBuilder,
  _type: ExprType,
  src: Vec,
  pushAddress: () => void,
  dtype: DType,
): void {
  pushAddress();
  f.get(src[0]!);
  if (dtype === "bool") f.simd("i8x16.neg").simdLaneMemory("v128.store8_lane", 0);
  else if (dtype === "float16") f.simdLaneMemory("v128.store16_lane", 0);
  else f.simdLaneMemory(dtype === "float64" ? "v128.store64_lane" : "v128.store32_lane", 0);
}

/** A mask of the lanes that are not 0. */
function maskOfNumbers(f: FunctionBuilder): FunctionBuilder {
  return f.v128(new Uint8Array(16)).simd("i32x4.ne");
}
