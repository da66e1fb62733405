/** What a comparison is, checked: from flags, or from the file that it left behind. */
import { z } from "zod";
import { readFlags, UsageError } from "../config.ts";
import { type DistributedMethod, distributedMethods } from "./distributed.ts";
import type { Method, Settings } from "./method.ts";
import { methods } from "./methods.ts";
import type { Budget } from "./run.ts";
import { tasks } from "./tasks.ts";

/** A comparison; plain data, kept as config.json beside its results. */
export interface CompareConfig {
  readonly tasks: readonly string[];
  readonly optimizers: readonly string[];
  readonly seeds: number;
  readonly budget: Budget;
  /** Learning rates to try for each method; 1 takes the default. */
  readonly grid: number;
  /** The rate of all methods, in place of a search. */
  readonly rate?: number | undefined;
  /** Part of the budget of a run that looks for the rate. */
  readonly gridShare: number;
  /** Evaluations in a run. */
  readonly evaluations: number;
  readonly stop: "target" | "budget";
  /** Training examples in a step, in place of the number of the task. */
  readonly batch?: number | undefined;
  /** What is to be reached, in place of the value of the task. */
  readonly target?: number | undefined;
  /** Processes that train together; with 1, one process without messages. */
  readonly workers: number;
  /** Steps between two agreements of workers. */
  readonly localSteps: number;
  readonly dataDir?: string | undefined;
}

const whole = (least: number): z.ZodType =>
  z.coerce
    .number({ error: "a whole number is needed" })
    .int("a whole number is needed")
    .min(least, `a whole number of at least ${least} is needed`);
const list = z
  .string()
  .transform((text) => [...new Set(text.split(",").map((word) => word.trim()))])
  .refine((words) => words.every((word) => word !== ""), "names with commas between them are needed");

/** The flags of `compare`, in the order of the help text. */
export const compareFlags: Readonly<
  Record<string, { readonly value: string; readonly help: string; readonly schema: z.ZodType }>
> = {
  task: { value: "NAME[,NAME...]", help: "what is trained (default mlp); see below", schema: list },
  optimizers: {
    value: "NAME[,NAME...]",
    help: "methods, each with settings if wanted: fosi-adam:k=16:period=100; all: those not named (default adam,fosi-adam)",
    schema: list,
  },
  seeds: { value: "N", help: "runs of each method that are compared (default 5)", schema: whole(1) },
  budget: {
    value: "UNIT:AMOUNT",
    help: "of each run: wall:60 (seconds), gradients:2000 or steps:2000 (default wall:30)",
    schema: z
      .string()
      .regex(/^(wall|gradients|steps):\d+(\.\d+)?$/, "wall:60, gradients:2000 or steps:2000 is needed")
      .transform((text): Budget => {
        const [unit, amount] = text.split(":");
        return { unit: unit as Budget["unit"], amount: Number(amount) };
      })
      .refine(({ amount }) => amount > 0, "an amount above 0 is needed"),
  },
  grid: {
    value: "N",
    help: "learning rates to try for each method, more if the best is at an end (default 5; 1: the default rate)",
    schema: whole(1),
  },
  rate: {
    value: "X",
    help: "the learning rate of all methods, in place of a search",
    schema: z.coerce.number({ error: "a positive number is needed" }).positive("a positive number is needed"),
  },
  "grid-share": {
    value: "X",
    help: "part of the budget of a run that looks for the rate (default 0.5)",
    schema: z.coerce
      .number({ error: "a number in (0, 1] is needed" })
      .positive("a number in (0, 1] is needed")
      .max(1, "a number in (0, 1] is needed"),
  },
  evaluations: {
    value: "N",
    help: "evaluations in a run, at equal distances (default 50)",
    schema: whole(1),
  },
  batch: {
    value: "N",
    help: "training examples in a step, in place of those of the task",
    schema: whole(1),
  },
  target: {
    value: "X",
    help: "the loss or accuracy to reach, in place of that of the task",
    schema: z.coerce.number({ error: "a number is needed" }),
  },
  stop: {
    value: "target|budget",
    help: "when a run ends (default budget)",
    schema: z.enum(["target", "budget"], { error: "target or budget is needed" }),
  },
  workers: {
    value: "N",
    help: "compare designs for N worker processes instead of methods in one (default 1)",
    schema: whole(1),
  },
  "local-steps": {
    value: "N",
    help: "with workers: steps per round, between agreements of designs that have them (default 10)",
    schema: whole(1),
  },
  "data-dir": {
    value: "DIR",
    help: "where the published data are; without it tasks draw their own",
    schema: z.string().min(1, "a directory is needed"),
  },
  out: {
    value: "DIR",
    help: "where results go (default runs/compare-<tasks>, numbered)",
    schema: z.string().min(1, "a directory is needed"),
  },
  resume: {
    value: "DIR",
    help: "continue the comparison in DIR: runs that are done stay",
    schema: z.string().min(1, "a directory is needed"),
  },
};

const defaults: CompareConfig = {
  tasks: ["mlp"],
  optimizers: ["adam", "fosi-adam"],
  seeds: 5,
  budget: { unit: "wall", amount: 30 },
  grid: 5,
  gridShare: 0.5,
  evaluations: 50,
  stop: "budget",
  workers: 1,
  localSteps: 10,
};

/**
 * Reads the flags of `compare`.
 *
 * @throws {UsageError} naming the flag, the value and what is allowed
 */
export function parseCompareFlags(args: readonly string[]): {
  readonly config: CompareConfig;
  readonly out: string | undefined;
  readonly resume: string | undefined;
  readonly given: readonly string[];
} {
  const raw = readFlags(args, compareFlags);
  const values: Record<string, unknown> = {};
  const problems: string[] = [];
  for (const [name, value] of Object.entries(raw)) {
    const result = compareFlags[name]!.schema.safeParse(value);
    if (result.success) values[name] = result.data;
    else problems.push(`Cannot use --${name} ${value}: ${result.error.issues[0]!.message}`);
  }
  for (const task of (values["task"] as string[] | undefined) ?? [])
    if (!Object.hasOwn(tasks, task))
      problems.push(
        `Cannot use --task ${task}: it is not known, one of ${Object.keys(tasks).join(", ")} is needed`,
      );
  // Of a comparison that is resumed, its own number of workers says which there are.
  if (raw["resume"] === undefined && values["optimizers"] !== undefined) {
    const workers = (values["workers"] as number) ?? 1;
    const optimizers = withAll(values["optimizers"] as string[], workers);
    values["optimizers"] = optimizers;
    problems.push(...methodProblems(optimizers, workers));
  }
  if (problems.length > 0) throw new UsageError(problems.join("\n"));
  const { task, "grid-share": gridShare, "local-steps": localSteps, ...others } = values;
  const { "data-dir": dataDir, out, resume, ...rest } = others;
  return {
    config: {
      ...defaults,
      ...rest,
      ...(task !== undefined && { tasks: task as string[] }),
      ...(gridShare !== undefined && { gridShare: gridShare as number }),
      ...(localSteps !== undefined && { localSteps: localSteps as number }),
      ...(dataDir !== undefined && { dataDir: dataDir as string }),
    },
    out: out as string | undefined,
    resume: resume as string | undefined,
    given: Object.keys(raw),
  };
}

/** The methods with `all` replaced by every one that is not named. */
export function withAll(optimizers: readonly string[], workers: number): readonly string[] {
  const named = new Set(optimizers.map((word) => word.split(":")[0]));
  const others = Object.keys(tableOf(workers)).filter((name) => !named.has(name));
  return optimizers.flatMap((word) => (word === "all" ? others : word));
}

/** What is wrong with methods of the command line. */
export function methodProblems(optimizers: readonly string[], workers: number): readonly string[] {
  return optimizers.flatMap((word) => {
    const problem = methodProblem(word, tableOf(workers));
    return problem === null ? [] : [`Cannot use --optimizers ${word}: ${problem}`];
  });
}

/** What all methods have: those of one process, and designs for several. */
type Table = Readonly<Record<string, Pick<Method, "summary" | "rates" | "settings">>>;

/** The methods that can be compared with a number of workers. */
export function tableOf(workers: number): Table {
  return workers > 1 ? distributedMethods : methods;
}

/** What is wrong with a method and its settings; null if nothing is. */
function methodProblem(word: string, table: Table): string | null {
  const [name, ...parts] = word.split(":");
  const method = Object.hasOwn(table, name!) ? table[name!] : undefined;
  if (!method) return `it is not known, one of ${Object.keys(table).join(", ")} is needed`;
  const known = Object.keys(method.settings);
  for (const part of parts) {
    const [setting, ...values] = part.split("=");
    const value = values.join("=");
    if (!known.includes(setting!))
      return `${name} has no setting "${setting}", ${known.length > 0 ? `one of ${known.join(", ")}` : "none"} is needed`;
    if (value.trim() === "" || !Number.isFinite(Number(value)))
      return `its ${setting} is "${value}", a number is needed`;
  }
  return null;
}

/** A method of the command line with its settings. */
export function methodOf(word: string): { readonly method: Method; readonly settings: Settings } {
  return chosen(methods, word);
}

/** A design for several workers with its settings. */
export function distributedMethodOf(word: string): {
  readonly method: DistributedMethod;
  readonly settings: Settings;
} {
  return chosen(distributedMethods, word);
}

function chosen<M extends { readonly settings: Settings }>(
  table: Readonly<Record<string, M>>,
  word: string,
): { readonly method: M; readonly settings: Settings } {
  const [name, ...parts] = word.split(":");
  const method = table[name!]!;
  const given = Object.fromEntries(
    parts.map((part) => {
      const [setting, value] = part.split("=");
      return [setting!, Number(value)];
    }),
  );
  return { method, settings: { ...method.settings, ...given } };
}

/** The tasks, one line each: for the help text. */
export function taskLines(): string {
  return Object.values(tasks)
    .map(({ name, summary }) => `  ${name.padEnd(16)}${summary}`)
    .join("\n");
}

/** The methods with their settings, one line each: for the help text. */
export function methodLines(workers: number): string {
  return Object.entries(tableOf(workers))
    .map(([name, { summary, settings }]) => {
      const values = Object.entries(settings).map(([key, value]) => `${key}=${value}`);
      return `  ${name.padEnd(16)}${summary}${values.length > 0 ? ` (${values.join(", ")})` : ""}`;
    })
    .join("\n");
}
