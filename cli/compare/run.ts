/** One run of one method on one task with one learning rate, to the end of its budget. */
import { jit } from "../../autodiff/jit.ts";
import { bytesPerElement } from "../../core/dtype.ts";
import type { Params } from "../../core/nn.ts";
import { adopt, placed } from "../../core/trace.ts";
import { leaves, map } from "../../core/tree.ts";
import { Tensor, type Value } from "../../core/value.ts";
import type { Batch, Evaluation, Problem, Target } from "./task.ts";

/** What a method carries from step to step. */
export interface Carry {
  readonly params: Params;
  readonly state: unknown;
}

/** After a step. */
export interface Stepped extends Carry {
  /** On the batch of the step, before it. */
  readonly loss: Value;
  /** What the step cost beyond its gradient, in gradients of a batch of the step's size; see `PRODUCT_GRADIENTS`. */
  readonly extraGradients: number;
}

/**
 * A method on a problem: a pure function from carry to carry, so that a first call can be made only to compile it. The carry
 * of a step is given up: what it holds may be overwritten.
 */
export interface Stepper {
  init(params: Params): unknown;
  step(carry: Carry, index: number, batch: Batch): Stepped;
  /** Does once, for nothing, what no first step does: so that it is compiled before time counts. */
  warm?(carry: Carry): void;
}

/** How long a run is, in which unit. */
export interface Budget {
  readonly unit: "wall" | "gradients" | "steps";
  readonly amount: number;
}

/** One evaluation. Evaluations are in no time and no budget. */
export interface Point {
  readonly step: number;
  /** Gradients of one batch, or what cost as much. */
  readonly gradients: number;
  readonly seconds: number;
  /** Mean over the steps since the last point; null at the start. */
  readonly trainLoss: number | null;
  readonly loss: number;
  readonly accuracy: number | null;
}

/** A finished run. */
export interface Outcome {
  readonly points: readonly Point[];
  /** Index of the first point that is as good as the target. */
  readonly reached: number | null;
  readonly ended: "budget" | "target" | "diverged";
  /** Seconds of the first step beyond those of the second: recording and compiling. */
  readonly compileSeconds: number;
  /** Elements of the method's state. */
  readonly stateBytes: number;
  /** Largest resident memory of the process so far. */
  readonly peakBytes: number;
}

export interface RunOptions {
  readonly budget: Budget;
  /** Evaluations at equal parts of the budget. */
  readonly evaluations: number;
  /** Ends at the target rather than with the budget. */
  readonly stopsAtTarget: boolean;
  onPoint?(point: Point, fraction: number): void;
}

/** Runs to the end of the budget, to the target, or until the loss is no number. */
export function runOnce(problem: Problem, stepper: Stepper, options: RunOptions): Outcome {
  const { budget, evaluations, stopsAtTarget, onPoint } = options;
  let carry: Carry = copied({ params: problem.initial, state: stepper.init(problem.initial) });
  const compileSeconds = compileTime(problem, stepper, carry);
  const points: Point[] = [];
  let [step, gradients, seconds] = [0, 0, 0];
  let [lossSum, lossCount] = [0, 0];
  const used = (): number => ({ wall: seconds, gradients, steps: step })[budget.unit] / budget.amount;
  let reached: number | null = null;
  /** One point more, unless the loss is no number. */
  const evaluate = (): boolean => {
    const found = problem.evaluate(carry.params);
    if (!Number.isFinite(found.loss)) return false;
    const trainLoss = lossCount > 0 ? lossSum / lossCount : null;
    [lossSum, lossCount] = [0, 0];
    const point: Point = { step, gradients, seconds, trainLoss, ...found };
    if (reached === null && isReached(found, problem.target)) reached = points.length;
    points.push(point);
    onPoint?.(point, Math.min(1, used()));
    return true;
  };
  const finish = (ended: Outcome["ended"]): Outcome => ({
    points,
    reached,
    ended,
    compileSeconds,
    stateBytes: bytesOf(carry.state),
    peakBytes: process.resourceUsage().maxRSS * 1024,
  });

  if (!evaluate()) return finish("diverged");
  for (let next = 1; used() < 1; ) {
    const started = performance.now();
    const { params, state, loss, extraGradients } = stepper.step(carry, step, problem.batch(step));
    const value = loss.item();
    seconds += (performance.now() - started) / 1000;
    step++;
    gradients += 1 + extraGradients;
    lossSum += value;
    lossCount++;
    if (!Number.isFinite(value)) return finish("diverged");
    carry = { params, state };
    if (used() * evaluations < next) continue;
    next = Math.floor(used() * evaluations) + 1;
    if (!evaluate()) return finish("diverged");
    if (stopsAtTarget && reached !== null) return finish("target");
  }
  return finish("budget");
}

/** Whether an evaluation is as good as the target. */
export function isReached({ loss, accuracy }: Evaluation, { metric, value }: Target): boolean {
  return metric === "loss" ? loss <= value : (accuracy ?? Number.NEGATIVE_INFINITY) >= value;
}

/** Makes the first step twice, for nothing: what the second does not take is the time of compiling. */
function compileTime(problem: Problem, stepper: Stepper, carry: Carry): number {
  const timed = (): number => {
    const started = performance.now();
    stepper.step(copied(carry), 0, problem.batch(0)).loss.item();
    stepper.warm?.(carry);
    return (performance.now() - started) / 1000;
  };
  const first = timed();
  return Math.max(0, first - timed());
}

/** The same in memory of its own. */
function copied(carry: Carry): Carry {
  return map(
    (x) => (x instanceof Tensor ? placed(adopt(x.dataSync(), x.shape, x.dtype), x.device) : x),
    carry,
  );
}

/** Bytes of the tensors of a tree; what is no tensor counts nothing. */
export function bytesOf(tree: unknown): number {
  return leaves(tree)
    .filter((x) => x instanceof Tensor)
    .reduce((sum, x) => sum + x.size * bytesPerElement(x.dtype), 0);
}

/** A loss compiled once, for operators and line searches that call it themselves. */
export function compiledLoss(problem: Problem): (params: Params, batch: Batch) => Value {
  return jit((params: Params, batch: Batch) => problem.loss(params, batch));
}
