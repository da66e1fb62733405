/** What a plan costs, phase by phase, and a plan as text: both derived from the script that every peer runs. */

import { zeros } from "../core/create.ts";
import { bytesPerElement, type DType } from "../core/dtype.ts";
import { PlanError } from "../core/errors.ts";
import { leaves } from "../core/tree.ts";
import type { CommunicatingMethod, Traffic } from "./compress/method.ts";
import { achievedRatios, communicatingOf, flushAfter } from "./compress/plan.ts";
import { leavesAfter } from "./compress/script.ts";
import {
  adoptsAt,
  columnsOf,
  curvatureDueAt,
  evaluatesAfter,
  extrapolatesAfter,
  layoutOf,
  orderOf,
  type Plan,
  type UpdateMethod,
  vectorRowsOf,
} from "./plan.ts";
import { preconditionedOf } from "./preconditioned.ts";
import { dueIn, type MatrixElements, matrixElements } from "./preconditioned_cost.ts";
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
 * What one worker holds of the training, in bytes of tensor elements. Counters and eigenvalues come on top.
 *
 * @since 0.2.0
 */
export interface WorkerMemory {
  /** Parameters and gradient; of a step alone where the layout is columns. */
  readonly parameters: number;
  /** State of the local method. */
  readonly base: number;
  /** Accumulated gradient inside the space of the curvature. */
  readonly velocity: number;
  /** Eigenvectors. */
  readonly vectors: number;
  /** Matrices of Shampoo or K-FAC, and their roots or eigenpairs. */
  readonly matrices: number;
  /** Anchor and push, or dual and last local parameters. */
  readonly agreement: number;
  /** The Lanczos basis, while curvature is measured. */
  readonly basis: number;
}

/**
 * The phases in order of appearance, and the sums over the whole run. A phase whose cost differs between rounds appears
 * once for each cost.
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
  /** By rank; but for methods that divide matrices, worker 0 has the most. */
  readonly memory: readonly WorkerMemory[];
  /** Of curvature workers beside these, by their own rank; empty without a split. */
  readonly group: readonly Pick<WorkerMemory, "parameters" | "basis">[];
  /** Hessian-vector products that each worker computes, or worker 0 alone where the plan says so. */
  readonly products: number;
}

/**
 * Communication steps and payload of a plan, when no Lanczos loop ends early.
 *
 * Shapes: plain JSON data.
 * Units: bytes of tensor elements.
 *
 * @param options the element type of the parameters, default float32, and for Shampoo and K-FAC the sides of their
 * matrices, from `matricesOf`
 * @throws {PlanError} if these are needed and not given
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
export function planCost(plan: Plan, options: CostOptions = {}): PlanCost {
  const communicating = communicatingOf(plan, options);
  if (communicating) return communicatingCost(plan, communicating, options.dtype ?? "float32");
  const elementBytes = bytesPerElement(options.dtype ?? "float32");
  const matrices = matricesIn(plan, options);
  const method = preconditionedOf(plan);
  const sizeOf = registerSizes(plan, elementBytes, matrices);
  const kinds = new Map<string, readonly PhaseCost[]>();
  const phases = new Map<string, PhaseCost>();
  let refreshes = 0;
  for (let round = 0; round < plan.rounds; round++) {
    const isDue = curvatureDueAt(plan, round);
    if (isDue) refreshes++;
    const carries = carriesCurvature(plan, round);
    const kind = [
      isDue,
      carries,
      adoptsAt(plan, round),
      extrapolatesAfter(plan, round),
      evaluatesAfter(plan, round),
      method && dueIn(method, plan, round),
    ].join();
    const costs = kinds.get(kind) ?? roundCosts(plan, round, carries ? sizeOf : sizeWithoutCurvature(sizeOf));
    kinds.set(kind, costs);
    for (const cost of costs) {
      const { name, questions, bytesToWorkers, bytesToHub } = cost;
      const key = [name, questions, bytesToWorkers, bytesToHub].join();
      phases.set(key, { ...cost, rounds: (phases.get(key)?.rounds ?? 0) + 1 });
    }
  }
  const all = [...phases.values()];
  const total = (of: (cost: PhaseCost) => number): number =>
    all.reduce((sum, cost) => sum + cost.rounds * of(cost), 0);
  const memory = Array.from({ length: plan.workers }, (_, rank) =>
    memoryOf(plan, rank, elementBytes, matrices),
  );
  return {
    phases: all,
    questions: total((cost) => cost.questions),
    bytesToWorkers: total((cost) => cost.bytesToWorkers),
    bytesToHub: total((cost) => cost.bytesToHub),
    basisBytes: memory[0]!.basis,
    memory,
    group: groupMemory(plan, elementBytes),
    products: refreshes * orderOf(plan),
  };
}

/** Whether curvature travels in a round that could adopt some: with a split, what was measured `delay` rounds before. */
export function carriesCurvature(plan: Plan, round: number): boolean {
  const split = plan.curvature?.split;
  return !split || curvatureDueAt(plan, round - split.delay);
}

/** The registers of curvature are empty in rounds without. */
function sizeWithoutCurvature(sizeOf: SizeOf): SizeOf {
  return (register, rank, iteration) =>
    register === "curvature" || register === "space" ? 0 : sizeOf(register, rank, iteration);
}

/**
 * What the cost of a plan depends on beside the plan.
 *
 * @since 0.2.0
 */
export interface CostOptions {
  /** The element type of the parameters; default float32. */
  readonly dtype?: DType;
  /** The sides of the matrices of Shampoo or K-FAC, from `matricesOf`. */
  readonly matrices?: readonly number[];
  /** The shapes of the parameter tensors, for methods that compress each; default one vector. */
  readonly shapes?: readonly (readonly number[])[];
}

function matricesIn(plan: Plan, { matrices }: CostOptions): MatrixElements | null {
  const method = preconditionedOf(plan);
  if (!method) return null;
  if (matrices) return matrixElements(plan, method, matrices);
  const problem = `the sides of the matrices of ${method.name} are not given, matrices of matricesOf are needed`;
  throw new PlanError(`Cannot price a plan: ${problem}`, [problem]);
}

/** Of a method that says itself what its steps send: all that is waited for, the background, and what is evaluated. */
function communicatingCost(plan: Plan, method: CommunicatingMethod<unknown>, dtype: DType): PlanCost {
  const { workers, parameters, rounds, localSteps } = plan;
  const elementBytes = bytesPerElement(dtype);
  const flushed = flushAfter(plan);
  const sum = {
    step: { questions: 0, sent: 0, received: 0 },
    background: { questions: 0, sent: 0, received: 0 },
  };
  for (let step = 1; step <= rounds * localSteps; step++) {
    const { sent, received } = method.stepBytes(step, workers, dtype);
    sum.step.questions += method.exchanges(step);
    sum.step.sent += sent;
    sum.step.received += received;
    if (!leavesAfter(method, step, flushed)) continue;
    const background = method.backgroundBytes!(workers, step, dtype);
    sum.background.questions++;
    sum.background.sent += background.sent;
    sum.background.received += background.received;
  }
  const evaluations = Array.from({ length: rounds }, (_, round) => evaluatesAfter(plan, round)).filter(
    Boolean,
  );
  const viewed = evaluations.length * parameters * elementBytes;
  const kept = flushed === null ? 0 : flushBytes(method, parameters, dtype);
  const phases: PhaseCost[] = [
    ["step", sum.step] as const,
    ...(method.background ? [["background", sum.background] as const] : []),
    ...(flushed === null ? [] : [["flush", { questions: 1, sent: kept, received: kept }] as const]),
    ["view", { questions: evaluations.length, sent: viewed, received: 0 }] as const,
  ].map(([name, { questions, sent, received }]) => ({
    // Of the whole run: which steps send what does not go by rounds.
    name,
    rounds: 1,
    questions,
    bytesToWorkers: workers * received,
    bytesToHub: workers * sent,
  }));
  const total = (of: (cost: PhaseCost) => number): number => phases.reduce((all, cost) => all + of(cost), 0);
  const state = method.init(zeros([parameters], { dtype }));
  const held = leaves(state);
  // Where a state has the parameters, they are counted already.
  const counted = held.includes(method.position(state)) ? parameters : 0;
  const vectors = held.reduce((n, x) => n + x.size, 0) - counted;
  const memory: WorkerMemory = {
    parameters: 2 * parameters * elementBytes,
    base: vectors * elementBytes,
    velocity: 0,
    vectors: 0,
    matrices: 0,
    agreement: 0,
    basis: 0,
  };
  return {
    phases,
    questions: total((cost) => cost.questions),
    bytesToWorkers: total((cost) => cost.bytesToWorkers),
    bytesToHub: total((cost) => cost.bytesToHub),
    basisBytes: 0,
    memory: Array.from({ length: workers }, () => memory),
    group: [],
    products: 0,
  };
}

/** Vectors like the parameters in the state of each method; of those with matrices see preconditioned_cost.ts. */
const baseVectors: Readonly<Record<Exclude<UpdateMethod["name"], "shampoo" | "kfac">, number>> = {
  sgd: 0,
  momentum: 1,
  nesterov: 1,
  adam: 2,
  adamw: 2,
};

function memoryOf(
  plan: Plan,
  rank: number,
  elementBytes: number,
  matrices: MatrixElements | null,
): WorkerMemory {
  const n = plan.parameters;
  const layout = layoutOf(plan);
  const own = layout === "columns" ? widthOf(plan, rank) : n;
  const rows = layout === "rows" ? heightOf(plan, rank) : pairsOf(plan);
  return {
    parameters: 2 * n * elementBytes,
    base:
      (matrices ? matrices.vectors : baseVectors[plan.update.name as keyof typeof baseVectors]) *
      own *
      elementBytes,
    velocity: plan.curvature ? own * elementBytes : 0,
    vectors: rows * own * elementBytes,
    matrices: matrices ? matrices.memory(rank) * elementBytes : 0,
    agreement: plan.sync.k === "gradient" ? 0 : 2 * own * elementBytes,
    basis: plan.curvature?.split ? 0 : 8 * orderOf(plan) * widthOf(plan, rank),
  };
}

/** Curvature workers have the parameters of a snapshot, and their columns of the basis. */
function groupMemory(plan: Plan, elementBytes: number): PlanCost["group"] {
  const workers = plan.curvature?.split?.workers ?? 0;
  return Array.from({ length: workers }, (_, rank) => ({
    parameters: plan.parameters * elementBytes,
    basis: 8 * orderOf(plan) * widthOf({ ...plan, workers }, rank),
  }));
}

type SizeOf = (register: string, rank: number, iteration: number) => number;

function roundCosts(plan: Plan, round: number, sizeOf: SizeOf): readonly PhaseCost[] {
  const flat = slots(roundScript(plan, round));
  const costs = new Map<string, PhaseCost>();
  flat.forEach(({ phase, repeat }, index) => {
    // The hub asks the workers to save with the last phase of a round, even when it alone has work in it.
    const isAsked = !isHubOnly(phase) || index === flat.length - 1;
    const sum = (names: readonly string[]): number => phaseBytes(plan, names, repeat, sizeOf);
    // A phase may be in the loop over steps and again in the last of them.
    const before = costs.get(phase.name);
    costs.set(phase.name, {
      name: phase.name,
      rounds: 0,
      questions: (before?.questions ?? 0) + (isAsked ? repeat : 0),
      bytesToWorkers: (before?.bytesToWorkers ?? 0) + sum(receiveNames(phase)),
      bytesToHub: (before?.bytesToHub ?? 0) + sum(repliesOf(phase)),
    });
  });
  return [...costs.values()];
}

/** What one question of a phase moves, in bytes: of all workers together, and of the one with the most. */
export interface Moved {
  readonly toWorkers: number;
  readonly toHub: number;
  readonly mostToWorker: number;
  readonly mostToHub: number;
}

/**
 * What the questions of a plan move, one by one; `carries` says whether a register of curvature has some.
 *
 * @throws {PlanError} as `planCost` does
 */
export function movedBy(
  plan: Plan,
  options: CostOptions,
): (phase: Phase, iteration: number, carries: boolean) => Moved {
  const { workers, parameters } = plan;
  const dtype = options.dtype ?? "float32";
  const method = communicatingOf(plan, options);
  if (method) {
    return (phase) => movedAlike(workers, communicated(method, phase, workers, parameters, dtype));
  }
  const sizeOf = registerSizes(plan, bytesPerElement(dtype), matricesIn(plan, options));
  const ranks = Array.from({ length: workers }, (_, rank) => rank);
  return (phase, iteration, carries) => {
    const size = carries ? sizeOf : sizeWithoutCurvature(sizeOf);
    const bytesOf = (names: readonly string[]): readonly number[] =>
      ranks.map((rank) => names.reduce((sum, name) => sum + size(name, rank, iteration), 0));
    const [down, up] = [bytesOf(receiveNames(phase)), bytesOf(repliesOf(phase))];
    const total = (bytes: readonly number[]): number => bytes.reduce((sum, own) => sum + own, 0);
    return {
      toWorkers: total(down),
      toHub: total(up),
      mostToWorker: Math.max(...down),
      mostToHub: Math.max(...up),
    };
  };
}

/** The same of the exchange in the background that begins after a step. */
export function movedBeside(plan: Plan, options: CostOptions, step: number): Moved {
  const { workers } = plan;
  const dtype = options.dtype ?? "float32";
  return movedAlike(workers, communicatingOf(plan, options)!.backgroundBytes!(workers, step, dtype));
}

const movedAlike = (workers: number, { sent, received }: Traffic): Moved => ({
  toWorkers: workers * received,
  toHub: workers * sent,
  mostToWorker: received,
  mostToHub: sent,
});

/** One worker's bytes of a phase between the steps of a method; the exchanges of a step have the same. */
function communicated(
  method: CommunicatingMethod<unknown>,
  { send = [], reply = [], worker, hub }: Phase,
  workers: number,
  parameters: number,
  dtype: DType,
): Traffic {
  const share = (step: number): Traffic => {
    const { sent, received } = method.stepBytes(step, workers, dtype);
    const count = method.exchanges(step);
    return { sent: sent / count, received: received / count };
  };
  if (send.includes("whole")) return { received: flushBytes(method, parameters, dtype), sent: 0 };
  return {
    received: send.includes("reduced") ? share(worker!.numbers![0]!).received : 0,
    sent: reply.includes("kept")
      ? flushBytes(method, parameters, dtype)
      : reply.includes("payload")
        ? share(hub!.numbers![0]!).sent
        : reply.includes("view")
          ? parameters * bytesPerElement(dtype)
          : 0,
  };
}

/** Of all in which the workers of a method differ. */
function flushBytes(method: CommunicatingMethod<unknown>, parameters: number, dtype: DType): number {
  return bytesOf(method.flush!.payload(method.init(zeros([parameters], { dtype }))));
}

function bytesOf(tree: unknown): number {
  return leaves(tree).reduce((bytes, x) => bytes + x.size * bytesPerElement(x.dtype), 0);
}

/** Bytes of the state that a worker of such a method saves; null for the others. */
export function stateBytes(plan: Plan, options: CostOptions): number | null {
  const dtype = options.dtype ?? "float32";
  const state = communicatingOf(plan, options)?.init(zeros([plan.parameters], { dtype }));
  return state === undefined ? null : bytesOf(state);
}

const repliesOf = (phase: Phase): readonly string[] => phase.reply ?? [];

function phaseBytes(plan: Plan, names: readonly string[], repeat: number, sizeOf: SizeOf): number {
  let bytes = 0;
  for (let iteration = 0; iteration < repeat; iteration++)
    for (let rank = 0; rank < plan.workers; rank++)
      for (const name of names) bytes += sizeOf(name, rank, iteration);
  return bytes;
}

/** Bytes of a register that travels; coefficients of Lanczos are float64, all else has the element type of the parameters. */
function registerSizes(plan: Plan, elementBytes: number, matrices: MatrixElements | null): SizeOf {
  const n = plan.parameters;
  const order = orderOf(plan);
  const pairs = pairsOf(plan);
  const isCutByColumns = layoutOf(plan) === "columns";
  const whole = n * elementBytes;
  // Values, residuals and one count.
  const pairBytes = 8 * pairs + 8 * pairs + 4;
  const sizes: Readonly<Record<string, (rank: number, iteration: number) => number>> = {
    theta: () => whole,
    gradient: () => whole,
    mean: (rank) => (isCutByColumns ? widthOf(plan, rank) * elementBytes : whole),
    candidate: () => whole,
    report: (rank) => (rank === 0 ? whole : 0),
    v: () => whole,
    // Who makes no product takes from its columns what the product has along the basis.
    product: (rank) =>
      plan.curvature?.reduce === "rank0" && rank !== 0 ? widthOf(plan, rank) * elementBytes : whole,
    row: (rank) => widthOf(plan, rank) * elementBytes,
    // One coefficient for each basis vector so far, and a square; of the sums, two, and a norm.
    part: (_rank, iteration) => 8 * (iteration + 1),
    numbers: (_rank, iteration) => 8 * (2 * iteration + 1),
    rows: () => 8 * pairs * order,
    pairs: () => pairBytes,
    columns: (rank) => pairs * widthOf(plan, rank) * elementBytes,
    // Whole, or of curvature workers each worker's columns.
    curvature: (rank) => pairBytes + pairs * (isCutByColumns ? widthOf(plan, rank) * elementBytes : whole),
    // Of a snapshot: a round.
    version: () => 4,
    // Values, residuals, one factor, and the worker's rates and rows.
    space: (rank) => 16 * pairs + elementBytes + heightOf(plan, rank) * (elementBytes + whole),
    inside: () => (isCutByColumns ? pairs * elementBytes : whole),
    correction: () => (isCutByColumns ? 2 * pairs * elementBytes : whole),
    own: (rank) => widthOf(plan, rank) * elementBytes,
  };
  return (register, rank, iteration) => {
    const elements = matrices?.registers[register];
    if (elements) return elements(rank) * elementBytes;
    const size = sizes[register];
    if (!size)
      throw new TypeError(
        `Cannot price register "${register}": its size is not known, an entry in the table is needed`,
      );
    return size(rank, iteration);
  };
}

function pairsOf({ curvature }: Plan): number {
  return curvature ? curvature.k + curvature.l : 0;
}

function widthOf(plan: Plan, rank: number): number {
  const [start, end] = columnsOf(plan, rank);
  return end - start;
}

function heightOf(plan: Plan, rank: number): number {
  const [start, end] = vectorRowsOf(plan, rank);
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
export function showPlan(plan: Plan, options: CostOptions = {}): string {
  const cost = planCost(plan, options);
  const ratios = achievedRatios(plan, options);
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
    `curvature   ${showCurvature(plan)}`,
    `agreement   ${showSync(plan)}`,
    ...(ratios ? [`compression ${showRatios(ratios)} achieved`] : []),
    `evaluation  ${plan.evaluateEvery > 0 ? `every ${counted(plan.evaluateEvery, "round")} and at the end` : "at the end"}`,
    `limits      ${showFields(plan.limits)}`,
    `memory      ${showMemory(cost)}`,
    "",
    `${options.dtype ?? "float32"} payload of all workers together, in each round that has the phase`,
    ...alignColumns(table),
  ].join("\n");
}

function showCurvature(plan: Plan): string {
  const { curvature } = plan;
  if (!curvature) return "none";
  const { period, warmup, order: _order, split, ...rest } = curvature;
  const when = `every ${counted(period, "round")} from round ${warmup}`;
  const by = split
    ? `by ${counted(split.workers, "curvature worker")} beside the training, adopted ${split.late === "wait" ? `${counted(split.delay, "round")} later` : "when it is there"}, `
    : "";
  return `${by}${when}, ${counted(orderOf(plan), "product")}, ${showFields(rest)}`;
}

/** Of the worker that has the most. */
function showMemory({ memory, group }: PlanCost): string {
  const sum = (parts: WorkerMemory): number => Object.values(parts).reduce((a, b) => a + b, 0);
  const { basis, ...lasting } = memory.reduce((most, own) => (sum(own) > sum(most) ? own : most));
  const parts = Object.entries(lasting).filter(([, bytes]) => bytes > 0);
  const total = parts.reduce((sum, [, bytes]) => sum + bytes, 0);
  const list = parts.map(([name, bytes]) => `${name} ${showBytes(bytes)}`).join(", ");
  const transient = basis > 0 ? `; and a basis of ${showBytes(basis)} during a refresh` : "";
  const others =
    group.length > 0
      ? `; per curvature worker parameters ${showBytes(group[0]!.parameters)} and a basis of ${showBytes(group[0]!.basis)}`
      : "";
  return `at most ${showBytes(total)} per worker: ${list}${transient}${others}`;
}

function showSync({ sync }: Plan): string {
  switch (sync.k) {
    case "gradient":
      return "mean gradient at every step";
    case "published":
      return `mean gradient at every step, extrapolation every ${counted(sync.period, "round")} with sigma ${sync.sigma}`;
    case "momentum":
      return `mean gradient at every step, extrapolation every ${counted(sync.period, "round")} with mu ${sync.mu} and gamma ${sync.gamma}`;
    case "consensus":
      if (sync.sigma === 0) return "mean of parameters after every round";
      return `consensus after every round, sigma ${sync.sigma}${sync.relative ? " of the largest eigenvalue" : ""}`;
    default: {
      const { k, ...fields } = sync;
      return `${k}, ${showFields(fields)}`;
    }
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

/** What is sent of which vectors, with four digits: `updates 1 : 1008, errors 1 : 128`. */
export function showRatios(ratios: Readonly<Record<string, number>>): string {
  return Object.entries(ratios)
    .map(([of, ratio]) => `${of} 1 : ${Number(ratio.toPrecision(4))}`)
    .join(", ");
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
