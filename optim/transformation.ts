/**
 * The contract of every optimizer: a pair of pure functions. `init` makes the state for some parameters, `update` turns
 * gradients into updates that are *added* to the parameters. `extra` says by its type what else a method needs, and
 * `chain` intersects the needs of its parts.
 *
 * States are trees of tensors, so that they can be saved, compared and carried through transforms.
 */
import { checkLike } from "../autodiff/leaves.ts";
import type { DType } from "../core/dtype.ts";
import { add, cast, div, expm1, mul } from "../core/ops.ts";
import { scalar } from "../core/trace.ts";
import { map } from "../core/tree.ts";
import type { Value } from "../core/value.ts";
import { rate, type Schedule } from "./schedule.ts";

/**
 * Nothing beyond gradients, state and parameters.
 *
 * @since 0.1.0
 */
export type NoExtra = Readonly<Record<never, never>>;

/**
 * An optimizer, or a part of one.
 *
 * @since 0.1.0
 */
export interface GradientTransformation<S, X extends object = NoExtra> {
  readonly name: string;
  /** Set where updates shrink the weights behind the loss: curvature methods must refuse such a base. */
  readonly decays?: true;
  /** The state before the first step; a tree of tensors. */
  init<P>(params: P): S;
  /** Updates to add to the parameters, and the next state. A property, so that the compiler checks `extra` strictly. */
  readonly update: <P>(updates: P, state: S, params: P, extra: X) => readonly [updates: P, state: S];
}

/** What every transformation is, whatever its state and needs. */
export interface AnyTransformation {
  readonly name: string;
  readonly decays?: true;
  init<P>(params: P): unknown;
  readonly update: <P>(
    updates: P,
    state: never,
    params: P,
    extra: never,
  ) => readonly [updates: P, state: unknown];
}

/**
 * The state type of a transformation.
 *
 * @since 0.1.0
 */
export type StateOf<T> = T extends { init(params: never): infer S } ? S : never;
/** What the update of a transformation needs besides gradients, state and parameters. */
export type ExtraOf<T> = T extends { update(u: never, s: never, p: never, extra: infer X): unknown }
  ? X
  : never;
type States<T extends readonly unknown[]> = { -readonly [I in keyof T]: StateOf<T[I]> };
/** All of a union at once. */
export type Intersection<U> = (U extends unknown ? (x: U) => void : never) extends (x: infer I) => void
  ? I
  : never;

/** The mark of weight decay, if a part has it: what is made of parts spreads it into itself. */
export function decayOf(parts: readonly AnyTransformation[]): { readonly decays?: true } {
  return parts.some((part) => part.decays) ? { decays: true } : {};
}

/**
 * Applies transformations one after the other.
 *
 * Shapes: the state is the list of the parts' states.
 * Units: none.
 *
 * @param parts each part's updates are the next part's gradients
 * @returns a transformation whose `extra` must satisfy every part
 * @example Clip, then Adam
 * ```ts
 * const optimizer = ct.optim.chain(ct.optim.clipByGlobalNorm(1), ct.optim.adam(1e-3));
 * const params = { w: ct.tensor([1, 2]) };
 * const [updates] = optimizer.update({ w: ct.tensor([30, 40]) }, optimizer.init(params), params, {});
 * assertClose(updates.w, [-1e-3, -1e-3], 1e-6);
 * ```
 * @since 0.1.0
 */
export function chain<const T extends readonly AnyTransformation[]>(
  ...parts: T
): GradientTransformation<States<T>, Intersection<ExtraOf<T[number]>> & object> {
  return {
    name: parts.map((part) => part.name).join(" > "),
    ...decayOf(parts),
    init: (params) => parts.map((part) => part.init(params)) as States<T>,
    update(updates, state, params, extra) {
      let current = updates;
      const next = parts.map((part, i) => {
        const [partUpdates, partState] = part.update(
          current,
          (state as readonly never[])[i]!,
          params,
          extra as never,
        );
        current = partUpdates;
        return partState;
      });
      return [current, next as States<T>];
    },
  };
}

/**
 * Parameters plus updates.
 *
 * Shapes: two trees of one structure with equal leaves.
 * Units: none.
 *
 * @throws {TreeError} if the structures differ
 * @throws {ShapeError} if a leaf of the updates differs from the parameters' leaf at the same path
 * @example One step
 * ```ts
 * assertClose(ct.optim.applyUpdates({ w: ct.tensor(1) }, { w: ct.tensor(-0.5) }).w, 0.5);
 * ```
 * @since 0.1.0
 */
export function applyUpdates<P>(params: P, updates: P): P {
  checkLike("apply updates", "the update", params, updates);
  return map((p, u) => add(p, u!), params, updates);
}

/**
 * The state of a part that only counts its steps.
 *
 * @since 0.1.0
 */
export interface CountState {
  /** Steps taken; i32[]. */
  readonly count: Value;
}

/** A method whose state only it reads, for those that keep methods of several kinds in one place. */
export function forgetState<S, X extends object = NoExtra>(
  method: GradientTransformation<S, X>,
): GradientTransformation<unknown, X> {
  return {
    ...method,
    update: (updates, state, params, extra) => method.update(updates, state as S, params, extra),
  };
}

/** Zero steps. */
export function zeroCount(): Value {
  return scalar(0, "int32");
}

/** 1 / (1 - beta^count), through e^(count ln beta) - 1: nothing cancels where beta is near 1. */
export function biasCorrection(beta: number, count: Value, dtype: DType): Value {
  return div(-1, expm1(mul(cast(count, dtype), Math.log(beta))));
}

/** A factor in the element type of a leaf. */
export function factor(x: number | Value, like: Value): number | Value {
  return typeof x === "number" ? x : cast(x, like.dtype);
}

/**
 * Multiplies by minus the learning rate: the last part of most chains.
 *
 * Shapes: any tree.
 * Units: the rate is a step length in parameter units per gradient unit.
 *
 * @param learningRate a number, or a schedule of the step count
 * @example Gradient descent
 * ```ts
 * const step = ct.optim.scaleByLearningRate(0.5);
 * const x = ct.tensor(4);
 * assertClose(step.update(x, step.init(x), x, {})[0], -2);
 * ```
 * @since 0.1.0
 */
export function scaleByLearningRate(learningRate: number | Schedule): GradientTransformation<CountState> {
  return {
    name: "scaleByLearningRate",
    init: () => ({ count: zeroCount() }),
    update(updates, { count }) {
      const size = rate(learningRate, count);
      const scaled = map((g) => mul(g, typeof size === "number" ? -size : mul(-1, factor(size, g))), updates);
      return [scaled, { count: add(count, 1) }];
    },
  };
}
