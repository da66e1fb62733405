/** A federated run that is new, or goes on where an earlier one was interrupted. */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Store } from "../../dist/runtime/driver.ts";
import { UsageError } from "../config.ts";
import { checkOut, fileNames, readJson } from "../run_directory.ts";
import { checkUse, type FederatedConfig, federatedFlags, parseFederatedFlags } from "./config.ts";
import { readFederated } from "./files.ts";
import type { OpenedRun } from "./run.ts";
import type { FederatedSummary } from "./summary.ts";

/** What may be changed when a run could not go on. */
const remedies = ["lr", "gamma", "lambda"] as const;
/** The flags that a resumed run may be given. */
const changeable: readonly (keyof FederatedConfig)[] = ["rounds", ...remedies, "runtime"];

/**
 * A new run and where to put it, or an earlier one with its own configuration.
 *
 * @throws {UsageError} if the flags do not fit together, or there is no such run
 */
export function wantedRun(args: readonly string[]): {
  readonly config: FederatedConfig;
  readonly out: string | undefined;
  readonly resumed: string | undefined;
} {
  const { config, out, resume, given } = parseFederatedFlags(args);
  if (resume === undefined) {
    if (out !== undefined) checkOut(out);
    // Workers may run elsewhere, and so may the run when it is resumed.
    const dataDir = config.dataDir === undefined ? undefined : resolve(config.dataDir);
    return { config: { ...config, dataDir }, out, resumed: undefined };
  }
  const others = given.filter((name) => name !== "resume");
  const fixed = others.find((name) => !(changeable as readonly string[]).includes(name));
  if (fixed !== undefined) {
    throw new UsageError(
      `Cannot use --${fixed} with --resume: a resumed run keeps its configuration, only ${changeable.map((name) => `--${name}`).join(", ")} may change`,
    );
  }
  const changed = Object.fromEntries(
    changeable.filter((name) => others.includes(name)).map((name) => [name, config[name]]),
  );
  const merged: FederatedConfig = { ...readFederated(resume), ...changed };
  checkUse(others, merged);
  if (others.includes("rounds") && merged.forget !== undefined)
    throw new UsageError(
      "Cannot use --rounds with --resume: clients leave this run after its last round, the rounds it has are needed",
    );
  return { config: merged, out: undefined, resumed: resume };
}

/**
 * The round at which a run goes on. All of them: only its end has to be written.
 *
 * @throws {UsageError} if it has ended, or its saves are gone
 */
export async function roundToResume(
  directory: string,
  { config, plan, methods }: Pick<OpenedRun, "config" | "plan" | "methods">,
  store: Store,
): Promise<number> {
  const rounds = await store.rounds("hub");
  const round = Math.max(0, ...rounds);
  const path = join(directory, fileNames.summary);
  const before = existsSync(path)
    ? (readJson(path, `Cannot resume ${directory}`) as Partial<FederatedSummary>)
    : null;
  const { rounds: done = 0, complete: isComplete = false } = before ?? {};
  if (isComplete && !methods.canGoOn) {
    throw new UsageError(
      `Cannot resume ${directory}: all rounds of ${methods.method.name} are done, a run that was interrupted is needed`,
    );
  }
  const areDone = (count: number): string => (count === 1 ? "1 round is done" : `${count} rounds are done`);
  if (rounds.length === 0 && done > 0) {
    throw new UsageError(
      `Cannot resume ${directory}: ${areDone(done)} and the saves in ${join(directory, fileNames.state)} are gone, they are needed`,
    );
  }
  // A round that was not to be the last has no end: nobody has got the model, or made one of its own.
  const hadMore = readFederated(directory).rounds > config.rounds;
  if (round > plan.rounds || (round === plan.rounds && (hadMore || (isComplete && done === round)))) {
    throw new UsageError(`Cannot resume ${directory}: ${areDone(round)}, more --rounds are needed`);
  }
  return round;
}

/** How a run that could not go on is to be continued. */
export async function howToContinue(
  directory: string,
  { config }: Pick<OpenedRun, "config">,
  store: Store,
): Promise<string> {
  const round = Math.max(0, ...(await store.rounds("hub")));
  const flags = remedies
    .filter((name) => federatedFlags[name]!.methods!.includes(config.method))
    .map((name) => `--${name}`);
  return `The run is saved up to round ${round}: continue it with --resume ${directory}, where ${flags.join(" and ")} may be changed`;
}
