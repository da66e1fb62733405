/**
 * A line search for the strong Wolfe conditions: enough decrease, and a slope much smaller than at the start. First steps
 * grow until a bracket holds such a point, then the bracket shrinks onto it; both by the minimum of a cubic.
 */
import type { Value } from "../core/value.ts";

/** A function along a line, at one step. */
export interface LinePoint {
  /** Multiple of the direction. */
  readonly step: number;
  readonly value: number;
  /** Derivative along the direction. */
  readonly slope: number;
  readonly gradient: Value;
}

/** When a line search is satisfied, and when it gives up. */
export interface WolfeOptions {
  /** c1: the decrease must be at least this part of what the slope at the start promises. */
  readonly decrease: number;
  /** c2: the slope must shrink to this part of that at the start. */
  readonly curvature: number;
  /** Evaluations at most, beyond the first. */
  readonly most: number;
  /** Brackets narrower than this are left as they are. */
  readonly narrowest: number;
}

/** Both ends of an interval with acceptable steps inside; at `low` the function is smaller. */
interface Bracket {
  readonly low: LinePoint;
  readonly high: LinePoint;
}

/** The point found, and what was spent. */
export interface LineResult {
  readonly point: LinePoint;
  readonly evaluations: number;
}

/** A step with the strong Wolfe conditions; where evaluations run out, the lowest point seen in the bracket. */
export function wolfeSearch(
  evaluate: (step: number) => LinePoint,
  start: LinePoint,
  firstStep: number,
  options: WolfeOptions,
): LineResult {
  const { decrease, curvature, most } = options;
  // f(t) <= f(0) + c1 t f'(0); a value that is not a number is no decrease.
  const isDecrease = ({ step, value }: LinePoint): boolean =>
    value <= start.value + decrease * step * start.slope;
  // |f'(t)| <= c2 |f'(0)|
  const isFlat = ({ slope }: LinePoint): boolean => Math.abs(slope) <= -curvature * start.slope;
  let previous = start;
  let point = evaluate(firstStep);
  for (let spent = 0; spent < most; spent++) {
    const isHigher = spent > 0 && point.value >= previous.value;
    if (!isDecrease(point) || isHigher || (!isFlat(point) && point.slope >= 0))
      return shrink(ordered(previous, point), { evaluate, isDecrease, isFlat, spent, options });
    if (isFlat(point)) return { point, evaluations: spent + 1 };
    const next = cubicMinimum(
      previous,
      point,
      point.step + 0.01 * (point.step - previous.step),
      10 * point.step,
    );
    previous = point;
    point = evaluate(next);
  }
  return { point: ordered(start, point).low, evaluations: most + 1 };
}

function ordered(a: LinePoint, b: LinePoint): Bracket {
  return a.value <= b.value || !Number.isFinite(b.value) ? { low: a, high: b } : { low: b, high: a };
}

interface Search {
  readonly evaluate: (step: number) => LinePoint;
  readonly isDecrease: (point: LinePoint) => boolean;
  readonly isFlat: (point: LinePoint) => boolean;
  readonly spent: number;
  readonly options: WolfeOptions;
}

/** Shrinks a bracket until a point of it has both conditions. */
function shrink(bracket: Bracket, search: Search): LineResult {
  const { evaluate, isDecrease, isFlat, options } = search;
  let { low, high } = bracket;
  let wasNearEnd = false;
  let { spent } = search;
  while (spent < options.most && Math.abs(high.step - low.step) >= options.narrowest) {
    const [left, right] = [Math.min(low.step, high.step), Math.max(low.step, high.step)];
    const proposed = cubicMinimum(low, high, left, right);
    const margin = 0.1 * (right - left);
    const isNearEnd = Math.min(right - proposed, proposed - left) < margin;
    // A second proposal near an end, or one at an end, is moved inside: else the bracket hardly shrinks.
    const isMoved: boolean = isNearEnd && (wasNearEnd || proposed >= right || proposed <= left);
    wasNearEnd = isNearEnd && !isMoved;
    const inside = right - proposed < proposed - left ? right - margin : left + margin;
    const point: LinePoint = evaluate(isMoved ? inside : proposed);
    spent++;
    if (!isDecrease(point) || point.value >= low.value) {
      const next: Bracket = ordered(low, point);
      low = next.low;
      high = next.high;
    } else {
      if (isFlat(point)) return { point, evaluations: spent + 1 };
      // The minimum is on the side where the slope goes down from the new low point.
      if (point.slope * (high.step - low.step) >= 0) high = low;
      low = point;
    }
  }
  return { point: low, evaluations: spent + 1 };
}

/** Where the cubic through two values and slopes has its minimum, kept in an interval; its middle where there is none. */
function cubicMinimum(a: LinePoint, b: LinePoint, least: number, most: number): number {
  const [x, y] = a.step <= b.step ? [a, b] : [b, a];
  const d1 = x.slope + y.slope - (3 * (x.value - y.value)) / (x.step - y.step);
  const square = d1 * d1 - x.slope * y.slope;
  if (!(square >= 0 && square < Infinity)) return (least + most) / 2;
  const d2 = Math.sqrt(square);
  const minimum = y.step - ((y.step - x.step) * (y.slope + d2 - d1)) / (y.slope - x.slope + 2 * d2);
  return Number.isNaN(minimum) ? (least + most) / 2 : Math.min(Math.max(minimum, least), most);
}
