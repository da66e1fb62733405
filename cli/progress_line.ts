/** The live line of a run: rewritten in place on a terminal, a new line every few seconds elsewhere. */

import { showBytes } from "../dist/plan_cost.ts";

/** What the line shows. */
export interface ProgressNumbers {
  readonly step: number;
  readonly steps: number;
  readonly loss: number;
  readonly accuracy: number;
  readonly stepsPerSecond: number;
  readonly bytesSent: number;
  /** Those of them that nobody waits for, and the part of the time that all wait; null where there is no such thing. */
  readonly backgroundBytes?: number | null;
  readonly exposed?: number | null;
  /** Steps since the curvature was refreshed; null for methods without. */
  readonly curvatureAge: number | null;
  readonly secondsLeft: number;
}

/** The text of the line. */
export function progressText(p: ProgressNumbers): string {
  const { backgroundBytes = null, exposed = null } = p;
  // The most important first: a narrow terminal cuts the end off.
  const parts = [
    `step ${p.step}/${p.steps}`,
    `loss ${p.loss.toFixed(4)}`,
    `accuracy ${(100 * p.accuracy).toFixed(1)}%`,
    `${secondsText(p.secondsLeft)} left`,
    `${p.stepsPerSecond.toFixed(1)} steps/s`,
    `sent ${showBytes(p.bytesSent - (backgroundBytes ?? 0))}`,
    ...(backgroundBytes === null ? [] : [`${showBytes(backgroundBytes)} in the background`]),
    ...(exposed === null ? [] : [`waiting ${(100 * exposed).toFixed(0)}%`]),
    ...(p.curvatureAge === null ? [] : [`curvature ${p.curvatureAge} steps old`]),
  ];
  return parts.join("  ");
}

/** 1 min 5 s */
export function secondsText(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** Where the line is drawn. */
export interface ProgressLine {
  show(text: string): void;
  /** Prints text above the line. */
  note(text: string): void;
  end(): void;
}

export function progressLine(stream: NodeJS.WriteStream): ProgressLine {
  const isTerminal = stream.isTTY === true;
  let last = Number.NEGATIVE_INFINITY;
  let waiting = "";
  // A line that is wider than the terminal would wrap, and only its last row could be rewritten.
  const redraw = (text: string): boolean =>
    stream.write(`\r\u001b[2K${text.slice(0, (stream.columns || 80) - 1)}`);
  return {
    show(text) {
      const now = performance.now();
      if (now - last < (isTerminal ? 100 : 2000)) {
        waiting = text;
        return;
      }
      last = now;
      waiting = "";
      if (isTerminal) redraw(text);
      else stream.write(`${text}\n`);
    },
    note(text) {
      stream.write(isTerminal ? `\r\u001b[2K${text}\n` : `${text}\n`);
    },
    end() {
      if (isTerminal) {
        if (waiting !== "") redraw(waiting);
        stream.write("\n");
      } else if (waiting !== "") stream.write(`${waiting}\n`);
      waiting = "";
    },
  };
}
