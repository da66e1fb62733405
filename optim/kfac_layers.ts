/**
 * What K-FAC sees inside a model: its layers with weights, what goes into them, and how the loss changes with what comes
 * out. Layers tell it themselves while the loss runs; the model does not know.
 */
import { isCompiled } from "../autodiff/jit.ts";
import { valueAndGradientOf } from "../autodiff/vjp.ts";
import type { Aval } from "../core/aval.ts";
import { full, zeros } from "../core/create.ts";
import { TraceError } from "../core/errors.ts";
import { type AffineCall, observer, observing } from "../core/observe.ts";
import {
  add,
  type ConvOptions,
  concat,
  div,
  expandDims,
  matmul,
  mul,
  type PerAxis,
  pad,
  reshape,
  slice,
  stack,
  sum,
  transpose,
} from "../core/ops.ts";
import { resolvePadding } from "../core/prims/pool.ts";
import { stage } from "../core/program.ts";
import { type Shape, sizeOf } from "../core/shape.ts";
import { flatten, paths, unflatten } from "../core/tree.ts";
import type { Value } from "../core/value.ts";

/**
 * A layer that K-FAC preconditions: a dense one or a convolution in one group, whose weights are leaves of the parameters.
 *
 * @since 0.2.0
 */
export interface KfacLayer {
  /** The path of the weights. */
  readonly name: string;
  readonly kind: "dense" | "conv";
  /** Position of the weights among the leaves of the parameters. */
  readonly w: number;
  /** That of the bias; null without one. */
  readonly b: number | null;
}

/**
 * The two factors of a layer's block of the Fisher matrix.
 *
 * @since 0.2.0
 */
export interface KfacFactors {
  /** Mean of `a aᵀ` over examples and places, a what the weights are multiplied by, and 1 for a bias; [in, in]. */
  readonly inputs: Value;
  /** Mean of `g gᵀ` over examples, summed over places, g the gradient of an example's loss by the output; [out, out]. */
  readonly outputs: Value;
}

/**
 * One pass over a batch: value and gradient of the loss, and the factors of every layer by its name.
 *
 * @since 0.2.0
 */
export interface LayerStatistics<P> {
  readonly value: Value;
  readonly gradient: P;
  readonly layers: Readonly<Record<string, KfacFactors>>;
}

/** A call of a layer, in the order of calls. */
interface Use {
  /** Null where the weights are not to be preconditioned. */
  readonly layer: KfacLayer | null;
  readonly output: Aval;
  /** Spatial sizes of the kernel; none of a dense layer. */
  readonly window: Shape;
  readonly options: ConvOptions;
}

/** The calls that a loss makes, by running it once on abstract values: nothing is computed. */
function usesOf<P, A extends readonly unknown[]>(
  loss: (p: P, ...rest: A) => Value,
  params: P,
  rest: A,
): Use[] {
  if (isCompiled(loss))
    throw new TraceError(
      "Cannot see the layers of a function made by jit: its layers were recorded and do not report, the function itself is needed; compile what observes it",
    );
  const [xs, def] = flatten(params);
  const names = paths(params);
  const uses: Use[] = [];
  stage(
    (...tracers) => {
      const record = ({ kind, w, b, options }: AffineCall, output: Value): Value => {
        const at = tracers.indexOf(w);
        // A bias that is no leaf is left alone, and so are weights that were computed of leaves.
        const bias = b === null ? -1 : tracers.indexOf(b);
        const isOwn = at >= 0 && (options.groups ?? 1) === 1;
        const layer = isOwn ? { name: names[at]!, kind, w: at, b: bias === -1 ? null : bias } : null;
        uses.push({ layer, output: output.aval, window: w.shape.slice(2), options });
        return output;
      };
      runObserved(record, () => loss(unflatten<P>(def, tracers), ...rest));
      return [];
    },
    xs.map((x) => x.aval),
    "layerStatistics",
  );
  return uses;
}

/** Runs a function whose layers report here, and to the observer in force as before. */
function runObserved<T>(affine: (call: AffineCall, output: Value) => Value, f: () => T): T {
  const outer = observer();
  return observing(
    { ...outer, affine: (call, output) => affine(call, outer.affine?.(call, output) ?? output) },
    f,
  );
}

/**
 * The layers of a loss that K-FAC can precondition, in the order of their first use. Convolutions in several groups, and
 * layers whose weights were computed of parameters, are not among them.
 *
 * Shapes: any; nothing is computed.
 *
 * @param loss scalar function of parameters and a batch, not made by `jit`
 * @throws {TraceError} if the loss was made by `jit`, or none of its layers reports
 * @example A network's layers by the paths of their weights
 * ```ts
 * const model = ct.nn.mlp([2, 3, 1]);
 * const params = model.init(ct.random.key(0));
 * const loss = (p: typeof params, x: ct.Value) => ct.nn.gaussian.loss(model.apply(p, x), ct.zeros([4, 1]));
 * const layers = ct.optim.kfacLayers(loss, params, ct.ones([4, 2]));
 * assert(layers.length === 2 && layers.every(({ kind }) => kind === "dense"));
 * ```
 * @since 0.2.0
 */
export function kfacLayers<P, A extends readonly unknown[]>(
  loss: (p: P, ...rest: A) => Value,
  params: P,
  ...rest: A
): readonly KfacLayer[] {
  const layers = new Map<string, KfacLayer>();
  for (const { layer } of usesOf(loss, params, rest))
    if (layer !== null && !layers.has(layer.name)) layers.set(layer.name, layer);
  if (layers.size === 0)
    throw new TraceError(
      "Cannot find layers: the loss reports none with weights among the parameters, nn.dense or nn.conv is needed",
    );
  return [...layers.values()];
}

/**
 * Value, gradient and the factors of every layer in one sweep: the outputs of the layers are perturbed by zeros, by which
 * the loss is differentiated along with the parameters.
 *
 * The loss is a mean over examples, and so are the factors: with `d` the gradient of the mean by the output of one place
 * of one example, `outputs = n Σ d dᵀ` and `inputs` is the mean of `a aᵀ` over all of these. Their Kronecker product is the
 * layer's block of the Fisher matrix if what goes in and what comes back are independent, and the places of an example
 * are of each other; in an image the places are those of the window, and a is what it holds. A layer used several times
 * has its uses added up as if they were places. For the Fisher matrix the targets are to be drawn from the model
 * (`sampledLoss`); with the targets of the data it is the empirical one.
 *
 * It can be recorded: compile the function it returns, not the loss.
 * Shapes: for each layer `inputs` `[in (+ 1), in (+ 1)]` and `outputs` `[out, out]`; of a kernel in is channels times window.
 *
 * @param loss mean over examples, a scalar function of parameters and a batch
 * @param options `examples`: how many terms the mean has; default the first size of a layer's input. A loss of text, a
 * mean over all positions of all examples, has more
 * @throws {TraceError} if the loss was made by `jit`
 * @example One weight, inputs 1 and 3, gradients 2 and -2
 * ```ts
 * const layer = ct.nn.dense(1, 1, { bias: false });
 * const loss = (p: ct.nn.AffineParams, x: ct.Value, y: ct.Value) => ct.nn.gaussian.loss(layer.apply(p, x), y);
 * const statistics = ct.optim.layerStatistics(loss)({ w: ct.tensor([[1]]) }, ct.tensor([[1], [3]]), ct.tensor([[-1], [5]]));
 * assertClose(statistics.layers["w"]!.inputs, [[5]]);
 * assertClose(statistics.layers["w"]!.outputs, [[4]]);
 * assertClose(statistics.gradient.w, [[-2]]);
 * ```
 * @source Martens & Grosse 2015, "Optimizing neural networks with Kronecker-factored approximate curvature"
 * @source Grosse & Martens 2016, "A Kronecker-factored approximate Fisher matrix for convolution layers"
 * @since 0.2.0
 */
export function layerStatistics<P, A extends readonly unknown[]>(
  loss: (p: P, ...rest: A) => Value,
  options: { readonly examples?: number } = {},
): (params: P, ...rest: A) => LayerStatistics<P> {
  return (params, ...rest) => {
    const uses = usesOf(loss, params, rest);
    const own = uses.filter(({ layer }) => layer !== null);
    const sweep = valueAndGradientOf<Perturbed<P>, readonly Value[]>((at) => {
      const inputs: Value[] = [];
      let next = 0;
      const perturbed = (call: AffineCall, output: Value): Value => {
        if (uses[next++]!.layer === null) return output;
        inputs.push(call.input);
        return add(output, at.perturbations[inputs.length - 1]!);
      };
      return [runObserved(perturbed, () => loss(at.params, ...rest)), inputs];
    });
    const perturbations = own.map(({ output }) => zeros(output.shape, { dtype: output.dtype }));
    const [[value, inputs], gradient] = sweep({ params, perturbations });
    const sums = new Map<string, FactorSums>();
    own.forEach((use, i) => {
      const name = use.layer!.name;
      const sum = factorSums(use, inputs[i]!, gradient.perturbations[i]!, options.examples);
      const before = sums.get(name);
      sums.set(name, before === undefined ? sum : addedUp(before, sum));
    });
    const layers = [...sums].map(([name, { inputs: a, rows, outputs }]) => {
      return [name, { inputs: div(a, rows), outputs }] as const;
    });
    return { value, gradient: gradient.params, layers: Object.fromEntries(layers) };
  };
}

/** Parameters, and what is added to the outputs of layers. */
interface Perturbed<P> {
  readonly params: P;
  readonly perturbations: readonly Value[];
}

/** The factors of a layer before the division by the number of rows. */
interface FactorSums extends KfacFactors {
  readonly rows: number;
}

/** Of one use: `Σ a aᵀ` and `n Σ d dᵀ` over the rows, which are the places of all examples. */
function factorSums({ layer, window, options }: Use, input: Value, d: Value, terms?: number): FactorSums {
  const isDense = layer!.kind === "dense";
  const a = isDense ? rowsOf(input) : patches(input, window, options, d.shape.slice(2));
  const out = isDense ? rowsOf(d) : channelRows(d);
  const examples = terms ?? (input.ndim > 1 ? input.shape[0]! : 1);
  return {
    inputs: products(a, layer!.b !== null),
    rows: a.shape[0]!,
    outputs: mul(examples, matmul(transpose(out), out)),
  };
}

function addedUp(x: FactorSums, y: FactorSums): FactorSums {
  return { inputs: add(x.inputs, y.inputs), rows: x.rows + y.rows, outputs: add(x.outputs, y.outputs) };
}

/** [..., n] as [rows, n]. */
function rowsOf(x: Value): Value {
  return reshape(x, [-1, x.shape.at(-1)!]);
}

/** [n, channels, ...places] as [n places, channels]. */
function channelRows(x: Value): Value {
  const places = x.shape.slice(2).map((_, a) => a + 2);
  return rowsOf(transpose(x, [0, ...places, 1]));
}

/** `Σ a aᵀ` over the rows a, each with 1 after its elements where there is a bias. */
function products(a: Value, hasBias: boolean): Value {
  const squares = matmul(transpose(a), a);
  if (!hasBias) return squares;
  const sums = sum(a, { axis: 0, keepDims: true });
  const count = full([1, 1], a.shape[0]!, { dtype: a.dtype });
  return concat([concat([squares, transpose(sums)], { axis: 1 }), concat([sums, count], { axis: 1 })]);
}

/** What each window of a convolution holds, in the order of a kernel's elements: [n places, channels window]. */
function patches(x: Value, window: Shape, options: ConvOptions, places: Shape): Value {
  const perAxis = (given: PerAxis | undefined): readonly number[] =>
    typeof given === "object" ? given : window.map(() => given ?? 1);
  const [strides, dilation] = [perAxis(options.strides), perAxis(options.dilation)];
  const sizes = x.shape.slice(2);
  const padding = resolvePadding("conv", options.padding ?? "valid", sizes, window, strides, dilation);
  const padded = pad(x, [[0, 0], [0, 0], ...padding]);
  const [n, channels] = x.shape as readonly [number, number, ...number[]];
  const parts = positionsOf(window).map((position) => {
    const starts = position.map((k, a) => k * dilation[a]!);
    const limits = starts.map((start, a) => start + (places[a]! - 1) * strides[a]! + 1);
    return slice(padded, [0, 0, ...starts], [n, channels, ...limits], [1, 1, ...strides]);
  });
  return channelRows(reshape(stack(parts, { axis: 2 }), [n, channels * sizeOf(window), ...places]));
}

/** All positions in a window, the last axis fastest. */
function positionsOf(window: Shape): readonly (readonly number[])[] {
  return window.reduce<readonly (readonly number[])[]>(
    (all, size) => all.flatMap((position) => Array.from({ length: size }, (_, k) => [...position, k])),
    [[]],
  );
}

/** How many inputs and outputs the factors of a layer have. */
export function factorSizes(layer: KfacLayer, xs: readonly Value[]): { inputs: number; outputs: number } {
  const [first = 1, ...rest] = xs[layer.w]!.shape;
  const [inputs, outputs] = layer.kind === "dense" ? [first, sizeOf(rest)] : [sizeOf(rest), first];
  return { inputs: inputs + (layer.b === null ? 0 : 1), outputs };
}

/** Weights and bias as one matrix: [inputs (+ 1), outputs]. */
export function layerMatrix({ kind, w, b }: KfacLayer, xs: readonly Value[]): Value {
  const weights = xs[w]!;
  const matrix = kind === "dense" ? weights : transpose(reshape(weights, [weights.shape[0]!, -1]));
  return b === null ? matrix : concat([matrix, expandDims(xs[b]!, 0)]);
}

/** Writes such a matrix back to the places of weights and bias in a list of leaves like `xs`. */
export function setLayerMatrix(
  { kind, w, b }: KfacLayer,
  matrix: Value,
  xs: readonly Value[],
  leaves: Value[],
): void {
  const [rows, columns] = matrix.shape as readonly [number, number];
  const last = b === null ? rows : rows - 1;
  const weights = slice(matrix, [0, 0], [last, columns]);
  leaves[w] = kind === "dense" ? weights : reshape(transpose(weights), xs[w]!.shape);
  if (b !== null) leaves[b] = reshape(slice(matrix, [last, 0], [rows, columns]), [columns]);
}
