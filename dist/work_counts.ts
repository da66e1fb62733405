/**
 * What the functions of a plan's script do, counted in a few kinds of work. With the seconds of one call and of one unit
 * of each kind, counts become time.
 */
import { columnsOf, layoutOf, orderOf, type Plan, vectorRowsOf } from "./plan.ts";

/**
 * The kinds of work, and the unit in which each grows.
 *
 * Of a worker:
 * - `gradient`: a batch's loss and gradient; an example.
 * - `linearize`: the gradient of the curvature batch, linearized; an example.
 * - `product`: one Hessian-vector product; an example of the curvature batch.
 * - `update`: one update by the method alone; a parameter that the worker moves.
 * - `project`: one product with V or its transpose; an element of V.
 * - `basis`: one pass over the Lanczos basis; an element of it.
 *
 * Of the hub:
 * - `reduce`: sums, means and joins of answers while training and of eigenvectors; a byte of all answers.
 * - `iterate`: its part of a Lanczos step; a byte of all answers.
 * - `start`: the start vector of Lanczos; a parameter.
 * - `ritz`: the eigenpairs of T; the cube of its order.
 * - `evaluate`: an evaluation; an example of the test data.
 *
 * Of both ends of a message, encoding, checking and decoding included: `hubMessage` and `workerMessage`; a byte. And
 * `save`: writing a save; a byte.
 *
 * @since 0.2.0
 */
export type WorkKind =
  | "gradient"
  | "linearize"
  | "product"
  | "update"
  | "project"
  | "basis"
  | "reduce"
  | "iterate"
  | "start"
  | "ritz"
  | "evaluate"
  | "hubMessage"
  | "workerMessage"
  | "save";

/** So many calls on so many units together. */
export interface Count {
  readonly calls: number;
  readonly units: number;
}

/** Some work. Kinds that are not named are not done. */
export type Counts = Partial<Readonly<Record<WorkKind, Count>>>;

/**
 * Examples of one call, where the plan does not say it.
 *
 * @since 0.2.0
 */
export interface Examples {
  readonly gradient: number;
  /** Of the batch on which curvature is measured. */
  readonly curvature: number;
  /** Of the test data at the hub. */
  readonly evaluation: number;
}

const once = (units: number): Count => ({ calls: 1, units });
const units = (count: number): Count => ({ calls: 0, units: count });

/** The sum of some works. */
export function addCounts(...works: readonly Counts[]): Counts {
  const sum: Partial<Record<WorkKind, Count>> = {};
  for (const work of works) {
    for (const [name, { calls, units }] of Object.entries(work)) {
      const kind = name as WorkKind;
      const before = sum[kind] ?? { calls: 0, units: 0 };
      sum[kind] = { calls: before.calls + calls, units: before.units + units };
    }
  }
  return sum;
}

/** The same work, `times` times. */
function repeated(work: Counts, times: number): Counts {
  const entries = Object.entries(work).map(([kind, { calls, units }]) => [
    kind,
    { calls: calls * times, units: units * times },
  ]);
  return Object.fromEntries(entries) as Counts;
}

/**
 * What the busiest worker, which is worker 0, does in one function of the script.
 *
 * @throws {TypeError} for a function that is not known here
 */
export function workerCounts(plan: Plan, examples: Examples, fn: string, iteration: number): Counts {
  const { parameters: n, curvature } = plan;
  const [start, end] = columnsOf(plan, 0);
  const width = end - start;
  const layout = layoutOf(plan);
  const pairs = curvature ? curvature.k + curvature.l : 0;
  const own = layout === "columns" ? width : n;
  const [firstRow, lastRow] = vectorRowsOf(plan, 0);
  const space = (layout === "rows" ? lastRow - firstRow : pairs) * own;
  const isCut = curvature !== null && layout !== "replicated";

  const gradient: Counts = { gradient: once(examples.gradient) };
  const passes = (count: number): Counts =>
    pairs > 0 ? { project: { calls: count, units: count * space } } : {};
  // Where V is cut, the method has moved in `direction`, and what is left has two products with columns of V.
  const move: Counts = isCut
    ? addCounts({ update: once(0) }, layout === "columns" ? passes(2) : {})
    : // VᵀV g, Vᵀ(r ∘ V vel) and VᵀV raw.
      addCounts({ update: once(own) }, passes(6));
  const extrapolation: Counts = { update: units(own) };

  const table: Readonly<Record<string, () => Counts>> = {
    open: () => ({ linearize: once(examples.curvature) }),
    // Of the candidate along the rows before it and with itself.
    coefficients: () => ({ basis: once((iteration + 1) * width) }),
    // And what candidate and product have along these rows.
    product: () => ({
      product: once(examples.curvature),
      basis: { calls: 2, units: 2 * iteration * width },
    }),
    vectors: () => ({ basis: once(pairs * orderOf(plan) * width) }),
    install: () => ({}),
    installDamped: () => ({}),
    installRows: () => ({}),
    installColumns: () => ({ basis: once(pairs * orderOf(plan) * width) }),
    gradient: () => gradient,
    nextGradient: () => gradient,
    inside: () => passes(layout === "rows" ? 2 : 1),
    direction: () => addCounts({ update: once(own) }, passes(3)),
    step: () => addCounts(move, gradient),
    move: () => move,
    last: () => move,
    lastExtrapolated: () => addCounts(move, extrapolation),
    moveExtrapolated: () => addCounts(move, extrapolation),
    // The dual, the augmented gradients and the candidate are sums of whole vectors.
    local: () => addCounts(repeated(addCounts(gradient, move), plan.localSteps), { update: units(2 * n) }),
  };
  return lookUp(table, fn, "worker");
}

/**
 * What the hub does in one function of the script with so many bytes of answers.
 *
 * @throws {TypeError} for a function that is not known here
 */
export function hubCounts(plan: Plan, examples: Examples, fn: string, bytes: number): Counts {
  const reduce = (): Counts => ({ reduce: once(bytes) });
  const iterate = (): Counts => ({ iterate: once(bytes) });
  const table: Readonly<Record<string, () => Counts>> = {
    start: () => ({ start: once(plan.parameters) }),
    place: reduce,
    product: iterate,
    ritz: () => ({ ritz: once(orderOf(plan) ** 3) }),
    curvature: reduce,
    cutRows: reduce,
    reportPairs: () => ({}),
    mean: reduce,
    meanColumns: reduce,
    sum: reduce,
    takeFirst: reduce,
    join: reduce,
    consensus: reduce,
    evaluate: () => ({ evaluate: once(examples.evaluation) }),
  };
  return lookUp(table, fn, "hub");
}

function lookUp(table: Readonly<Record<string, () => Counts>>, fn: string, where: string): Counts {
  const count = Object.hasOwn(table, fn) ? table[fn] : undefined;
  if (!count)
    throw new TypeError(
      `Cannot count the work of "${fn}" at the ${where}: the function is not known, an entry in the table is needed`,
    );
  return count();
}
