/** All workers of a method in one process and in step: what a run on many machines computes, bit by bit. */
import { bytesPerElement, type DType } from "../../core/dtype.ts";
import { leaves } from "../../core/tree.ts";
import type { Value } from "../../core/value.ts";
import { meanOf } from "../../optim/admm.ts";
import { gradientProblem, probeOf } from "./finite.ts";
import type { BackgroundExchange, CommunicatingMethod, Payload, Traffic } from "./method.ts";

/**
 * The traffic of one worker that steps wait for, and the one that nobody waits for.
 *
 * @since 0.2.0
 */
export interface TrafficByWait {
  readonly foreground: Traffic;
  readonly background: Traffic;
}

/**
 * Where a run stands.
 *
 * @since 0.2.0
 */
export interface TogetherPoint<S> {
  /** By rank. */
  readonly states: readonly S[];
  /** How many steps are done. */
  readonly steps: number;
}

/**
 * A run of all workers in one process.
 *
 * @since 0.2.0
 */
export interface Together<S> extends TogetherPoint<S> {
  /**
   * One step of all workers; the gradient of each is asked for in the order of ranks.
   *
   * @throws {RangeError} if an element of a gradient on the host is not finite; names the worker, and the tensor where the method
   * knows it
   */
  step(gradients: (rank: number, position: Value) => Value): void;
  /** The parameters that are evaluated and saved: the mean of the workers' views. Shapes: `[n]`. */
  view(): Value;
  /** Averages what differs between workers; what is under way in the background is left. */
  flush(): void;
  /** Loses what is under way in the background; every worker makes of its state what `takeBack` says. */
  lose(takeBack: (state: S) => S): void;
  /** Whether something is under way in the background. */
  readonly isOpen: boolean;
  /** Of one worker, by the formulas of the method. */
  readonly bytes: TrafficByWait;
  /** The same, counted from the payloads: of the worker that sent most. */
  readonly counted: TrafficByWait;
}

/**
 * Runs all workers of a method in one process.
 *
 * A step asks every worker for its gradient at its own position, then makes the exchanges in the order of the protocol;
 * results of the background are taken at the steps that the method says.
 *
 * Shapes: `theta` is `[n]`.
 * Determinism: same bits for same inputs; reductions are in the order of ranks.
 *
 * @param workers how many, or the point from which a run goes on
 * @throws {RangeError} if there is not at least one worker, or the states are of another number of workers that differ
 * @example Two workers, the mean of their gradients
 * ```ts
 * const method = ct.dist.divAdam({ shapes: [[2]], ratio: 1, learningRate: 0.1 });
 * const run = ct.dist.together(method, ct.tensor([0, 0]), 2);
 * run.step((rank) => ct.tensor(rank === 0 ? [3, -1] : [1, -1]));
 * assertClose(run.view(), [-0.1, 0.1], 1e-6);
 * ```
 * @since 0.2.0
 */
export function together<S>(
  method: CommunicatingMethod<S>,
  theta: Value,
  workers: number | TogetherPoint<S>,
): Together<S> {
  const start: TogetherPoint<S> =
    typeof workers === "number" ? { states: fresh(method, theta, workers), steps: 0 } : workers;
  if (start.states.length === 0)
    throw new RangeError("Cannot run workers together: there are 0, at least 1 is needed");
  const { background } = method;
  const count = start.states.length;
  const among = start.states.map((state) => method.workersOf?.(state) ?? count).find((k) => k !== count);
  if (among !== undefined)
    throw new RangeError(
      `Cannot run workers together: there are ${count} states, of ${among} workers that differ, as many or a flush before are needed`,
    );
  const bytes = { foreground: { sent: 0, received: 0 }, background: { sent: 0, received: 0 } };
  const counted = { foreground: { sent: 0, received: 0 }, background: { sent: 0, received: 0 } };
  let { states, steps } = start;
  // A worker that comes back sends again what its state still has.
  let underWay: UnderWay | null = null;
  const begin = (step: number): void => {
    if (underWay !== null)
      throw new Error(
        `Cannot begin a background exchange of ${method.name} after step ${step}: the one of step ${underWay.begun} is under way, at most 1 is allowed`,
      );
    underWay = background ? { begun: step, payloads: states.map((s) => background.payload(s)) } : null;
  };
  const open = background ? begunBefore(background, steps) : null;
  if (open !== null) begin(open);

  /** The result of the background exchange that ends at this step. */
  const arrivedAt = (step: number): Payload | null => {
    if (!background?.endsAt(step) || underWay === null) return null;
    const result = background.reduce(underWay.payloads);
    counted.background.received += payloadBytes(result);
    bytes.background.received += formulaAt(underWay.begun).received;
    underWay = null;
    return result;
  };
  // Methods that know more count for this element type, and for the exchange that begins after a step.
  const stepBytes: (step: number, workers: number, dtype: DType) => Traffic = method.stepBytes;
  const backgroundBytes: ((workers: number, step: number, dtype: DType) => Traffic) | undefined =
    method.backgroundBytes;
  const formulaAt = (step: number): Traffic =>
    backgroundBytes?.(count, step, theta.dtype) ?? { sent: 0, received: 0 };

  const checkedGradient = (gradient: Value, rank: number, step: number): Value => {
    // A step waits for no other device: some hosts cannot, and others take longer for it than for the step.
    const isFine = gradient.device !== "cpu" || Number.isFinite(probeOf(gradient).item());
    const problem = isFine ? null : gradientProblem(gradient, rank, method.tensors);
    if (problem === null) return gradient;
    throw new RangeError(`Cannot take step ${step} of ${method.name}: ${problem}`);
  };

  return {
    get states() {
      return states;
    },
    get steps() {
      return steps;
    },
    get isOpen() {
      return underWay !== null;
    },
    bytes,
    counted,
    step(gradients) {
      const step = steps + 1;
      const at = (rank: number | null) => ({ step, rank, workers: count });
      const own = states.map((state, rank) =>
        checkedGradient(gradients(rank, method.position(state)), rank, step),
      );
      const arrived = arrivedAt(step);
      let answers = states.map((state, rank) => method.begin(state, own[rank]!, arrived, at(rank)));
      const exchanges = method.exchanges(step);
      for (let index = 0; index < exchanges; index++) {
        const payloads = answers.map(([, payload]) => payload);
        counted.foreground.sent += Math.max(...payloads.map(payloadBytes));
        const reduced = method.reduce(payloads, index, at(null));
        counted.foreground.received += payloadBytes(reduced);
        answers = answers.map(([state], rank) => method.next(state, reduced, index, at(rank)));
      }
      const formula = stepBytes(step, count, theta.dtype);
      bytes.foreground.sent += formula.sent;
      bytes.foreground.received += formula.received;
      states = answers.map(([state]) => state);
      steps = step;
      if (background?.beginsAfter(step)) {
        begin(step);
        counted.background.sent += Math.max(...underWay!.payloads.map(payloadBytes));
        bytes.background.sent += formulaAt(step).sent;
      }
    },
    view: () => meanOf(states.map((state) => method.view(state))),
    flush() {
      const { flush } = method;
      if (!flush)
        throw new Error(`Cannot flush ${method.name}: it has no flush, a method with one is needed`);
      const reduced = flush.reduce(states.map((state) => flush.payload(state)));
      states = states.map((state) => flush.apply(state, reduced));
      underWay = null;
    },
    lose(takeBack) {
      underWay = null;
      states = states.map((state) => takeBack(state));
    },
  };
}

interface UnderWay {
  readonly begun: number;
  readonly payloads: readonly Payload[];
}

function fresh<S>(method: CommunicatingMethod<S>, theta: Value, workers: number): S[] {
  return Array.from({ length: workers }, () => method.init(theta));
}

/** The step in which the background exchange began that is under way after this one, null where there is none. */
function begunBefore<S>(background: BackgroundExchange<S>, step: number): number | null {
  for (let s = step; s > 0; s--) {
    if (background.beginsAfter(s)) return s;
    if (background.endsAt(s)) return null;
  }
  return null;
}

function payloadBytes(payload: Payload): number {
  if (payload === null) return 0;
  return leaves(payload).reduce((total, x) => total + x.size * bytesPerElement(x.dtype), 0);
}
