/** What is seen of a federated run while it goes on: its line, its curve and its times. */
import { scoresOfPhase } from "../../dist/federated/jobs.ts";
import { showBytes } from "../../dist/plan_cost.ts";
import type { Progress } from "../../dist/runtime/driver.ts";
import { type ProgressLine, secondsText } from "../progress_line.ts";
import type { RoundMetric } from "./files.ts";
import { percent } from "./remarks.ts";
import type { OpenedRun } from "./run.ts";
import type { Accuracies, FederatedSummary, Measured } from "./summary.ts";

/** What is seen of a run. */
export interface Recorder {
  take(progress: Progress): void;
  times(): Pick<FederatedSummary, "seconds" | "endSeconds" | "curve">;
  /** Rounds that are complete. */
  rounds(): number;
  /** No more is shown. */
  end(): void;
}

/** How often the line is drawn while nothing is heard of the run, in milliseconds. */
const TICK_MS = 1000;

/**
 * Draws the line of a run, and keeps its curve and times. What was measured of a round is written just before the round is
 * saved: whenever the program is killed, at least the rounds that a resumed run will not repeat are known.
 *
 * @param before the rounds that the run is resumed after
 */
export function recorderOf(
  { config, plan, methods }: Pick<OpenedRun, "config" | "plan" | "methods">,
  line: ProgressLine,
  before: readonly RoundMetric[],
  write: (metric: RoundMetric) => void,
): Recorder {
  const { method } = methods;
  const measured = [...before];
  const newest = before.at(-1);
  let done = newest === undefined ? 0 : newest.round + 1;
  let seconds = newest?.seconds ?? 0;
  // Only a run that has come to this end has taken the time for it.
  let endSeconds = done === plan.rounds ? (newest?.endSeconds ?? 0) : 0;
  let present = 0;
  /** Bytes of all clients after each round: a round that is done again after a fault counts once. */
  const bytesAfter: number[] = [];
  let bytes = newest?.bytes ?? 0;
  let last = performance.now();
  let accuracy = "";
  let evaluated: Pick<RoundMetric, "global" | "personal"> = {};
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
  let isFirst = true;
  return {
    take(progress) {
      if (progress.k !== "progress") return;
      const { phase, round, hub, isLast } = progress;
      if (phase === "broadcast") {
        // What comes before the first round is the start of processes.
        if (isFirst) lap();
        isFirst = false;
        doing = "training";
        evaluated = {};
        return;
      }
      if (phase === "prepare") {
        doing = round < plan.rounds - 1 ? "evaluating" : endOf(methods);
        return;
      }
      done = round + 1;
      if (phase === "train") {
        seconds += lap();
        present = hub[0]!;
        const { received, sent } = method.bytes(round);
        bytesAfter[round] ??= bytes;
        bytes = bytesAfter[round] + present * (received + sent);
        bytesAfter[done] = bytes;
      }
      const scores = scoresOfPhase(phase, hub);
      if (scores) {
        const spent = lap();
        if (phase === "finish") {
          endSeconds += spent;
          bytes = bytesAfter[done]! + plan.clients * method.bytes(plan.rounds).received;
        }
        const share = (right: number): number | null =>
          scores.examples > 0 && Number.isFinite(right) ? right / scores.examples : null;
        evaluated = { global: share(scores.global), personal: share(scores.personal) };
        const { global, personal } = evaluated as Accuracies;
        accuracy = `accuracy ${percent(global)}${personal === null ? "" : `, own models ${percent(personal)}`}`;
      }
      // Done again, it is what it was.
      if (isLast && round > (measured.at(-1)?.round ?? -1)) {
        const metric = {
          ...{ round, clients: present, seconds, bytes: bytesAfter[done]!, ...evaluated },
          ...(phase === "finish" && { endSeconds }),
        };
        measured.push(metric);
        write(metric);
      }
      show();
    },
    times: () => ({ seconds, endSeconds, curve: measured.flatMap(pointOf) }),
    rounds: () => measured.length,
    end: () => clearInterval(timer),
  };
}

/** The point of a curve, where models were evaluated. What a client reaches alone is known at the end only. */
function pointOf({ round, seconds, global, personal = null }: RoundMetric): readonly Measured[] {
  return global === undefined ? [] : [{ rounds: round + 1, seconds, global, personal, alone: null }];
}

/** What is done after the last round. */
function endOf({ method, alone }: OpenedRun["methods"]): string {
  const models = [...(method.personalize ? ["own models"] : []), ...(alone ? ["each alone"] : [])];
  return models.length === 0 ? "evaluating" : `last come ${models.join(" and ")}`;
}
