/** summary.json of a federated run. */
import { type ClientOutcome, federatedOutcome } from "../../dist/federated/jobs.ts";
import { type ClientBytes, federatedBytes } from "../../dist/federated/plan.ts";
import type { ModelFiles } from "./files.ts";
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
  { config, plan, methods, shares }: OpenedRun,
  result: FederatedResult,
  times: Pick<FederatedSummary, "seconds" | "endSeconds" | "curve">,
  files: ModelFiles,
): FederatedSummary {
  const complete = result.reason === "finished";
  const formula = complete
    ? federatedBytes(plan, methods.method)
    : federatedBytes({ ...plan, rounds: result.round }, methods.method).map((bytes) => ({
        ...bytes,
        receivedAtEnd: 0,
      }));
  const clients = federatedOutcome(plan, result).clients.map((client, i) => ({
    trainExamples: shares.train[i]!.length,
    ...client,
    formula: formula[i]!,
    model: files.clients[i]!,
  }));
  return {
    task: config.data,
    method: methods.method.name,
    partition: config.partition,
    workers: config.workers,
    rounds: result.round,
    ...times,
    accuracy: accuraciesOf(clients, ({ testExamples }) => testExamples),
    clientMean: accuraciesOf(clients, () => 1),
    notAlone: clients.filter(({ aloneProblem }) => aloneProblem !== null).length,
    model: files.global,
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
