/** What a model is: a pair of pure functions; its parameters are a tree that the caller keeps. */
import { add } from "../ops.ts";
import { split } from "../random.ts";
import type { Value } from "../value.ts";

type Level<T> = Value | readonly T[] | { readonly [key: string]: T };

/**
 * A tree of parameters of any model: tensors in lists and records, up to six levels deep (a type without a last level
 * could not be checked by `grad`).
 *
 * @since 0.1.0
 */
export type Params = Level<Level<Level<Level<Level<Level<Value>>>>>>;

/**
 * A function with parameters, as a pair of pure functions. Layers are models, and so is a sequence of them.
 *
 * @since 0.1.0
 */
export interface Model<P = Params> {
  readonly name: string;
  /** Fresh parameters drawn from a key. */
  init(key: Value): P;
  /** The outputs for a batch; its first axis is the batch. */
  apply(params: P, x: Value): Value;
}

/**
 * The parameters of a layer that has none.
 *
 * @since 0.1.0
 */
export type NoParams = Readonly<Record<string, never>>;

/**
 * Layers one after the other; each is initialized from its own key.
 *
 * Shapes: what a layer returns is what the next one takes; params are the list of the layers' params.
 *
 * @example Two layers
 * ```ts
 * const model = ct.nn.sequential(ct.nn.dense(2, 3), ct.nn.activation("tanh"), ct.nn.dense(3, 1));
 * const params = model.init(ct.random.key(0));
 * assertClose(model.apply(params, ct.ones([4, 2])).shape, [4, 1]);
 * ```
 * @since 0.1.0
 */
export function sequential<P extends readonly unknown[]>(
  ...layers: { readonly [K in keyof P]: Model<P[K]> }
): Model<P> {
  const list: readonly Model<unknown>[] = layers;
  return {
    name: list.map((layer) => layer.name).join(", "),
    init(key) {
      const keys = split(key, list.length);
      return list.map((layer, i) => layer.init(keys[i]!)) as unknown as P;
    },
    apply: (params, x) => list.reduce((y, layer, i) => layer.apply(params[i], y), x),
  };
}

/**
 * The parameters of a residual block.
 *
 * @since 0.2.0
 */
export type ResidualParams<P, Q> = { readonly body: P; readonly shortcut: Q };

/**
 * A layer added to its own input, `x + body(x)`, or to what a shortcut makes of the input.
 *
 * Shapes: the body gives what the shortcut gives; without a shortcut it keeps the shape of its input.
 *
 * @param shortcut from inputs to something of the shape of the outputs; default the inputs themselves
 * @throws {ShapeError} when applied, if the shapes do not broadcast
 * @example Twice the input
 * ```ts
 * const block = ct.nn.residual(ct.nn.activation("identity"));
 * assertClose(block.apply(block.init(ct.random.key(0)), ct.tensor([1, 2])), [2, 4]);
 * ```
 * @source He et al. 2016, "Deep residual learning for image recognition"
 * @since 0.2.0
 */
export function residual<P, Q = NoParams>(body: Model<P>, shortcut?: Model<Q>): Model<ResidualParams<P, Q>> {
  const around = shortcut ?? (identity as Model<unknown> as Model<Q>);
  return {
    name: `residual (${body.name})`,
    init(key) {
      const [first, second] = split(key);
      return { body: body.init(first!), shortcut: around.init(second!) };
    },
    apply: (params, x) => add(around.apply(params.shortcut, x), body.apply(params.body, x)),
  };
}

const identity: Model<NoParams> = { name: "identity", init: () => ({}), apply: (_params, x) => x };
