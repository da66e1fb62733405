/** Layers without parameters: activations, and axes made one. */
import * as ops from "../ops.ts";
import { sizeOf } from "../shape.ts";
import type { Value } from "../value.ts";
import type { Model, NoParams } from "./model.ts";

/**
 * The activations that have a name.
 *
 * @since 0.1.0
 */
export type ActivationName = "relu" | "gelu" | "silu" | "tanh" | "sigmoid" | "softplus" | "identity";

const activations: Readonly<Record<ActivationName, (x: Value) => Value>> = {
  relu: ops.relu,
  gelu: (x: Value) => ops.gelu(x),
  silu: ops.silu,
  tanh: ops.tanh,
  sigmoid: ops.sigmoid,
  softplus: ops.softplus,
  identity: (x: Value) => x,
};

/**
 * The name of an activation, or any function of a value.
 *
 * @since 0.1.0
 */
export type Activation = ActivationName | ((x: Value) => Value);

export function resolveActivation(given: Activation): (x: Value) => Value {
  if (typeof given === "function") return given;
  if (Object.hasOwn(activations, given)) return activations[given];
  throw new RangeError(
    `Cannot use activation "${given}": it is unknown, one of ${Object.keys(activations).join(", ")} or a function is needed`,
  );
}

/**
 * A layer without parameters: a named activation, or any function of a value.
 *
 * Shapes: as the function has them.
 *
 * @throws {RangeError} if the name is unknown
 * @example By name and by function
 * ```ts
 * assertClose(ct.nn.activation("relu").apply({}, ct.tensor([-1, 1])), [0, 1]);
 * assertClose(ct.nn.activation((x) => x.mul(2)).apply({}, ct.tensor([1])), [2]);
 * ```
 * @since 0.1.0
 */
export function activation(f: Activation): Model<NoParams> {
  const apply = resolveActivation(f);
  return {
    name: typeof f === "string" ? f : f.name || "function",
    init: () => ({}),
    apply: (_params, x) => apply(x),
  };
}

/**
 * A layer that makes one axis of all axes but the first.
 *
 * Shapes: `[n, ...s]` to `[n, product of s]`.
 *
 * @example Images to rows
 * ```ts
 * assertClose(ct.nn.flatten().apply({}, ct.ones([2, 1, 3, 3])).shape, [2, 9]);
 * ```
 * @since 0.1.0
 */
export function flatten(): Model<NoParams> {
  return { ...activation(flattened), name: "flatten" };
}

export function flattened(x: Value): Value {
  return ops.reshape(x, [x.shape[0] ?? 1, sizeOf(x.shape.slice(1))]);
}
