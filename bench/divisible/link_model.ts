/** What methods send, by their own formulas, and how long steps would take on a slow link. */
import type { CommunicatingMethod } from "../../dist/compress/method.ts";

/** Bytes that one worker sends and receives in some steps. */
export interface Traffic {
  /** Steps wait for these. */
  readonly foreground: number;
  /** Nobody waits for these. */
  readonly background: number;
  readonly steps: number;
}

/** Of steps `first` to `last`, counted from 1. */
export function trafficOf(
  method: CommunicatingMethod<unknown>,
  workers: number,
  first: number,
  last: number,
): Traffic {
  let [foreground, background] = [0, 0];
  for (let step = first; step <= last; step++) {
    const waited = method.stepBytes(step, workers);
    foreground += waited.sent + waited.received;
    if (!method.background?.beginsAfter(step)) continue;
    const aside = method.backgroundBytes!(workers, step);
    background += aside.sent + aside.received;
  }
  return { foreground, background, steps: last - first + 1 };
}

/**
 * How many times faster than with dense exchanges, where messages of a dense step, `denseBytes`, take `boundness` times as
 * long as its computation.
 *
 * Time goes with bytes, latency is 0. The computation of a step takes 1, what it waits for f, its part of the background b.
 * Foreground and background share the link, which the background has while nothing is waited for: a step takes
 * `f + max(1, b)`, and a dense one `1 + boundness`.
 */
export function modelledSpeedup(
  { foreground, background, steps }: Traffic,
  denseBytes: number,
  boundness: number,
): number {
  const timeOf = (bytes: number): number => (boundness * bytes) / (denseBytes * steps);
  return (1 + boundness) / (timeOf(foreground) + Math.max(1, timeOf(background)));
}
