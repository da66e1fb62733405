/** What a plan costs, phase by phase, and a plan as text: both derived from the script that every peer runs. */
import { bytesPerElement, type DType } from "../core/dtype.ts";
import { columnsOf, curvatureDueAt, evaluatesAfter, extrapolatesAfter, orderOf, type Plan } from "./plan.ts";
import { isHubOnly, type Phase, receiveNames, slots } from "./protocol/script.ts";
import { roundScript } from "./script.ts";

/**
 * One phase in a round that has it. Bytes are tensor elements, all workers together; heads and frames come on top.
 *
 * @since 0.1.0
 */
export interface PhaseCost {
  readonly name: string;
  /** Rounds of the run that have this phase. */
  readonly rounds: number;
  /** Communication steps: each is one message to every worker and one back. */
  readonly questions: number;
  readonly bytesToWorkers: number;
  readonly bytesToHub: number;
}

/**
 * The phases in order of appearance, and the sums over the whole run.
 *
 * @since 0.1.0
 */
export interface PlanCost {
  readonly phases: readonly PhaseCost[];
  readonly questions: number;
  readonly bytesToWorkers: number;
  readonly bytesToHub: number;
  /** The largest shard of the Lanczos basis at any worker, in bytes. */
  readonly basisBytes: number;
  /** Hessian-vector products that each worker computes, or worker 0 alone where the plan says so. */
  readonly products: number;
}

/**
 * Communication steps and payload of a plan, when no Lanczos loop ends early.
 *
 * Shapes: plain JSON data.
 * Units: bytes of tensor elements.
 *
 * @param options the element type of the parameters, default float32
 * @example One round of averaging: n numbers to each worker and back, one question, and one for the evaluation
 * ```ts
 * const plan = ct.dist.makePlan({
 *   version: 1, workers: 2, parameters: 10, rounds: 1, localSteps: 5, seed: 0,
 *   update: { name: "sgd", learningRate: 0.1 }, sync: { k: "consensus", sigma: 0 },
 * });
 * const { questions, bytesToWorkers, bytesToHub } = ct.dist.planCost(plan);
 * assertClose([questions, bytesToWorkers, bytesToHub], [2, 80, 80]);
 * ```
 * @since 0.1.0
 */
export function planCost(plan: Plan, options: { readonly dtype?: DType } = {}): PlanCost {
  const sizeOf = registerSizes(plan, bytesPerElement(options.dtype ?? "float32"));
  const kinds = new Map<string, readonly PhaseCost[]>();
  const phases = new Map<string, PhaseCost>();
  let refreshes = 0;
  for (let round = 0; round < plan.rounds; round++) {
    const isDue = curvatureDueAt(plan, round);
    if (isDue) refreshes++;
    const kind = [isDue, extrapolatesAfter(plan, round), evaluatesAfter(plan, round)].join();
    const costs = kinds.get(kind) ?? roundCosts(plan, round, sizeOf);
    kinds.set(kind, costs);
    for (const cost of costs)
      phases.set(cost.name, { ...cost, rounds: (phases.get(cost.name)?.rounds ?? 0) + 1 });
  }
  const all = [...phases.values()];
  const total = (of: (cost: PhaseCost) => number): number =>
    all.reduce((sum, cost) => sum + cost.rounds * of(cost), 0);
  const order = orderOf(plan);
  return {
    phases: all,
    questions: total((cost) => cost.questions),
    bytesToWorkers: total((cost) => cost.bytesToWorkers),
    bytesToHub: total((cost) => cost.bytesToHub),
    basisBytes: 8 * order * widthOf(plan, 0),
    products: refreshes * order,
  };
}

type SizeOf = (register: string, rank: number, iteration: number) => number;

function roundCosts(plan: Plan, round: number, sizeOf: SizeOf): readonly PhaseCost[] {
  const flat = slots(roundScript(plan, round));
  return flat.map(({ phase, repeat }, index) => {
    // The hub asks the workers to save with the last phase of a round, even when it alone has work in it.
    const isAsked = !isHubOnly(phase) || index === flat.length - 1;
    const sum = (names: readonly string[]): number => phaseBytes(plan, names, repeat, sizeOf);
    return {
      name: phase.name,
      rounds: 0,
      questions: isAsked ? repeat : 0,
      bytesToWorkers: sum(receiveNames(phase)),
      bytesToHub: sum(repliesOf(phase)),
    };
  });
}

const repliesOf = (phase: Phase): readonly string[] => phase.reply ?? [];

function phaseBytes(plan: Plan, names: readonly string[], repeat: number, sizeOf: SizeOf): number {
  let bytes = 0;
  for (let iteration = 0; iteration < repeat; iteration++)
    for (let rank = 0; rank < plan.workers; rank++)
      for (const name of names) bytes += sizeOf(name, rank, iteration);
  return bytes;
}

/** Bytes of a register that travels; vectors of Lanczos are float64, all else has the element type of the parameters. */
function registerSizes(plan: Plan, elementBytes: number): SizeOf {
  const n = plan.parameters;
  const order = orderOf(plan);
  const pairs = plan.curvature ? plan.curvature.k + plan.curvature.l : 0;
  const whole = n * elementBytes;
  const sizes: Readonly<Record<string, (rank: number, iteration: number) => number>> = {
    theta: () => whole,
    gradient: () => whole,
    mean: () => whole,
    candidate: () => whole,
    report: (rank) => (rank === 0 ? whole : 0),
    v: () => 8 * n,
    product: (rank) => (plan.curvature?.reduce === "rank0" && rank !== 0 ? 0 : whole),
    w: (rank) => 8 * widthOf(plan, rank),
    rest: (rank) => 8 * widthOf(plan, rank),
    // One coefficient for each basis vector so far.
    part: (_rank, iteration) => 8 * (iteration + 1),
    h: (_rank, iteration) => 8 * (iteration + 1),
    rows: () => 8 * pairs * order,
    columns: (rank) => pairs * widthOf(plan, rank) * elementBytes,
    // Values, vectors and one count.
    curvature: () => 8 * pairs + pairs * whole + 4,
  };
  return (register, rank, iteration) => {
    const size = sizes[register];
    if (!size)
      throw new TypeError(
        `Cannot price register "${register}": its size is not known, an entry in the table is needed`,
      );
    return size(rank, iteration);
  };
}

function widthOf(plan: Plan, rank: number): number {
  const [start, end] = columnsOf(plan, rank);
  return end - start;
}

// --- text --------------------------------------------------------------------------------------------------------

/**
 * A plan as text: what is done in words, then a table of its phases with communication steps and payload.
 *
 * Shapes: a string of several lines.
 * Units: bytes, with decimal prefixes.
 *
 * @param options the element type of the parameters, default float32
 * @example The first line
 * ```ts
 * const plan = ct.dist.makePlan({
 *   version: 1, workers: 4, parameters: 1000, rounds: 3, localSteps: 5, seed: 0,
 *   update: { name: "adam", learningRate: 1e-3 }, sync: { k: "gradient" },
 * });
 * assert(ct.dist.showPlan(plan).startsWith("4 workers, 1000 parameters, 3 rounds of 5 steps, seed 0"));
 * ```
 * @since 0.1.0
 */
export function showPlan(plan: Plan, options: { readonly dtype?: DType } = {}): string {
  const cost = planCost(plan, options);
  const table = [
    ["phase", "rounds", "questions", "to workers", "to hub"],
    ...cost.phases.map((phase) => [
      phase.name,
      String(phase.rounds),
      String(phase.questions),
      showBytes(phase.bytesToWorkers),
      showBytes(phase.bytesToHub),
    ]),
    [
      "whole run",
      String(plan.rounds),
      String(cost.questions),
      showBytes(cost.bytesToWorkers),
      showBytes(cost.bytesToHub),
    ],
  ];
  return [
    `${counted(plan.workers, "worker")}, ${counted(plan.parameters, "parameter")}, ${counted(plan.rounds, "round")} of ${counted(plan.localSteps, "step")}, seed ${plan.seed}`,
    `update      ${showFields(plan.update)}`,
    `curvature   ${showCurvature(plan, cost)}`,
    `agreement   ${showSync(plan)}`,
    `evaluation  ${plan.evaluateEvery > 0 ? `every ${counted(plan.evaluateEvery, "round")} and at the end` : "at the end"}`,
    `limits      ${showFields(plan.limits)}`,
    "",
    `${options.dtype ?? "float32"} payload of all workers together, in each round that has the phase`,
    ...alignColumns(table),
  ].join("\n");
}

function showCurvature(plan: Plan, { basisBytes }: PlanCost): string {
  const { curvature } = plan;
  if (!curvature) return "none";
  const { period, warmup, order: _order, ...rest } = curvature;
  const when = `every ${counted(period, "round")} from round ${warmup}`;
  return `${when}, ${counted(orderOf(plan), "product")}, ${showFields(rest)}, basis at most ${showBytes(basisBytes)} per worker`;
}

function showSync({ sync }: Plan): string {
  switch (sync.k) {
    case "gradient":
      return "mean gradient at every step";
    case "published":
      return `mean gradient at every step, extrapolation every ${counted(sync.period, "round")} with sigma ${sync.sigma}`;
    case "consensus":
      if (sync.sigma === 0) return "mean of parameters after every round";
      return `consensus after every round, sigma ${sync.sigma}${sync.relative ? " of the largest eigenvalue" : ""}`;
    default:
      return sync satisfies never;
  }
}

function showFields(fields: object): string {
  return Object.entries(fields)
    .map(([name, value]) => (name === "name" ? String(value) : `${name} ${String(value)}`))
    .join(", ");
}

function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** Bytes with a decimal prefix and three digits: `1.50 MB`. */
export function showBytes(bytes: number): string {
  const power = Math.min(4, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  return power === 0 ? `${bytes} B` : `${(bytes / 1000 ** power).toPrecision(3)} ${"kMGT"[power - 1]}B`;
}

/** The first column to the left, the others to the right. */
function alignColumns(table: readonly (readonly string[])[]): string[] {
  const widths = table[0]!.map((_, column) => Math.max(...table.map((row) => row[column]!.length)));
  return table.map((row) =>
    row
      .map((cell, column) =>
        column === 0 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]! + 2),
      )
      .join(""),
  );
}
