/**
 * Cotangent: a functional tensor framework for Bun and Deno.
 *
 * Tensors are immutable values, transforms are functions of functions, optimizers are pairs of pure functions, and a
 * distributed run is a plan that prints itself.
 *
 * @example A tour
 * ```ts
 * const x = ct.tensor([1, 2, 3]);
 * const f = (x: ct.Value) => x.mul(x).sin().sum();
 * const [value, slope] = ct.valueAndGrad(f)(x);                 // reverse mode
 * const [, along] = ct.jvp(f, [x], [ct.onesLike(x)]);           // forward mode
 * assertClose(slope.sum(), along, 1e-5);
 * const curvature = ct.hvp(f)(x, ct.onesLike(x));               // forward over reverse
 * assertClose(ct.hessian(f)(x).sum({ axis: 1 }), curvature, 1e-4);
 * assertClose(ct.vmap(ct.grad((x: ct.Value) => x.mul(x).sin()))(x), slope, 1e-5);
 * assert(ct.makeProgram(f)(x).toString().includes("sin"));      // print the program
 * assert(value.ndim === 0);
 * ```
 *
 * @module
 */
export { type CheckGradsOptions, checkGrads } from "./autodiff/check.ts";
export { hessian, hvp, type Jacobian, jacfwd, jacrev } from "./autodiff/hvp.ts";
export {
  type Compiled,
  type Jit,
  type JitCounts,
  type JitOptions,
  type JitStats,
  jit,
} from "./autodiff/jit.ts";
export { jvp } from "./autodiff/jvp.ts";
export { linearize } from "./autodiff/linearize.ts";
export * as operator from "./autodiff/operator.ts";
export { evalShape, makeProgram, type Staged } from "./autodiff/program.ts";
export { linearTranspose } from "./autodiff/transpose.ts";
export { grad, valueAndGrad, vjp } from "./autodiff/vjp.ts";
export { type VmapOptions, vmap } from "./autodiff/vmap.ts";
export { Aval } from "./core/aval.ts";
export type { KernelProfile, TuningChoice, TuningTable } from "./core/backend.ts";
export { setThreads } from "./core/backends/cpu/engine.ts";
export { backendInfo, closeDevice, init } from "./core/backends/select.ts";
export type { WebgpuOptions } from "./core/backends/webgpu/open.ts";
export {
  adoptArray as adopt,
  arange,
  aval,
  type CreateOptions,
  eye,
  full,
  linspace,
  ones,
  onesLike,
  type TensorOptions,
  tensor,
  zeros,
  zerosLike,
} from "./core/create.ts";
export { devicePut, setDefaultDevice } from "./core/devices.ts";
export { type DType, dtypes, type TypedArray } from "./core/dtype.ts";
export * from "./core/errors.ts";
export * as io from "./core/io.ts";
export { type DeviceMemory, type MemoryReport, memory } from "./core/memory.ts";
export * as nn from "./core/nn.ts";
export * from "./core/ops.ts";
export {
  type AnyPrimitive,
  type ArgSpec,
  type Draw,
  definePrimitive,
  type HostArray,
  Lin,
  type Primitive,
  primitives,
  type Sample,
} from "./core/primitive.ts";
export { type ElementwiseRecord, elementwise } from "./core/prims/elementwise.ts";
export { linear } from "./core/prims/movement.ts";
export { type Profile, profile } from "./core/profile.ts";
export { type Atom, type Eqn, type Program, Var } from "./core/program.ts";
export * as random from "./core/random.ts";
export type { Shape } from "./core/shape.ts";
export { bind } from "./core/trace.ts";
export * as tree from "./core/tree_functions.ts";
export { type TuneOptions, tune, tuningTable } from "./core/tuning.ts";
export { type AxisOptions, type Nested, type Operand, type Tensor, Value } from "./core/value.ts";
export * as dist from "./dist/mod.ts";
export * as optim from "./optim/mod.ts";
