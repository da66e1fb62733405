/**
 * WebAssembly binary writer: functions as instruction bytes, modules as sections. Instructions are methods, so that a
 * kernel's code reads in the order in which it runs.
 */
import { invariant } from "../../errors.ts";

export type ValueType = "i32" | "i64" | "f32" | "f64" | "v128";

const typeCode: Readonly<Record<ValueType, number>> = {
  i32: 0x7f,
  i64: 0x7e,
  f32: 0x7d,
  f64: 0x7c,
  v128: 0x7b,
};

/** One-byte opcodes of instructions without immediates. */
const plain = {
  "i32.eqz": 0x45,
  "i32.eq": 0x46,
  "i32.ne": 0x47,
  "i32.lt_s": 0x48,
  "i32.lt_u": 0x49,
  "i32.gt_s": 0x4a,
  "i32.gt_u": 0x4b,
  "i32.le_s": 0x4c,
  "i32.le_u": 0x4d,
  "i32.ge_s": 0x4e,
  "i32.ge_u": 0x4f,
  "f32.eq": 0x5b,
  "f32.ne": 0x5c,
  "f32.lt": 0x5d,
  "f32.gt": 0x5e,
  "f32.le": 0x5f,
  "f32.ge": 0x60,
  "f64.eq": 0x61,
  "f64.ne": 0x62,
  "f64.lt": 0x63,
  "f64.gt": 0x64,
  "f64.le": 0x65,
  "f64.ge": 0x66,
  "i32.clz": 0x67,
  "i32.ctz": 0x68,
  "i32.add": 0x6a,
  "i32.sub": 0x6b,
  "i32.mul": 0x6c,
  "i32.div_s": 0x6d,
  "i32.div_u": 0x6e,
  "i32.rem_s": 0x6f,
  "i32.rem_u": 0x70,
  "i32.and": 0x71,
  "i32.or": 0x72,
  "i32.xor": 0x73,
  "i32.shl": 0x74,
  "i32.shr_s": 0x75,
  "i32.shr_u": 0x76,
  "i32.rotl": 0x77,
  "f32.abs": 0x8b,
  "f32.neg": 0x8c,
  "f32.sqrt": 0x91,
  "f32.add": 0x92,
  "f32.sub": 0x93,
  "f32.mul": 0x94,
  "f32.div": 0x95,
  "f32.min": 0x96,
  "f32.max": 0x97,
  "f64.abs": 0x99,
  "f64.neg": 0x9a,
  "f64.sqrt": 0x9f,
  "f64.add": 0xa0,
  "f64.sub": 0xa1,
  "f64.mul": 0xa2,
  "f64.div": 0xa3,
  "f64.min": 0xa4,
  "f64.max": 0xa5,
  "f32.convert_i32_s": 0xb2,
  "f32.convert_i32_u": 0xb3,
  "f32.demote_f64": 0xb6,
  "f64.convert_i32_s": 0xb7,
  "f64.convert_i32_u": 0xb8,
  "f64.promote_f32": 0xbb,
  "i32.reinterpret_f32": 0xbc,
  "f32.reinterpret_i32": 0xbe,
  drop: 0x1a,
  select: 0x1b,
  return: 0x0f,
  unreachable: 0x00,
} as const;

const memory = {
  "i32.load": 0x28,
  "i64.load": 0x29,
  "f32.load": 0x2a,
  "f64.load": 0x2b,
  "i32.load8_u": 0x2d,
  "i32.load16_s": 0x2e,
  "i32.load16_u": 0x2f,
  "i32.store": 0x36,
  "i64.store": 0x37,
  "f32.store": 0x38,
  "f64.store": 0x39,
  "i32.store8": 0x3a,
  "i32.store16": 0x3b,
} as const;

/** SIMD instructions (prefix 0xfd) without immediates. */
const vector = {
  "i8x16.swizzle": 0x0e,
  "i8x16.splat": 0x0f,
  "i32x4.splat": 0x11,
  "f32x4.splat": 0x13,
  "f64x2.splat": 0x14,
  "i32x4.eq": 0x37,
  "i32x4.ne": 0x38,
  "i32x4.lt_s": 0x39,
  "i32x4.lt_u": 0x3a,
  "i32x4.gt_s": 0x3b,
  "i32x4.gt_u": 0x3c,
  "i32x4.le_s": 0x3d,
  "i32x4.le_u": 0x3e,
  "i32x4.ge_s": 0x3f,
  "i32x4.ge_u": 0x40,
  "f32x4.eq": 0x41,
  "f32x4.ne": 0x42,
  "f32x4.lt": 0x43,
  "f32x4.gt": 0x44,
  "f32x4.le": 0x45,
  "f32x4.ge": 0x46,
  "f64x2.eq": 0x47,
  "f64x2.ne": 0x48,
  "f64x2.lt": 0x49,
  "f64x2.gt": 0x4a,
  "f64x2.le": 0x4b,
  "f64x2.ge": 0x4c,
  "v128.not": 0x4d,
  "v128.and": 0x4e,
  "v128.andnot": 0x4f,
  "v128.or": 0x50,
  "v128.xor": 0x51,
  "v128.bitselect": 0x52,
  "v128.any_true": 0x53,
  "f32x4.demote_f64x2_zero": 0x5e,
  "f64x2.promote_low_f32x4": 0x5f,
  "i8x16.narrow_i16x8_s": 0x65,
  "i8x16.narrow_i16x8_u": 0x66,
  "i8x16.neg": 0x61,
  "f32x4.ceil": 0x67,
  "f32x4.floor": 0x68,
  "f32x4.trunc": 0x69,
  "f32x4.nearest": 0x6a,
  "f64x2.ceil": 0x74,
  "f64x2.floor": 0x75,
  "f64x2.trunc": 0x7a,
  "f64x2.nearest": 0x94,
  "i16x8.narrow_i32x4_s": 0x85,
  "i16x8.narrow_i32x4_u": 0x86,
  "i16x8.extend_low_i8x16_u": 0x89,
  "i32x4.abs": 0xa0,
  "i32x4.neg": 0xa1,
  "i32x4.all_true": 0xa3,
  "i32x4.bitmask": 0xa4,
  "i32x4.extend_low_i16x8_s": 0xa7,
  "i32x4.extend_low_i16x8_u": 0xa9,
  "i32x4.shl": 0xab,
  "i32x4.shr_s": 0xac,
  "i32x4.shr_u": 0xad,
  "i32x4.add": 0xae,
  "i32x4.sub": 0xb1,
  "i32x4.mul": 0xb5,
  "i32x4.min_s": 0xb6,
  "i32x4.min_u": 0xb7,
  "i32x4.max_s": 0xb8,
  "i32x4.max_u": 0xb9,
  "i64x2.extend_low_i32x4_s": 0xc7,
  "i64x2.extend_high_i32x4_s": 0xc8,
  "f32x4.abs": 0xe0,
  "f32x4.neg": 0xe1,
  "f32x4.sqrt": 0xe3,
  "f32x4.add": 0xe4,
  "f32x4.sub": 0xe5,
  "f32x4.mul": 0xe6,
  "f32x4.div": 0xe7,
  "f32x4.min": 0xe8,
  "f32x4.max": 0xe9,
  "f32x4.pmin": 0xea,
  "f32x4.pmax": 0xeb,
  "f64x2.abs": 0xec,
  "f64x2.neg": 0xed,
  "f64x2.sqrt": 0xef,
  "f64x2.add": 0xf0,
  "f64x2.sub": 0xf1,
  "f64x2.mul": 0xf2,
  "f64x2.div": 0xf3,
  "f64x2.min": 0xf4,
  "f64x2.max": 0xf5,
  "f64x2.pmin": 0xf6,
  "f64x2.pmax": 0xf7,
  "i32x4.trunc_sat_f32x4_s": 0xf8,
  "i32x4.trunc_sat_f32x4_u": 0xf9,
  "f32x4.convert_i32x4_s": 0xfa,
  "f32x4.convert_i32x4_u": 0xfb,
  "i32x4.trunc_sat_f64x2_s_zero": 0xfc,
  "i32x4.trunc_sat_f64x2_u_zero": 0xfd,
  "f64x2.convert_low_i32x4_s": 0xfe,
  "f64x2.convert_low_i32x4_u": 0xff,
  "f32x4.relaxed_madd": 0x105,
  "f32x4.relaxed_nmadd": 0x106,
  "f64x2.relaxed_madd": 0x107,
  "f64x2.relaxed_nmadd": 0x108,
} as const;

/** SIMD loads and stores. */
const vectorMemory = {
  "v128.load": 0x00,
  "v128.load8_splat": 0x07,
  "v128.load32_splat": 0x09,
  "v128.load64_splat": 0x0a,
  "v128.store": 0x0b,
  "v128.load32_zero": 0x5c,
  "v128.load64_zero": 0x5d,
} as const;

/** SIMD loads and stores of one lane. */
const laneMemory = {
  "v128.load8_lane": 0x54,
  "v128.load32_lane": 0x56,
  "v128.load64_lane": 0x57,
  "v128.store8_lane": 0x58,
  "v128.store16_lane": 0x59,
  "v128.store32_lane": 0x5a,
  "v128.store64_lane": 0x5b,
} as const;

/** SIMD instructions with a lane. */
const lane = {
  "i32x4.extract_lane": 0x1b,
  "i32x4.replace_lane": 0x1c,
  "f32x4.extract_lane": 0x1f,
  "f32x4.replace_lane": 0x20,
  "f64x2.extract_lane": 0x21,
  "f64x2.replace_lane": 0x22,
} as const;

export type PlainOp = keyof typeof plain;
export type MemoryOp = keyof typeof memory;
export type VectorOp = keyof typeof vector;
export type VectorMemoryOp = keyof typeof vectorMemory;
export type LaneMemoryOp = keyof typeof laneMemory;
export type LaneOp = keyof typeof lane;

const utf8 = new TextEncoder();

/** Bytes that are written one after the other. */
class Bytes {
  #data: Uint8Array<ArrayBuffer> = new Uint8Array(64);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  #reserve(count: number): void {
    if (this.#length + count <= this.#data.length) return;
    const larger = new Uint8Array(2 * (this.#length + count));
    larger.set(this.#data);
    this.#data = larger;
  }

  byte(value: number): void {
    if (this.#length === this.#data.length) this.#reserve(1);
    this.#data[this.#length++] = value;
  }

  append(bytes: ArrayLike<number>): void {
    this.#reserve(bytes.length);
    this.#data.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  /** LEB128 of a number that is not negative. */
  unsigned(n: number): void {
    let rest = n;
    for (; rest >= 128; rest = Math.floor(rest / 128)) this.byte((rest % 128) | 0x80);
    this.byte(rest);
  }

  /** LEB128 of an int32. */
  signed(n: number): void {
    let rest = n | 0;
    for (; rest < -64 || rest > 63; rest >>= 7) this.byte((rest & 0x7f) | 0x80);
    this.byte(rest & 0x7f);
  }

  /** Bytes with their number before them. */
  counted(bytes: ArrayLike<number>): void {
    this.unsigned(bytes.length);
    this.append(bytes);
  }

  text(s: string): void {
    this.counted(utf8.encode(s));
  }

  /** All so far; a view of what is written on. */
  view(): Uint8Array<ArrayBuffer> {
    return this.#data.subarray(0, this.#length);
  }
}

/** A parameter or local variable of a function. */
export type Local = number;

/** The body of one function, written instruction by instruction. */
export class FunctionBuilder {
  readonly params: readonly ValueType[];
  readonly results: readonly ValueType[];
  readonly #locals: ValueType[] = [];
  readonly #code = new Bytes();
  #depth = 0;

  constructor(params: readonly ValueType[], results: readonly ValueType[] = []) {
    this.params = params;
    this.results = results;
  }

  local(type: ValueType): Local {
    this.#locals.push(type);
    return this.params.length + this.#locals.length - 1;
  }

  get(v: Local): this {
    return this.#emit(0x20).#unsigned(v);
  }
  set(v: Local): this {
    return this.#emit(0x21).#unsigned(v);
  }
  tee(v: Local): this {
    return this.#emit(0x22).#unsigned(v);
  }
  i32(n: number): this {
    this.#emit(0x41);
    this.#code.signed(n);
    return this;
  }
  f32(x: number): this {
    return this.#emit(0x43).#append(new Uint8Array(Float32Array.of(x).buffer));
  }
  f64(x: number): this {
    return this.#emit(0x44).#append(new Uint8Array(Float64Array.of(x).buffer));
  }
  v128(bytes: Uint8Array): this {
    invariant(bytes.length === 16, "a v128 constant has 16 bytes");
    return this.#emit(0xfd).#emit(0x0c).#append(bytes);
  }
  op(name: PlainOp): this {
    return this.#emit(plain[name]);
  }
  /** Memory instruction at the address on the stack plus `offset`; alignment is a hint and left at 1. */
  memory(name: MemoryOp, offset = 0): this {
    return this.#emit(memory[name]).#emit(0).#unsigned(offset);
  }
  simd(name: VectorOp): this {
    return this.#emit(0xfd).#unsigned(vector[name]);
  }
  simdMemory(name: VectorMemoryOp, offset = 0): this {
    return this.#emit(0xfd).#unsigned(vectorMemory[name]).#emit(0).#unsigned(offset);
  }
  simdLaneMemory(name: LaneMemoryOp, which: number, offset = 0): this {
    return this.#emit(0xfd).#unsigned(laneMemory[name]).#emit(0).#unsigned(offset).#emit(which);
  }
  lane(name: LaneOp, which: number): this {
    return this.#emit(0xfd).#unsigned(lane[name]).#emit(which);
  }
  shuffle(bytes: readonly number[]): this {
    invariant(bytes.length === 16, "a shuffle names 16 bytes");
    return this.#emit(0xfd).#emit(0x0d).#append(bytes);
  }
  call(index: number): this {
    return this.#emit(0x10).#unsigned(index);
  }
  memoryCopy(): this {
    return this.#append([0xfc, 10, 0, 0]);
  }
  memoryFill(): this {
    return this.#append([0xfc, 11, 0]);
  }

  /** `while`-free loop: `body` runs and ends with `again(loop)` to repeat. Branch depth is counted here. */
  block(body: (exit: number) => void): this {
    return this.#nest(0x02, body);
  }
  loop(body: (again: number) => void): this {
    return this.#nest(0x03, body);
  }
  /** Runs `then` when the i32 on the stack is not 0. */
  when(then: () => void, otherwise?: () => void): this {
    this.#emit(0x04).#emit(0x40);
    this.#depth++;
    then();
    if (otherwise) {
      this.#emit(0x05);
      otherwise();
    }
    this.#depth--;
    return this.#emit(0x0b);
  }
  /** Branches to a label that `block` or `loop` gave. */
  br(label: number): this {
    return this.#emit(0x0c).#unsigned(this.#depth - label);
  }
  brIf(label: number): this {
    return this.#emit(0x0d).#unsigned(this.#depth - label);
  }

  /** `for (v = from; v < to; v += step)` over signed integers; `from` and `to` push one i32 each. */
  for(v: Local, from: () => void, to: () => void, step: number, body: () => void): this {
    from();
    this.set(v);
    return this.block((exit) => {
      this.loop((again) => {
        this.get(v);
        to();
        this.op("i32.ge_s").brIf(exit);
        body();
        this.get(v).i32(step).op("i32.add").set(v).br(again);
      });
    });
  }

  #nest(opcode: number, body: (label: number) => void): this {
    this.#emit(opcode).#emit(0x40);
    this.#depth++;
    body(this.#depth);
    this.#depth--;
    return this.#emit(0x0b);
  }

  #emit(byte: number): this {
    this.#code.byte(byte);
    return this;
  }

  #unsigned(n: number): this {
    this.#code.unsigned(n);
    return this;
  }

  #append(bytes: ArrayLike<number>): this {
    this.#code.append(bytes);
    return this;
  }

  /** The function as its module has it: locals, then code. */
  bytes(): Uint8Array<ArrayBuffer> {
    const body = new Bytes();
    body.unsigned(this.#locals.length);
    for (const type of this.#locals) {
      body.byte(1);
      body.byte(typeCode[type]);
    }
    body.append(this.#code.view());
    body.byte(0x0b);
    return body.view();
  }
}

/** A module that imports the memory and host functions, and exports every function by its name. */
export class ModuleBuilder {
  readonly #types: string[] = [];
  readonly #typeSection = new Bytes();
  readonly #imports: { readonly name: string; readonly type: number }[] = [];
  readonly #functions: { readonly name: string; readonly type: number; readonly body: FunctionBuilder }[] =
    [];
  readonly #shared: boolean;

  constructor(options: { readonly shared: boolean }) {
    this.#shared = options.shared;
  }

  #type(params: readonly ValueType[], results: readonly ValueType[]): number {
    const key = `${params}->${results}`;
    const known = this.#types.indexOf(key);
    if (known >= 0) return known;
    this.#typeSection.byte(0x60);
    for (const types of [params, results]) this.#typeSection.counted(types.map((type) => typeCode[type]));
    return this.#types.push(key) - 1;
  }

  /** Imports `env.name`; all imports come before the first `add`. Returns the function's index. */
  importFunction(name: string, params: readonly ValueType[], results: readonly ValueType[]): number {
    invariant(this.#functions.length === 0, "imports come before functions");
    return this.#imports.push({ name, type: this.#type(params, results) }) - 1;
  }

  /** Adds a function, exported under its name; returns its index, which `call` takes. */
  add(name: string, body: FunctionBuilder): number {
    this.#functions.push({ name, type: this.#type(body.params, body.results), body });
    return this.#imports.length + this.#functions.length - 1;
  }

  bytes(): Uint8Array<ArrayBuffer> {
    const module = new Bytes();
    const section = (id: number, count: number, write: (content: Bytes) => void): void => {
      const content = new Bytes();
      content.unsigned(count);
      write(content);
      module.byte(id);
      module.counted(content.view());
    };
    const functions = this.#functions;
    module.append([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]);
    section(1, this.#types.length, (content) => content.append(this.#typeSection.view()));
    section(2, 1 + this.#imports.length, (content) => {
      content.text("env");
      content.text("memory");
      content.append([2, this.#shared ? 3 : 1]);
      content.unsigned(1);
      content.unsigned(65536);
      for (const { name, type } of this.#imports) {
        content.text("env");
        content.text(name);
        content.byte(0);
        content.unsigned(type);
      }
    });
    section(3, functions.length, (content) => {
      for (const { type } of functions) content.unsigned(type);
    });
    section(7, functions.length, (content) => {
      functions.forEach(({ name }, i) => {
        content.text(name);
        content.byte(0);
        content.unsigned(this.#imports.length + i);
      });
    });
    section(10, functions.length, (content) => {
      for (const { body } of functions) content.counted(body.bytes());
    });
    return module.view();
  }
}
