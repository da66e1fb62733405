/** What is seen of a federated run while it goes on: its line, its curve and its times. */
import { scoresOfPhase } from "../../dist/federated/jobs.ts";
import { showBytes } from "../../dist/plan_cost.ts";
import type { Progress } from "../../dist/runtime/driver.ts";
import { type ProgressLine, secondsText } from "../progress_line.ts";
import { percent } from "./page.ts";
import type { OpenedRun } from "./run.ts";
import type { FederatedSummary, Measured } from "./summary.ts";

/** What is seen of a run. */
export interface Recorder {
  take(progress: Progress): void;
  times(): Pick<FederatedSummary, "seconds" | "endSeconds" | "curve">;
  /** No more is shown. */
  end(): void;
}

/** How often the line is drawn while nothing is heard of the run, in milliseconds. */
const TICK_MS = 1000;

/** Draws the line of a run, and keeps its curve and times. */
export function recorderOf(
  { config, plan, methods }: Pick<OpenedRun, "config" | "plan" | "methods">,
  line: ProgressLine,
): Recorder {
  const { method } = methods;
  let curve: readonly Measured[] = [];
  let [seconds, endSeconds] = [0, 0];
  /** Bytes of all clients after each round: a round that is done again after a fault counts once. */
  const bytesAfter = [0];
  let bytes = 0;
  let last = performance.now();
  let accuracy = "";
  let done = 0;
  let doing = config.runtime === "local" ? "" : "starting processes";
  const lap = (): number => {
    const before = last;
    last = performance.now();
    return (last - before) / 1000;
  };
  const idle = (): number => (performance.now() - last) / 1000;
  const show = (): void => {
    const since = idle();
    line.show(
      [
        `round ${done}/${plan.rounds}`,
        ...(accuracy === "" ? [] : [accuracy]),
        ...(since < 2 || doing === "" ? [] : [`${doing}: ${secondsText(since)}`]),
        ...(done === 0 || done === plan.rounds
          ? []
          : [`rounds over in ${secondsText((seconds / done) * (plan.rounds - done))}`]),
        `clients got and sent ${showBytes(bytes)}`,
      ].join("  "),
    );
  };
  // The first round and the end may be long, and say nothing until they are over.
  const timer = setInterval(() => idle() >= 2 && show(), TICK_MS);
  return {
    take(progress) {
      if (progress.k !== "progress") return;
      const { phase, round, hub } = progress;
      if (phase === "broadcast") {
        // What comes before the first round is the start of processes.
        if (round === 0) lap();
        doing = "training";
        return;
      }
      if (phase === "prepare") {
        doing = round < plan.rounds - 1 ? "evaluating" : endOf(methods);
        return;
      }
      done = round + 1;
      if (phase === "train") {
        seconds += lap();
        const { received, sent } = method.bytes(round);
        bytes = bytesAfter[round]! + hub[0]! * (received + sent);
        bytesAfter[done] = bytes;
      }
      const scores = scoresOfPhase(phase, hub);
      if (scores) {
        const spent = lap();
        if (phase === "finish") {
          endSeconds += spent;
          const own = method.personalize ? method.bytes(plan.rounds).received : 0;
          bytes = bytesAfter[done]! + plan.clients * own;
        }
        const share = (right: number): number | null =>
          scores.examples > 0 && Number.isFinite(right) ? right / scores.examples : null;
        const [global, personal] = [share(scores.global), share(scores.personal)];
        // What a client reaches alone is known at the end only: no curve.
        const measured = { rounds: done, seconds, global, personal, alone: null };
        curve = [...curve.filter(({ rounds }) => rounds < done), measured];
        accuracy = `accuracy ${percent(global)}${personal === null ? "" : `, own models ${percent(personal)}`}`;
      }
      show();
    },
    times: () => ({ seconds, endSeconds, curve }),
    end: () => clearInterval(timer),
  };
}

/** What is done after the last round. */
function endOf({ method, alone }: OpenedRun["methods"]): string {
  const models = [...(method.personalize ? ["own models"] : []), ...(alone ? ["each alone"] : [])];
  return models.length === 0 ? "evaluating" : `last come ${models.join(" and ")}`;
}
