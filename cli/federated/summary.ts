/** summary.json of a federated run. */
import type { AflServer } from "../../dist/federated/afl.ts";
import { type ClientOutcome, federatedOutcome } from "../../dist/federated/jobs.ts";
import { type ClientBytes, federatedBytes } from "../../dist/federated/plan.ts";
import type { ModelFiles } from "./files.ts";
import { deviationOf } from "./forgotten.ts";
import { MASKED_BITS } from "./methods.ts";
import { joinedByRound, revealedKeys } from "./presence.ts";
import type { FederatedResult, OpenedRun, WireBytes } from "./run.ts";

/** Fractions right, by whose model; null where there is none. */
export interface Accuracies {
  readonly global: number | null;
  readonly personal: number | null;
  readonly alone: number | null;
}

/** Accuracies over all test examples after a round, and the seconds of training until then, without evaluations. */
export interface Measured extends Accuracies {
  readonly rounds: number;
  readonly seconds: number;
}

/** One client; `formula` are the bytes that the method's formula gives, beside those that were counted. */
export interface ClientSummary extends ClientOutcome {
  readonly trainExamples: number;
  readonly formula: ClientBytes;
  /** Where its own model is, in the directory of the run; null if it has none. */
  readonly model: string | null;
}

/** What came of clients that left. */
export interface Forgotten {
  readonly clients: readonly number[];
  /** Fractions of all test examples that are right. */
  readonly before: number | null;
  readonly after: number | null;
  /** How far the weights are from those fitted without them, as a fraction of the largest. */
  readonly deviation: number;
}

/** What masks did to sums. */
export interface MaskedSums {
  readonly fractionBits: number;
  /** How far a number of a sum of all clients is from that without masks, at most, beside the rounding of float64. */
  readonly sumRounding: number;
  /** Keys of pairs that were revealed to remove masks of clients that were away. */
  readonly revealedKeys: number;
}

/** Sizes in bytes, times in seconds. */
export interface FederatedSummary {
  readonly task: string;
  readonly method: string;
  readonly partition: string;
  readonly workers: number;
  readonly rounds: number;
  /** Training, without evaluations. */
  readonly seconds: number;
  /** After the last round: own models, models alone, evaluation. */
  readonly endSeconds: number;
  /** Over all test examples that clients have, after the last evaluation. */
  readonly accuracy: Accuracies;
  /** The mean over clients that have test examples. */
  readonly clientMean: Accuracies;
  /** Clients that could not be trained alone; they do not count in what each reaches alone. */
  readonly notAlone: number;
  /** Where the model of all is, in the directory of the run; null if it is not whole. */
  readonly model: string | null;
  /** The clients that came in each round, where they come once; else null. */
  readonly joined: readonly (readonly number[])[] | null;
  /** Null if nobody is to leave, or has not yet. */
  readonly forgotten: Forgotten | null;
  readonly masked: MaskedSums | null;
  readonly wire: WireBytes | null;
  readonly peakMemoryBytes: number;
  readonly seed: number;
  /** Whether all rounds are done, or the run was stopped. */
  readonly complete: boolean;
  readonly curve: readonly Measured[];
  readonly clients: readonly ClientSummary[];
}

/** What a run has come to. */
export function summaryOf(
  opened: OpenedRun,
  result: FederatedResult,
  times: Pick<FederatedSummary, "seconds" | "endSeconds" | "curve">,
  files: ModelFiles,
): FederatedSummary {
  const { config, plan, methods, shares } = opened;
  const complete = result.reason === "finished";
  const leaving = result.round === plan.rounds ? plan.leaving : [];
  const formula = complete
    ? federatedBytes(plan, methods.method)
    : federatedBytes({ ...plan, rounds: result.round, leaving }, methods.method).map((bytes) => ({
        ...bytes,
        receivedAtEnd: 0,
      }));
  const clients = federatedOutcome(plan, result).clients.map((client, i) => ({
    trainExamples: shares.train[i]!.length,
    ...client,
    formula: formula[i]!,
    model: files.clients[i]!,
  }));
  const accuracy = accuraciesOf(clients, ({ testExamples }) => testExamples);
  const before = times.curve.find(({ rounds }) => rounds === plan.rounds - 1)?.global ?? null;
  return {
    task: config.data,
    method: methods.method.name,
    partition: config.partition,
    workers: config.workers,
    rounds: result.round,
    ...times,
    accuracy,
    clientMean: accuraciesOf(clients, () => 1),
    notAlone: clients.filter(({ aloneProblem }) => aloneProblem !== null).length,
    model: files.global,
    joined: plan.once ? joinedByRound(plan, result.round) : null,
    forgotten:
      complete && leaving.length > 0
        ? {
            clients: leaving,
            before,
            after: accuracy.global,
            deviation: deviationOf(opened, result.hub["server"] as AflServer),
          }
        : null,
    masked: config.masked
      ? {
          fractionBits: MASKED_BITS,
          sumRounding: plan.clients * 2 ** -(MASKED_BITS + 1),
          revealedKeys: revealedKeys(plan, result.round),
        }
      : null,
    wire: result.wire,
    peakMemoryBytes: result.peakMemoryBytes,
    seed: config.seed,
    complete,
    clients,
  };
}

function accuraciesOf(
  clients: readonly ClientOutcome[],
  weight: (client: ClientOutcome) => number,
): Accuracies {
  const mean = (of: (client: ClientOutcome) => number | null): number | null => {
    const known = clients.filter((client) => of(client) !== null);
    const total = known.reduce((sum, client) => sum + weight(client), 0);
    return total === 0 ? null : known.reduce((sum, client) => sum + weight(client) * of(client)!, 0) / total;
  };
  return {
    global: mean(({ global }) => global),
    personal: mean(({ personal }) => personal),
    alone: mean(({ alone }) => alone),
  };
}

/** The round that accuracies are of: a run that was stopped may have gone on since; null if there are none. */
export function evaluatedRounds({ curve }: Pick<FederatedSummary, "curve">): number | null {
  return curve.at(-1)?.rounds ?? null;
}

/** The whole of a number for each client. */
export function sumOver(clients: readonly ClientSummary[], of: (client: ClientSummary) => number): number {
  return clients.reduce((sum, client) => sum + of(client), 0);
}
