/** How the program ends: by itself, or by Ctrl-C. */
import type { ProgressLine } from "./progress_line.ts";

/** Exit codes: done, failed, wrong usage, stopped by Ctrl-C. */
export const exitCodes = { done: 0, failed: 1, usage: 2, interrupted: 130 } as const;

/** Ctrl-C: the first lets the round finish, the second ends at once. */
export function interruption(line: ProgressLine): { readonly signal: AbortSignal; release(): void } {
  const controller = new AbortController();
  const onSignal = (): void => {
    if (controller.signal.aborted) process.exit(exitCodes.interrupted);
    line.note("finishing this round, then stopping; press Ctrl-C again to stop at once");
    controller.abort();
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
  return {
    signal: controller.signal,
    release() {
      process.off("SIGINT", onSignal);
      process.off("SIGTERM", onSignal);
    },
  };
}
