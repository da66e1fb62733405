/** The files of a federated run beside its summary: configuration, metrics of the rounds, models. */
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import * as io from "../../core/io.ts";
import { federatedModels } from "../../dist/federated/jobs.ts";
import { UsageError } from "../config.ts";
import { fileNames, readJson } from "../run_directory.ts";
import { type FederatedConfig, federatedProblem } from "./config.ts";
import type { FederatedResult, OpenedRun } from "./run.ts";

/** One round; one line of metrics.jsonl. */
export interface RoundMetric {
  readonly round: number;
  /** Those who were there. */
  readonly clients: number;
  /** Training until the end of the round, without evaluations. */
  readonly seconds: number;
  /** Bytes that all clients have got and sent until then, without what they get at the end. */
  readonly bytes: number;
  /** Where models were evaluated: the fraction right over all test examples; null where there are none, or no such model. */
  readonly global?: number | null;
  readonly personal?: number | null;
  /** In the last round: own models, models alone, evaluation. */
  readonly endSeconds?: number;
}

/**
 * The configuration of an earlier run.
 *
 * @throws {UsageError} if the directory has none, or that of another program
 */
export function readFederated(directory: string): FederatedConfig {
  const path = join(directory, fileNames.config);
  const json = readJson(path, `Cannot use the run in ${directory}`);
  const problem = federatedProblem(json);
  if (problem === null) return json as FederatedConfig;
  throw new UsageError(
    `Cannot use the run in ${directory}: ${path} is of something else (${problem}), that of a federated run is needed`,
  );
}

/** The rounds before `round`, each once; a torn last line is left out. */
export function readRounds(directory: string, round: number): readonly RoundMetric[] {
  const path = join(directory, fileNames.metrics);
  if (!existsSync(path)) return [];
  const known = new Map<number, RoundMetric>();
  for (const line of readFileSync(path, "utf8").split("\n")) {
    const metric = parsed(line);
    if (metric !== null && metric.round < round && !known.has(metric.round)) known.set(metric.round, metric);
  }
  return [...known.values()];
}

function parsed(line: string): RoundMetric | null {
  try {
    return line === "" ? null : (JSON.parse(line) as RoundMetric);
  } catch {
    return null;
  }
}

const lineOf = (metric: RoundMetric): string => `${JSON.stringify(metric)}\n`;

/** Replaces the metrics: when a run is resumed, those of rounds that will run again are dropped. */
export async function writeRounds(directory: string, metrics: readonly RoundMetric[]): Promise<void> {
  await io.writeWhole(join(directory, fileNames.metrics), metrics.map(lineOf).join(""));
}

/** Adds a round; it is in the file when this returns. */
export function appendRound(directory: string, metric: RoundMetric): void {
  appendFileSync(join(directory, fileNames.metrics), lineOf(metric));
}

/** Where models are in the directory of a run; null for those that there are not. */
export interface ModelFiles {
  readonly global: string | null;
  readonly clients: readonly (string | null)[];
}

const clientFolder = "clients";

/** The models that a run has when it ends like this: own ones are made at the end. */
export function modelFiles(
  { plan, methods }: Pick<OpenedRun, "plan" | "methods">,
  isComplete: boolean,
): ModelFiles {
  const digits = Math.max(3, String(plan.clients - 1).length);
  const areOwn = isComplete && methods.method.personalize !== undefined;
  return {
    global: isComplete || methods.isWholeEveryRound ? "model.safetensors" : null,
    clients: Array.from({ length: plan.clients }, (_, client) =>
      areOwn ? `${clientFolder}/client-${String(client).padStart(digits, "0")}.safetensors` : null,
    ),
  };
}

/** Writes the models of a run, each file whole or not at all; own models of an earlier end do not stay beside newer ones. */
export async function writeModels(
  directory: string,
  { config, plan, methods }: OpenedRun,
  result: FederatedResult,
): Promise<void> {
  const files = modelFiles({ plan, methods }, result.reason === "finished");
  const models = federatedModels(plan, methods.method, result);
  const words = { method: methods.method.name, task: config.data, rounds: String(result.round) };
  if (files.global !== null) await io.save(join(directory, files.global), models.global, words);
  if (files.clients.every((path) => path === null)) {
    rmSync(join(directory, clientFolder), { recursive: true, force: true });
    return;
  }
  for (const [client, name] of files.clients.entries()) {
    const path = join(directory, name!);
    mkdirSync(dirname(path), { recursive: true });
    await io.save(path, models.clients[client], { ...words, client: String(client) });
  }
}
