/** Products that sum over axes: matmul, dot and einsum, each through the one dot primitive. */

import { arange } from "../create.ts";
import { ShapeError } from "../errors.ts";
import * as p from "../prims/contract.ts";
import { moveAxis, permute, sumAxes } from "../prims/movement.ts";
import { broadcastShapes, range } from "../shape.ts";
import type { Value } from "../value.ts";
import { equal, mul, where } from "./math.ts";
import { broadcastTo, reshape } from "./shape.ts";

/**
 * The matrix product, as NumPy has it.
 *
 * A vector is a row on the left and a column on the right, and its axis disappears; axes before the last two broadcast.
 *
 * Shapes: `[..., m, k]` and `[..., k, n]` give `[..., m, n]`.
 *
 * @throws {ShapeError} if an operand is a scalar, the inner sizes differ or the other axes do not broadcast
 * @throws {DTypeError} if the element types differ or are bool
 * @example A matrix and a vector
 * ```ts
 * assertClose(ct.matmul(ct.tensor([[1, 2], [3, 4]]), ct.tensor([1, 1])), [3, 7]);
 * ```
 * @since 0.1.0
 */
export function matmul(x: Value, y: Value): Value {
  if (x.ndim === 0 || y.ndim === 0) {
    throw new ShapeError(
      "matmul",
      `Cannot matmul ${x.aval} and ${y.aval}: one is a scalar, at least one axis is needed; use mul`,
    );
  }
  const inner = Math.max(y.ndim - 2, 0);
  if (x.shape.at(-1) !== y.shape[inner]) {
    throw new ShapeError(
      "matmul",
      `Cannot matmul ${x.aval} and ${y.aval}: the inner sizes are ${x.shape.at(-1)} and ${y.shape[inner]}, equal sizes are needed`,
    );
  }
  // Where only one side has batch axes, one contraction does it and nothing is repeated.
  if (y.ndim <= 2) return p.dot(x, y, { contract: [[x.ndim - 1], [0]], batch: [[], []] });
  if (x.ndim <= 2) {
    const product = p.dot(x, y, { contract: [[x.ndim - 1], [inner]], batch: [[], []] });
    return x.ndim === 1 ? product : moveAxis(product, 0, inner);
  }
  const batchShape = broadcastShapes("matmul", x.shape.slice(0, -2), y.shape.slice(0, -2));
  const batch = range(batchShape.length);
  const left = broadcastTo(x, [...batchShape, ...x.shape.slice(-2)]);
  const right = broadcastTo(y, [...batchShape, ...y.shape.slice(-2)]);
  return p.dot(left, right, { contract: [[batch.length + 1], [batch.length]], batch: [batch, batch] });
}

/**
 * The sum of products over the last axis of `x` and the last but one of `y` (the only one of a vector).
 *
 * Shapes: `[...a, k]` and `[...b, k, n]` give `[...a, ...b, n]`; a scalar multiplies.
 *
 * @throws {ShapeError} if the sizes of the summed axes differ
 * @throws {DTypeError} if the element types differ or are bool
 * @example An inner product
 * ```ts
 * assertClose(ct.dot(ct.tensor([1, 2]), ct.tensor([3, 4])), 11);
 * ```
 * @since 0.1.0
 */
export function dot(x: Value, y: Value): Value {
  if (x.ndim === 0 || y.ndim === 0) return mul(x, y);
  const axis = Math.max(y.ndim - 2, 0);
  return p.dot(x, y, { contract: [[x.ndim - 1], [axis]], batch: [[], []] });
}

/** A value whose axes carry letters, each at most once. */
interface Labelled {
  readonly x: Value;
  readonly labels: readonly string[];
}

/**
 * Sums of products by Einstein's notation: a letter names an axis, letters absent from the output are summed.
 *
 * A letter twice in one operand takes its diagonal. Without `->` the output has the letters that occur once, in
 * alphabetical order. Operands are combined from left to right; put small intermediate results first. No ellipsis.
 *
 * Shapes: one letter for each axis; equal letters have equal sizes.
 *
 * @throws {ShapeError} if the formula is malformed, or does not fit the operands
 * @throws {DTypeError} if the element types differ or are bool
 * @example Products and traces
 * ```ts
 * const x = ct.tensor([[1, 2], [3, 4]]);
 * assertClose(ct.einsum("ij,jk->ik", x, x), [[7, 10], [15, 22]]);
 * assertClose(ct.einsum("ii", x), 5);
 * assertClose(ct.einsum("i,ij,j", ct.tensor([1, 1]), x, ct.tensor([1, 1])), 10);
 * ```
 * @since 0.1.0
 */
export function einsum(formula: string, ...xs: readonly Value[]): Value {
  const { inputs, output } = parse(formula, xs);
  checkSizes(formula, inputs, xs);
  let rest = xs.map((x, i) => diagonal({ x, labels: inputs[i]! }));
  const wanted = (others: readonly Labelled[]): Set<string> =>
    new Set([...output, ...others.flatMap((o) => o.labels)]);
  while (rest.length > 1) {
    const [a, b, ...others] = rest;
    const keep = wanted(others);
    rest = [
      contract(sumUnwanted(a!, wanted([b!, ...others])), sumUnwanted(b!, wanted([a!, ...others])), keep),
      ...others,
    ];
  }
  const result = sumUnwanted(rest[0]!, new Set(output));
  return permute(
    result.x,
    output.map((label) => result.labels.indexOf(label)),
  );
}

function contract(a: Labelled, b: Labelled, keep: ReadonlySet<string>): Labelled {
  const shared = a.labels.filter((label) => b.labels.includes(label));
  const batch = shared.filter((label) => keep.has(label));
  const summed = shared.filter((label) => !keep.has(label));
  const axes = (o: Labelled, labels: readonly string[]): number[] => labels.map((l) => o.labels.indexOf(l));
  const x = p.dot(a.x, b.x, {
    contract: [axes(a, summed), axes(b, summed)],
    batch: [axes(a, batch), axes(b, batch)],
  });
  const free = [...a.labels, ...b.labels].filter((label) => !shared.includes(label));
  return { x, labels: [...batch, ...free] };
}

function sumUnwanted({ x, labels }: Labelled, wanted: ReadonlySet<string>): Labelled {
  const axes = range(labels.length).filter((a) => !wanted.has(labels[a]!));
  return { x: sumAxes(x, axes), labels: labels.filter((label) => wanted.has(label)) };
}

/** Merges axes that carry one letter: the elements off their diagonal become 0 and the second axis is summed. */
function diagonal({ x, labels }: Labelled): Labelled {
  const second = labels.findIndex((label, i) => labels.indexOf(label) < i);
  if (second < 0) return { x, labels };
  const first = labels.indexOf(labels[second]!);
  const n = x.shape[first]!;
  const along = (axis: number): Value =>
    reshape(
      arange(n, undefined, 1, { dtype: "int32" }),
      x.shape.map((_, a) => (a === axis ? n : 1)),
    );
  const onDiagonal = where(equal(along(first), along(second)), x, 0);
  return diagonal({ x: sumAxes(onDiagonal, [second]), labels: labels.filter((_, i) => i !== second) });
}

function parse(formula: string, xs: readonly Value[]): { inputs: string[][]; output: string[] } {
  const fail = (is: string, needed: string): never => {
    throw new ShapeError("einsum", `Cannot einsum "${formula}": ${is}, ${needed} needed`);
  };
  const [left, right, ...more] = formula.replaceAll(" ", "").split("->");
  if (more.length > 0 || !/^[A-Za-z]*(,[A-Za-z]*)*$/.test(left!) || !/^[A-Za-z]*$/.test(right ?? "")) {
    fail("it is not of the form", "letters such as ij,jk->ik are");
  }
  const inputs = left!.split(",").map((part) => [...part]);
  if (inputs.length !== xs.length) fail(`there are ${xs.length} operands`, `${inputs.length} are`);
  const all = inputs.flat();
  // Without an arrow: the letters that occur once, in alphabetical order.
  const output =
    right === undefined
      ? [...new Set(all)].filter((l) => all.indexOf(l) === all.lastIndexOf(l)).sort()
      : [...right];
  output.forEach((label, i) => {
    if (!all.includes(label))
      fail(`the output letter ${label} is in no operand`, "a letter of an operand is");
    if (output.indexOf(label) !== i) fail(`the output letter ${label} occurs twice`, "distinct letters are");
  });
  return { inputs, output };
}

function checkSizes(formula: string, inputs: readonly (readonly string[])[], xs: readonly Value[]): void {
  const sizes = new Map<string, number>();
  inputs.forEach((labels, i) => {
    const { aval } = xs[i]!;
    if (labels.length !== aval.ndim) {
      throw new ShapeError(
        "einsum",
        `Cannot einsum "${formula}": operand ${i} is ${aval}, ${labels.length} axes are needed`,
      );
    }
    labels.forEach((label, a) => {
      const seen = sizes.get(label) ?? aval.shape[a]!;
      if (seen !== aval.shape[a]) {
        throw new ShapeError(
          "einsum",
          `Cannot einsum "${formula}": the letter ${label} has sizes ${seen} and ${aval.shape[a]}, equal sizes are needed`,
        );
      }
      sizes.set(label, seen);
    });
  });
}
