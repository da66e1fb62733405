/**
 * Context dispatch: one module variable holds the current trace, and every operation goes to it.
 *
 * A transform opens its trace over the one that was current, runs the user's function, and handles each primitive by
 * running the primitive's rule under that parent. Tracing is synchronous.
 */
import { Aval } from "./aval.ts";
import { type Backend, reference } from "./backend.ts";
import { type DType, makeArray, type TypedArray } from "./dtype.ts";
import { DeviceError, TraceError } from "./errors.ts";
import type { AnyPrimitive, Primitive } from "./primitive.ts";
import { sizeOf } from "./shape.ts";
import { type Remote, remoteOf, Tensor, Tracer, type Value } from "./value.ts";

/** Interprets primitives. `process` is called with this trace no longer current: it chooses where rules run. */
export interface Trace {
  readonly name: string;
  /** Operations are recorded to run later: what they are given as constants goes where the program will run. */
  readonly defers?: boolean;
  process(primitive: AnyPrimitive, args: readonly Value[], params: unknown): Value[];
}

let backend: Backend = reference;
/** Backends of devices with memory of their own, by the name that their tensors give as `device`. */
const devices = new Map<string, Backend>();

/** What evaluates primitives and compiles programs where no operand is on a device. */
export function currentBackend(): Backend {
  return backend;
}

/** Makes a backend the current one; returns the one before. */
export function setBackend(next: Backend): Backend {
  const previous = backend;
  backend = next;
  return previous;
}

/** Adds the backend of a device, or replaces it, also where new tensors are made. */
export function addDevice(name: string, device: Backend): void {
  if (home !== null && home === devices.get(name)) home = device;
  devices.set(name, device);
}

/** Takes the backend of a device away. */
export function removeDevice(name: string): void {
  if (home === devices.get(name)) home = null;
  devices.delete(name);
}

/** Every backend that computes now: the current one first, then those of open devices. */
export function openBackends(): readonly Backend[] {
  return [...new Set([backend, ...devices.values()])];
}

/** The device that new tensors are made on; null = the host. */
let home: Backend | null = null;

/** Where new tensors are made from now on; null = the host. */
export function setHome(device: Backend | null): void {
  home = device;
}

/** The backend of an open device; null = the host. */
export function openDevice(name: string): Backend | null {
  if (name === "cpu") return null;
  const found = devices.get(name);
  if (found !== undefined) return found;
  const open = ["cpu", ...devices.keys()].join(", ");
  throw new DeviceError(
    "absent",
    name,
    `Cannot use device "${name}": it is not open, one of ${open} is needed; await init("webgpu") opens a GPU`,
  );
}

/** A new tensor on a device, by default the one where new tensors are made; float64 stays on the host by default. */
export function placed(x: Tensor, device?: string): Tensor {
  const target = device === undefined ? home : openDevice(device);
  // What a function being recorded makes is a constant: it goes where the program runs.
  if (!target?.transfers || isDeferred()) return x;
  return device === undefined && x.dtype === "float64" ? x : target.transfers.put(x);
}

/** A tensor on the device of another value: what is computed of both is computed there. */
export function beside(x: Value, y: Tensor): Tensor {
  const remote = devices.size > 0 && !isDeferred() ? remoteBehind(x) : null;
  return remote === null ? y : devices.get(remote.device)!.transfers!.put(y);
}

/** Where a value is, or what a tracer stands for while its operations run at once. */
function remoteBehind(x: Value): Remote | null {
  let behind: Value | null = x;
  while (behind instanceof Tracer) behind = behind.behind;
  return behind instanceof Tensor ? remoteOf(behind) : null;
}

function isDeferred(): boolean {
  return running.some(({ defers }) => defers === true);
}

/** What computes with these values: the backend of the device that holds one of them, else the current one. */
export function backendFor(args: readonly Value[]): Backend {
  if (devices.size === 0) return backend;
  for (const x of args) {
    const remote = x instanceof Tensor ? remoteOf(x) : null;
    if (remote === null) continue;
    const found = devices.get(remote.device);
    if (found === undefined)
      throw new DeviceError(
        "lost",
        remote.device,
        `Cannot use ${x}: the device is closed, an open one is needed`,
      );
    return found;
  }
  return backend;
}

/** Evaluates at once, on the current backend. */
const evalTrace: Trace = {
  name: "eval",
  process(primitive, args, params) {
    for (const x of args) if (!(x instanceof Tensor)) throw escaped(primitive.name, x);
    return backendFor(args).evaluate(primitive, args as readonly Tensor[], params);
  },
};

/** Whether operations are evaluated at once: no transform is running. */
export function isEager(): boolean {
  return current === evalTrace;
}

let current: Trace = evalTrace;
/** Every trace whose function runs now, outermost first: only their tracers stand for something. */
const running: Trace[] = [];

/** The trace that operations go to now. */
export function currentTrace(): Trace {
  return current;
}

/** Throws TraceError for a tracer whose transform has ended: it stands for nothing any more. */
export function checkAlive(x: Value, use: string): void {
  if (x instanceof Tracer && !running.some((trace) => trace === x.trace)) throw escaped(use, x);
}

function escaped(use: string, x: Value): TraceError {
  return new TraceError(
    `Cannot ${use} ${x}: the transform that made it has ended, a value returned from the transformed function is needed`,
  );
}

/** Runs `f` with `trace` current and returns its value; the previous trace is restored even when `f` throws. */
export function withTrace<T>(trace: Trace, f: () => T): T {
  const previous = current;
  current = trace;
  running.push(trace);
  try {
    return f();
  } finally {
    running.pop();
    current = previous;
  }
}

/**
 * Applies a primitive under the current trace.
 *
 * Shapes: as the primitive's `shape` says.
 * Units: none.
 *
 * @throws {ShapeError} if the arguments do not fit
 * @example A primitive by name
 * ```ts
 * const sine = ct.primitives().find(({ name }) => name === "sin")!;
 * assertClose(ct.bind(sine, [ct.tensor(1)], null)[0]!, Math.sin(1));
 * ```
 * @since 0.1.0
 */
export function bind<P>(primitive: Primitive<P>, args: readonly Value[], params: P): Value[] {
  return current.process(primitive, args, params);
}

/** Applies a primitive that has one output. */
export function bind1<P>(primitive: Primitive<P>, args: readonly Value[], params: P): Value {
  return current.process(primitive, args, params)[0]!;
}

/** Applies a primitive without parameters that has one output. */
export function apply(primitive: Primitive<null>, ...args: readonly Value[]): Value {
  return current.process(primitive, args, null)[0]!;
}

/** A scalar constant. */
export function scalar(value: number, dtype: DType): Tensor {
  const data = makeArray(dtype, 1);
  data[0] = dtype === "bool" ? Number(value !== 0) : value;
  return new Tensor(new Aval([], dtype), data);
}

/** Makes a tensor around an array that the caller gives up; the array must not be written to afterwards. */
export function adopt(data: TypedArray, shape: readonly number[], dtype: DType): Tensor {
  if (sizeOf(shape) !== data.length) {
    throw new RangeError(
      `Cannot make a tensor of shape [${shape}]: the data has ${data.length} elements, ${sizeOf(shape)} are needed`,
    );
  }
  return new Tensor(new Aval(shape, dtype), data);
}

/** Throws when a traced function returned a Promise. */
export function checkSynchronous(result: unknown, transform: string): void {
  if (result instanceof Promise) {
    result.catch(() => undefined);
    throw new TraceError(
      `Cannot ${transform} a function that returns a Promise: tracing is synchronous, a function that returns values is needed; await before the call`,
    );
  }
}
