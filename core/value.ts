/** Values: what user functions see. A `Tensor` holds numbers, a `Tracer` stands for one while a transform runs. */
import type { Aval } from "./aval.ts";
import { type DType, dtypeOf, type TypedArray } from "./dtype.ts";
import { invariant, TraceError } from "./errors.ts";
import type { Shape } from "./shape.ts";

/**
 * Anything that operations accept: a value, or a number that takes the other operand's element type.
 *
 * @since 0.1.0
 */
export type Operand = Value | number;

/**
 * Nested lists of numbers or booleans.
 *
 * @since 0.1.0
 */
export type Nested = number | boolean | readonly Nested[];

/**
 * One axis.
 *
 * @since 0.1.0
 */
export interface AxisOption {
  /** Negative axes count from the end; each function names its default. */
  readonly axis?: number;
}

/**
 * One axis or several.
 *
 * @since 0.1.0
 */
export interface AxesOption {
  /** Negative axes count from the end; each function names its default. */
  readonly axis?: number | readonly number[];
}

/**
 * Which axes a reduction removes (default all), and whether they stay with size 1.
 *
 * @since 0.1.0
 */
export interface AxisOptions extends AxesOption {
  readonly keepDims?: boolean;
}

/**
 * Options of argmax and argmin; without an axis the value is flattened, as in NumPy.
 *
 * @since 0.1.0
 */
export interface ArgOptions extends AxisOption {
  readonly keepDims?: boolean;
}

/** The operations that are methods too; each forwards to the free function of the same name. */
export interface Methods {
  abs(): Value;
  add(y: Operand): Value;
  argmax(options?: ArgOptions): Value;
  astype(dtype: DType): Value;
  broadcastTo(shape: Shape): Value;
  clip(low: Operand, high: Operand): Value;
  cos(): Value;
  div(y: Operand): Value;
  dot(y: Value): Value;
  equal(y: Operand): Value;
  exp(): Value;
  expandDims(axis: number | readonly number[]): Value;
  expm1(): Value;
  greater(y: Operand): Value;
  greaterEqual(y: Operand): Value;
  less(y: Operand): Value;
  lessEqual(y: Operand): Value;
  log(): Value;
  log1p(): Value;
  matmul(y: Value): Value;
  max(options?: AxisOptions): Value;
  maximum(y: Operand): Value;
  mean(options?: AxisOptions): Value;
  min(options?: AxisOptions): Value;
  minimum(y: Operand): Value;
  mul(y: Operand): Value;
  neg(): Value;
  norm(options?: AxisOptions): Value;
  notEqual(y: Operand): Value;
  pow(y: Operand): Value;
  prod(options?: AxisOptions): Value;
  relu(): Value;
  reshape(shape: Shape): Value;
  sigmoid(): Value;
  sign(): Value;
  sin(): Value;
  slice(starts: readonly number[], limits: readonly number[], strides?: readonly number[]): Value;
  softmax(options?: AxesOption): Value;
  sqrt(): Value;
  squeeze(axis?: number | readonly number[]): Value;
  sub(y: Operand): Value;
  sum(options?: AxisOptions): Value;
  take(indices: Operand, options?: AxisOption): Value;
  tanh(): Value;
  transpose(perm?: readonly number[]): Value;
}

/**
 * An immutable array value. Using one twice, storing it or dropping it are all legal.
 *
 * @example Methods are the functions of the same names
 * ```ts
 * const x: ct.Value = ct.tensor([1, 4]);
 * assertClose(x.sqrt().sum(), ct.sum(ct.sqrt(x)));
 * ```
 * @since 0.1.0
 */
// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: installMethods supplies every member of Methods
export abstract class Value {
  abstract readonly aval: Aval;

  get shape(): Shape {
    return this.aval.shape;
  }
  get dtype(): DType {
    return this.aval.dtype;
  }
  get ndim(): number {
    return this.aval.shape.length;
  }
  get size(): number {
    return this.aval.size;
  }

  /** The device that holds the elements. */
  abstract readonly device: string;
  /** A copy of the elements in row-major order. */
  abstract data(): Promise<TypedArray>;
  /** A copy of the elements, read at once. */
  abstract dataSync(): TypedArray;

  /**
   * The one element of a value of size 1, as a number.
   *
   * @throws {RangeError} if the value has another size
   */
  item(): number {
    if (this.size !== 1) {
      throw new RangeError(
        `Cannot read one item of ${this.aval}: it has ${this.size} elements, exactly one is needed`,
      );
    }
    return this.dataSync()[0]!;
  }

  /** The elements as nested lists of numbers; a plain number for a scalar. */
  toArray(): Nested {
    const data = this.dataSync();
    const nest = (axis: number, offset: number, size: number): Nested => {
      if (axis === this.ndim) return data[offset]!;
      const n = this.shape[axis]!;
      const step = n === 0 ? 0 : size / n;
      return Array.from({ length: n }, (_, i) => nest(axis + 1, offset + i * step, step));
    };
    return nest(0, 0, this.size);
  }
}

export interface Value extends Methods {}

/** Gives every value the methods of the table; called once, by ops.ts. */
export function installMethods(methods: Methods & ThisType<Value>): void {
  Object.assign(Value.prototype, methods);
}

/** Elements that a device holds: the host has them when it asks. */
export interface Remote {
  readonly device: string;
  readonly dtype: DType;
  readonly length: number;
  /** A copy of the elements, when the device has computed them. */
  read(): Promise<TypedArray>;
  /**
   * The same at once.
   *
   * @throws {DeviceError} where the host cannot wait for the device
   */
  readSync(): TypedArray;
}

/** Where the elements of a tensor are: in an array of the host, or on a device. */
export type Elements = TypedArray | Remote;

let readElements: (tensor: Tensor) => Elements;
let replaceElements: (tensor: Tensor, elements: Elements) => void;
let giveUp: (tensor: Tensor, site: string) => void;

function isRemote(elements: Elements): elements is Remote {
  return !ArrayBuffer.isView(elements);
}

/**
 * A value with elements. Frozen; its storage cannot be reached from outside the library.
 *
 * @example Reading gives a copy
 * ```ts
 * const x = ct.tensor([1, 2]);
 * x.dataSync()[0] = 9;
 * assertClose(x, [1, 2]);
 * ```
 * @since 0.1.0
 */
export class Tensor extends Value {
  readonly aval: Aval;
  /** The elements; or, once they are given up, where that was. */
  #data: Elements | string;

  static {
    readElements = (tensor) =>
      typeof tensor.#data === "string" ? tensor.#missing(tensor.#data) : tensor.#data;
    replaceElements = (tensor, elements) => {
      tensor.#data = elements;
    };
    giveUp = (tensor, site) => {
      tensor.#data = site;
    };
  }

  constructor(aval: Aval, data: Elements) {
    super();
    invariant(data.length === aval.size, "a tensor is stored in as many elements as it has");
    const dtype = isRemote(data) ? data.dtype : dtypeOf(data);
    invariant(dtype === aval.dtype, "a tensor is stored in the array of its element type");
    this.aval = aval;
    this.#data = data;
    Object.freeze(this);
  }

  get device(): string {
    const data = readElements(this);
    return isRemote(data) ? data.device : "cpu";
  }

  #missing(site: string): never {
    throw new TraceError(
      `Cannot use ${this.aval}: its storage was given up as ${site}, a value that was not donated is needed`,
    );
  }

  async data(): Promise<TypedArray> {
    const data = readElements(this);
    return isRemote(data) ? data.read() : data.slice();
  }

  dataSync(): TypedArray {
    const data = readElements(this);
    return isRemote(data) ? data.readSync() : data.slice();
  }

  override toString(): string {
    const data = readElements(this);
    if (isRemote(data)) return `${this.aval} on ${data.device}`;
    const shown = this.size <= 64 ? ` ${textOf(this.toArray())}` : "";
    return `${this.aval}${shown}`;
  }
}

function textOf(x: Nested): string {
  return Array.isArray(x) ? `[${x.map(textOf).join(",")}]` : String(x);
}

// What console.log shows, in every runtime.
Object.defineProperty(Value.prototype, Symbol.for("nodejs.util.inspect.custom"), {
  value(this: Value): string {
    return this.toString();
  },
});

/** Where the elements are, not a copy: for backends and eager evaluation only. */
export function elementsOf(tensor: Tensor): Elements {
  return readElements(tensor);
}

/** The elements on the host: the array itself, or a copy of what a device holds. */
export function storage(tensor: Tensor): TypedArray {
  const data = readElements(tensor);
  return isRemote(data) ? data.readSync() : data;
}

/** The elements on the host, not to be written: the array itself, or a copy where there is none. */
export function readable(x: Value): TypedArray {
  return x instanceof Tensor ? storage(x) : x.dataSync();
}

/** The elements, if the host has them. */
export function hostStorage(tensor: Tensor): TypedArray | null {
  const data = readElements(tensor);
  return isRemote(data) ? null : data;
}

/** The elements, if a device has them. */
export function remoteOf(tensor: Tensor): Remote | null {
  const data = readElements(tensor);
  return isRemote(data) ? data : null;
}

/** Moves the elements of a tensor to another array, which holds the same numbers: for backends only. */
export function moveStorage(tensor: Tensor, data: TypedArray): void {
  replaceElements(tensor, data);
}

/** Takes the elements from a tensor: later use is an error that names the site. */
export function donate(tensor: Tensor, site: string): void {
  giveUp(tensor, site);
}

/** Elements that several tensors may hold, as a value and its reshape do: these are never overwritten. */
const shared = new WeakSet<Elements>();

/** Says that elements belong to more than one tensor. */
export function markShared(data: Elements): void {
  shared.add(data);
}

/** Whether elements may belong to more than one tensor. */
export function isShared(data: Elements): boolean {
  return shared.has(data);
}

/** A value that a transform follows. Its elements are not known while the function is traced. */
export abstract class Tracer extends Value {
  abstract readonly trace: { readonly name: string };
  /** The value of the enclosing transform that it stands for; null where there is none yet. */
  get behind(): Value | null {
    return null;
  }

  get device(): string {
    return "traced";
  }

  data(): Promise<TypedArray> {
    return Promise.reject(this.#noElements());
  }

  dataSync(): TypedArray {
    throw this.#noElements();
  }

  #noElements(): TraceError {
    return new TraceError(
      `Cannot read the elements of a traced ${this.aval}: it belongs to ${this.trace.name}, a value outside the transform is needed; return it instead, or use where() for a choice that depends on it`,
    );
  }

  override toString(): string {
    return `${this.trace.name} tracer ${this.aval}`;
  }
}
