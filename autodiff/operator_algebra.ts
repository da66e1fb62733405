/** Linear operators: what second-order methods need of a matrix, without the matrix. And operators made of operators. */
import type { DType } from "../core/dtype.ts";
import { DTypeError, ShapeError } from "../core/errors.ts";
import { add, mul } from "../core/ops.ts";
import type { Value } from "../core/value.ts";

/**
 * What is known of an operator besides its products.
 *
 * @since 0.1.0
 */
export type Tag = "symmetric" | "positive semidefinite";

/**
 * A square matrix known by its products with vectors.
 *
 * @since 0.1.0
 */
export interface LinearOperator {
  /** Number of rows and columns. */
  readonly size: number;
  /** Element type of the vectors. */
  readonly dtype: DType;
  /** The device that the products come from; default "cpu", the host. */
  readonly device?: string;
  readonly tags: ReadonlySet<Tag>;
  /** The product with a vector `[size]`. */
  apply(v: Value): Value;
  transpose(): LinearOperator;
}

/**
 * An operator plus a multiple of the identity: `A + lambda I`.
 *
 * Shapes: as those of the operator.
 * Units: lambda is in those of the operator's eigenvalues.
 *
 * @throws {RangeError} if lambda is not finite
 * @example A Hessian that is made invertible
 * ```ts
 * const H = ct.operator.hessianOperator((x: ct.Value) => x.mul(x).mul(ct.tensor([1, 0])).sum(), ct.tensor([0, 0]));
 * assertClose(ct.operator.damped(H, 0.5).apply(ct.tensor([1, 1])), [2.5, 0.5]);
 * ```
 * @source Levenberg 1944, "A method for the solution of certain non-linear problems in least squares"
 * @since 0.2.0
 */
export function damped(operator: LinearOperator, lambda: number): LinearOperator {
  if (!Number.isFinite(lambda))
    throw new RangeError(`Cannot damp an operator: lambda is ${lambda}, a finite number is needed`);
  return {
    ...describedBy(operator),
    tags: new Set([...operator.tags].filter((tag) => tag === "symmetric" || lambda >= 0)),
    apply: (v) => add(operator.apply(v), mul(lambda, v)),
    transpose: () => damped(operator.transpose(), lambda),
  };
}

/**
 * An operator, or a function that makes it for every product anew: then what it keeps is in memory only so long.
 *
 * @since 0.2.0
 */
export type OperatorSource = LinearOperator | (() => LinearOperator);

/**
 * The mean of operators: the curvature of a batch from those of its parts.
 *
 * An operator keeps the residuals of its part of the batch in memory. A function in its place makes the operator for
 * each product and drops it after: the residuals of one part are in memory at a time, for one more gradient per product.
 *
 * Shapes: as those of the operators, which are of one size.
 * Units: none.
 * Determinism: the sum goes in the order of the list.
 *
 * @param sources operators of one size and element type, or functions that give such
 * @param options `weights`, one for each operator: the mean is divided by their sum; default 1 each
 * @throws {RangeError} if there is no operator, or the weights do not fit
 * @throws {ShapeError} if the sizes differ
 * @throws {DTypeError} if the element types differ
 * @example Two halves of a batch, one at a time
 * ```ts
 * const loss = (w: ct.Value, x: ct.Value) => x.mul(w).mul(x.mul(w)).mean();
 * const w = ct.tensor([1]);
 * const halves = [ct.tensor([1, 2]), ct.tensor([3, 4])];
 * const H = ct.operator.meanOperator(halves.map((x) => () => ct.operator.hessianOperator(loss, w, x)));
 * assertClose(H.apply(ct.tensor([1])), ct.operator.hessianOperator(loss, w, ct.tensor([1, 2, 3, 4])).apply(ct.tensor([1])));
 * ```
 * @since 0.2.0
 */
export function meanOperator(
  sources: readonly OperatorSource[],
  options: { readonly weights?: readonly number[] } = {},
): LinearOperator {
  const { weights = sources.map(() => 1) } = options;
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  if (sources.length === 0)
    throw new RangeError("Cannot take the mean of operators: there are 0, at least 1 is needed");
  if (weights.length !== sources.length || !(total > 0) || weights.some((weight) => !(weight >= 0)))
    throw new RangeError(
      `Cannot take the mean of ${sources.length} operators: the weights are [${weights}], as many numbers of at least 0 are needed, not all 0`,
    );
  const first = made(sources[0]!);
  const checked = (source: OperatorSource): LinearOperator => {
    const operator = made(source);
    if (operator.size !== first.size)
      throw new ShapeError(
        "meanOperator",
        `Cannot take the mean of operators: one has size ${operator.size}, ${first.size} is needed as of the first`,
      );
    if (operator.dtype !== first.dtype)
      throw new DTypeError(
        "meanOperator",
        `Cannot take the mean of operators: one has type ${operator.dtype}, ${first.dtype} is needed as of the first`,
      );
    return operator;
  };
  // What is there already is checked now, what is made later then. A mean has the properties that all parts have.
  const present = [first, ...sources.filter((source) => typeof source !== "function").map(checked)];
  return {
    ...describedBy(first),
    tags: new Set([...first.tags].filter((tag) => present.every(({ tags }) => tags.has(tag)))),
    apply: (v) =>
      sources
        .map((source, i) => [source, weights[i]! / total] as const)
        .filter(([, share]) => share > 0)
        .reduce<Value | null>((sum, [source, share]) => {
          const part = mul(share, checked(source).apply(v));
          return sum === null ? part : add(sum, part);
        }, null)!,
    transpose: () =>
      meanOperator(
        sources.map((source) =>
          typeof source === "function" ? () => source().transpose() : source.transpose(),
        ),
        { weights },
      ),
  };
}

function made(source: OperatorSource): LinearOperator {
  return typeof source === "function" ? source() : source;
}

/** What two operators on the same vectors have in common. */
function describedBy({
  size,
  dtype,
  device,
}: LinearOperator): Pick<LinearOperator, "size" | "dtype" | "device"> {
  return { size, dtype, ...(device !== undefined && { device }) };
}
