/**
 * What the functions of a plan's script do, counted in a few kinds of work. With the seconds of one call and of one unit
 * of each kind, counts become time.
 */
import { columnsOf, layoutOf, orderOf, type Plan, vectorRowsOf } from "./plan.ts";
import {
  ownedBy,
  ownersOf,
  ownsLayers,
  type PreconditionedMethod,
  preconditionedOf,
} from "./preconditioned.ts";

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
 * - `divide`: the part of a step that divides, compresses or keeps back what is sent, with the method in it; a parameter.
 * - `land`: what such a worker makes of a result, or of its state for others; a parameter.
 * - `factors`: the factors of K-FAC of a batch, beside its gradient; an example.
 * - `roots`: the roots or eigenpairs of one matrix; the cube of its side.
 * - `precondition`: one update by a method with matrices; a parameter.
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
  | "divide"
  | "land"
  | "factors"
  | "roots"
  | "precondition"
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

/** Where in a script a function is called, and what a plan alone does not say. */
export interface Call {
  readonly iteration: number;
  /** Those that the script tells the function. */
  readonly numbers: readonly number[];
  /** Whether the batch of the call tells factors too. */
  readonly isInformed: boolean;
  /** The sides of the matrices of Shampoo or K-FAC. */
  readonly matrices: readonly number[];
}

/**
 * What the busiest worker, which is worker 0 where no matrices are divided, does in one function of the script.
 *
 * @throws {TypeError} for a function that is not known here
 */
export function workerCounts(plan: Plan, examples: Examples, fn: string, call: Call): Counts {
  const method = preconditionedOf(plan);
  const table = method
    ? matrixTable(plan, method, examples, call)
    : { ...vectorTable(plan, examples, call), ...dividedTable(plan, examples, call) };
  return lookUp(table, fn, "worker");
}

type Table = Readonly<Record<string, () => Counts>>;

/** Of methods whose state is vectors, and of their curvature. */
function vectorTable(plan: Plan, examples: Examples, { iteration }: Call): Table {
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

  return {
    open: () => ({ linearize: once(examples.curvature) }),
    // Of the candidate along the rows before it and with itself.
    coefficients: () => ({ basis: once((iteration + 1) * width) }),
    // And what candidate and product have along these rows.
    product: () => ({
      product: once(examples.curvature),
      basis: { calls: 2, units: 2 * iteration * width },
    }),
    vectors: () => ({ basis: once(pairs * orderOf(plan) * width) }),
    // Of a curvature worker alone: all of that, and what the hub makes of it is little.
    openAlone: () => ({ linearize: once(examples.curvature) }),
    productAlone: () => ({
      product: once(examples.curvature),
      basis: { calls: 3, units: (3 * iteration + 1) * width },
    }),
    vectorsAlone: () => ({ basis: once(pairs * orderOf(plan) * width) }),
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
    // Of a group of curvature workers, when it has delivered.
    release: () => ({}),
  };
}

/** Of methods whose workers differ between steps: see jobs/communicating.ts. */
function dividedTable({ parameters: n }: Plan, examples: Examples, { numbers }: Call): Table {
  const land: Counts = { land: once(n) };
  /** Steps `from` to `to` without a message between them. */
  const begun = (from: number, to: number): Counts =>
    repeated({ gradient: once(examples.gradient), divide: once(n) }, to - from + 1);
  return {
    begin: () => begun(numbers[0]!, numbers[1]!),
    advance: () => addCounts(land, begun(numbers[1]!, numbers[2]!)),
    turn: () => land,
    land: () => land,
    // With a result that is still to be taken, if the step had one, and the payload of the background.
    launch: () => land,
    kept: () => land,
    flushed: () => land,
    view: () => land,
  };
}

/** Of methods with matrices: see jobs/preconditioned.ts. The worker with the most to do does the most of each. */
function matrixTable(
  { parameters: n, workers }: Plan,
  method: PreconditionedMethod,
  examples: Examples,
  { isInformed, matrices }: Call,
): Table {
  const owners = ownersOf(method, matrices, workers);
  const most = (of: (own: readonly number[]) => number): number =>
    Math.max(...Array.from({ length: workers }, (_, rank) => of(ownedBy(owners, rank))));
  const cubes = (own: readonly number[]): number => own.reduce((sum, i) => sum + matrices[i]! ** 3, 0);
  const owned = (own: readonly number[]): number =>
    own.reduce((sum, i) => sum + (i % 2 === 0 ? matrices[i]! * matrices[i + 1]! : 0), 0);
  const sample: Counts = {
    gradient: once(examples.gradient),
    ...(isInformed && { factors: once(examples.gradient) }),
  };
  const roots: Counts = { roots: { calls: most((own) => own.length), units: most(cubes) } };
  const precondition: Counts = { precondition: once(n) };
  if (ownsLayers(method)) {
    const direction: Counts = { precondition: once(most(owned)) };
    return {
      gradient: () => sample,
      direction: () => direction,
      refreshedDirection: () => addCounts(direction, roots),
      naturalStep: () => addCounts({ update: once(n) }, sample),
      naturalLast: () => ({ update: once(n) }),
    };
  }
  return {
    gradient: () => sample,
    roots: () => roots,
    step: () => addCounts(precondition, sample),
    last: () => precondition,
    refreshedStep: () => addCounts(precondition, sample),
    refreshedLast: () => precondition,
  };
}

/**
 * What the hub does in one function of the script with so many bytes of answers.
 *
 * @throws {TypeError} for a function that is not known here
 */
export function hubCounts(plan: Plan, examples: Examples, fn: string, bytes: number): Counts {
  const reduce = (): Counts => ({ reduce: once(bytes) });
  const iterate = (): Counts => ({ iterate: once(bytes) });
  const table: Table = {
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
    reduce,
    reduceBackground: reduce,
    flush: reduce,
    takeView: reduce,
    informedMean: reduce,
    joinRoots: reduce,
    joinDirections: reduce,
    // Snapshots and finished curvature go from hand to hand.
    snapshot: () => ({}),
    collect: () => ({}),
    take: () => ({}),
    isEnded: () => ({}),
    takeCurvature: () => ({}),
    deliver: () => ({}),
    evaluate: () => ({ evaluate: once(examples.evaluation) }),
  };
  return lookUp(table, fn, "hub");
}

function lookUp(table: Table, fn: string, where: string): Counts {
  const count = Object.hasOwn(table, fn) ? table[fn] : undefined;
  if (!count)
    throw new TypeError(
      `Cannot count the work of "${fn}" at the ${where}: the function is not known, an entry in the table is needed`,
    );
  return count();
}
