/** What a training run is, checked: from flags, or from the file that a run left behind. */
import { z } from "zod";
import { parsePartition } from "../dist/federated/partition.ts";
import { dataNames } from "./data/registry.ts";

/** Methods whose workers send parts of what they have. */
export const communicatingNames = [
  "div-adam",
  "ef",
  "saef",
  "def",
  "cser",
  "ef-adam",
  "one-bit-adam",
  "zero-one-adam",
  "local-adam",
  "diloco",
  "demo",
] as const;

export const modelNames = ["mlp", "cnn", "logistic"] as const;
const plainNames = [
  "sgd",
  "momentum",
  "nesterov",
  "adam",
  "adamw",
  "shampoo",
  "kfac",
  "fosi-sgd",
  "fosi-hb",
  "fosi-nesterov",
  "fosi-adam",
  "dho2",
] as const;
export const optimizerNames: readonly OptimizerName[] = [...plainNames, ...communicatingNames];
export const admmForms = ["consensus", "published", "off"] as const;
export const layoutNames = ["replicated", "rows", "columns"] as const;
export const lateForms = ["wait", "keep-old"] as const;
export const distributionNames = ["eigenpairs", "gradients"] as const;
export const runtimeNames = ["sockets", "local"] as const;
export const scheduleNames = ["constant", "cosine"] as const;
export const compressorNames = ["block", "topk", "randomk", "sign", "qsgd", "half", "powersgd"] as const;
export const updateCompressorNames: readonly UpdateCompressorName[] = ["none", ...compressorNames];
export const precisionNames = ["float32", "int16"] as const;
export const deviceNames = ["cpu", "webgpu"] as const;

export type OptimizerName = (typeof plainNames)[number] | (typeof communicatingNames)[number];
type UpdateCompressorName = "none" | (typeof compressorNames)[number];
export type DeviceName = (typeof deviceNames)[number];

/** One flag: how it is written, what it means, and what it may be. */
interface Flag {
  readonly value: string;
  readonly help: string;
  readonly schema: z.ZodType;
  /** When it has an effect; without, always. */
  readonly needs?: Need;
}

/** What the rest of a configuration must be for a flag to matter. */
interface Need {
  readonly text: string;
  holds(config: TrainConfig): boolean;
}

const isCurved = ({ optimizer }: TrainConfig): boolean =>
  optimizer === "dho2" || optimizer.startsWith("fosi-");
const isPreconditioned = ({ optimizer }: TrainConfig): boolean =>
  optimizer === "shampoo" || optimizer === "kfac";
const preconditioned: Need = { text: "--optimizer shampoo or kfac", holds: isPreconditioned };
const kfac: Need = { text: "--optimizer kfac", holds: ({ optimizer }) => optimizer === "kfac" };
const curved: Need = { text: "--optimizer fosi-* or dho2", holds: isCurved };
const dho2: Need = { text: "--optimizer dho2", holds: ({ optimizer }) => optimizer === "dho2" };
const penalized: Need = {
  text: "--optimizer dho2 with --admm consensus or published",
  holds: ({ optimizer, admm }) => optimizer === "dho2" && admm !== "off",
};
const isCommunicating = ({ optimizer }: TrainConfig): boolean =>
  (communicatingNames as readonly string[]).includes(optimizer);
/** A flag of some of the methods. */
const methods = (...names: readonly OptimizerName[]): Need => ({
  text: `--optimizer ${names.join(", ").replace(/, ([^,]*)$/, " or $1")}`,
  holds: ({ optimizer }) => names.includes(optimizer),
});
const divisible = methods("div-adam");
const compressing = methods("div-adam", "ef", "saef", "def", "cser", "ef-adam");
const cutting: Need = {
  text: `${compressing.text} and with --compressor block, topk or randomk`,
  holds: (config) =>
    compressing.holds(config) && ["block", "topk", "randomk"].includes(config.compressor ?? "block"),
};
const resetting = methods("cser");
const cuttingUpdates: Need = {
  text: `${resetting.text} and --update-compressor block, topk or randomk`,
  holds: (config) =>
    resetting.holds(config) && ["block", "topk", "randomk"].includes(config.updateCompressor ?? "none"),
};
const periodic = methods("div-adam", "ef", "saef", "def", "cser", "local-adam", "diloco");
const withDenseSteps = methods("div-adam", "one-bit-adam", "zero-one-adam");
const scheduled: Need = {
  text: "a method of vectors, not shampoo or kfac,",
  holds: (config) => !isPreconditioned(config),
};
// The workers of a consensus step on their own, matrices have no columns of parameters, rows are rows of eigenvectors.
const agreeing: Need = {
  text: "a method of vectors whose workers agree at every step (dho2 with --admm published or off), for rows one with curvature",
  holds: (config) =>
    !isPreconditioned(config) &&
    !isCommunicating(config) &&
    (config.optimizer !== "dho2" || config.admm !== "consensus") &&
    (config.layout !== "rows" || isCurved(config)),
};
const split: Need = {
  text: "--curvature-workers",
  holds: ({ curvatureWorkers }) => curvatureWorkers !== undefined,
};
const mlp: Need = { text: "--model mlp", holds: ({ model }) => model === "mlp" };
const files: Need = { text: "another --data than glyphs", holds: ({ data }) => data !== "glyphs" };
const tables: Need = {
  text: "--data libsvm or csv",
  holds: ({ data }) => data === "libsvm" || data === "csv",
};
const csv: Need = { text: "--data csv", holds: ({ data }) => data === "csv" };
const libsvm: Need = { text: "--data libsvm", holds: ({ data }) => data === "libsvm" };
const sockets: Need = { text: "--runtime sockets", holds: ({ runtime }) => runtime === "sockets" };

const whole = (least: number): z.ZodType =>
  z.coerce
    .number({ error: "a whole number is needed" })
    .int("a whole number is needed")
    .min(least, `a whole number of at least ${least} is needed`);
const positive: z.ZodType = z.coerce
  .number({ error: "a positive number is needed" })
  .positive("a positive number is needed");
const oneOf = (names: readonly string[]): z.ZodType =>
  z.enum(names as [string, ...string[]], { error: `one of ${names.join(", ")} is needed` });
const text: z.ZodType = z.string().min(1, "some text is needed");

/** The flags of `train`, in the order of the help text. */
export const trainFlags: Readonly<Record<string, Flag>> = {
  data: {
    value: dataNames.join("|"),
    help: "data set (default glyphs: images drawn by the program)",
    schema: oneOf(dataNames),
  },
  "data-dir": {
    needs: files,
    value: "DIR",
    help: "where the files of the data set are; without it they are downloaded into a cache",
    schema: text,
  },
  "data-file": { needs: tables, value: "NAME", help: "which set in DIR, for libsvm and csv", schema: text },
  "label-column": {
    needs: csv,
    value: "NAME|N",
    help: "csv: column of the label, by name or position from 1 (default the last)",
    schema: text,
  },
  features: {
    needs: libsvm,
    value: "N",
    help: "libsvm: number of features (default the largest index)",
    schema: whole(1),
  },
  "train-limit": { value: "N", help: "use only the first N training examples", schema: whole(1) },
  "test-limit": { value: "N", help: "use only the first N test examples", schema: whole(1) },
  model: { value: modelNames.join("|"), help: "model (default mlp)", schema: oneOf(modelNames) },
  hidden: {
    needs: mlp,
    value: "N[,N...]",
    help: "hidden layer sizes of the mlp (default 64)",
    schema: z.string().regex(/^[1-9]\d*(,[1-9]\d*)*$/, "sizes such as 64 or 128,64 are needed"),
  },
  l2: {
    value: "X",
    help: "weight of the penalty (X/2)|p|² in the loss (default 0)",
    schema: z.coerce
      .number({ error: "a number of at least 0 is needed" })
      .min(0, "a number of at least 0 is needed"),
  },
  optimizer: {
    value: optimizerNames.join("|"),
    help: "method (default dho2)",
    schema: oneOf(optimizerNames),
  },
  lr: {
    value: "X",
    help: "learning rate of the first-order part (default depends on the method)",
    schema: positive,
  },
  alpha: {
    needs: curved,
    value: "X",
    help: "learning rate of the Newton part of fosi-* and dho2",
    schema: positive,
  },
  clip: {
    needs: curved,
    value: "X",
    help: "limit of FOSI's factor on the first-order step, at least 1",
    schema: z.coerce
      .number({ error: "a number of at least 1 is needed" })
      .min(1, "a number of at least 1 is needed"),
  },
  k: {
    needs: curved,
    value: "N",
    help: "largest eigenpairs that fosi-* and dho2 use (default 8)",
    schema: whole(1),
  },
  "curvature-every": {
    needs: curved,
    value: "N",
    help: "steps between curvature refreshes (default 200)",
    schema: whole(1),
  },
  "curvature-warmup": {
    needs: curved,
    value: "N",
    help: "steps before the first curvature (default 0 for dho2, else as curvature-every)",
    schema: whole(0),
  },
  "curvature-batch": {
    needs: curved,
    value: "N",
    help: "examples per worker on which curvature is measured (default 256)",
    schema: whole(1),
  },
  "curvature-workers": {
    needs: curved,
    value: "N",
    help: "processes that compute curvature beside the training (default 0: the workers do, and wait)",
    schema: whole(1),
  },
  "curvature-delay": {
    needs: split,
    value: "N",
    help: "steps after which curvature is adopted; all wait for it if it is late (default: one round)",
    schema: whole(0),
  },
  late: {
    needs: split,
    value: lateForms.join("|"),
    help: "late curvature: wait for it, or keep the old one until it is there (default wait)",
    schema: oneOf(lateForms),
  },
  "precondition-every": {
    needs: preconditioned,
    value: "N",
    help: "steps between inverse roots of shampoo (default 20) or eigenpairs of kfac (default 10)",
    schema: whole(1),
  },
  damping: {
    needs: kfac,
    value: "X",
    help: "what kfac adds to the eigenvalues that it divides by (default 0.001)",
    schema: positive,
  },
  distribution: {
    needs: kfac,
    value: distributionNames.join("|"),
    help: "what kfac's workers compute for each other: eigenpairs at refreshes, or preconditioned gradients at every step (default eigenpairs)",
    schema: oneOf(distributionNames),
  },
  admm: {
    needs: dho2,
    value: admmForms.join("|"),
    help: "how dho2's workers agree (default consensus)",
    schema: oneOf(admmForms),
  },
  sigma: {
    needs: penalized,
    value: "X",
    help: "ADMM penalty: consensus in units of the largest eigenvalue (0.005), published absolute (5e-9)",
    schema: z.coerce
      .number({ error: "a number of at least 0 is needed" })
      .min(0, "a number of at least 0 is needed"),
  },
  layout: {
    needs: agreeing,
    value: layoutNames.join("|"),
    help: "where eigenvectors and the method's state are: whole at every worker, rows of the eigenvectors, or columns of all (default replicated)",
    schema: oneOf(layoutNames),
  },
  ratio: {
    needs: cutting,
    value: "N",
    help: "how many numbers there are for each that is waited for (default 128)",
    schema: z.coerce
      .number({ error: "a number of at least 1 is needed" })
      .min(1, "a number of at least 1 is needed"),
  },
  period: {
    needs: periodic,
    value: "N",
    help: "steps between exchanges: in the background for div-adam (default 4), of updates for ef, saef and def (1), of errors for cser (8), of parameters for local-adam and diloco (8)",
    schema: whole(1),
  },
  delay: {
    needs: divisible,
    value: "N",
    help: "steps that an exchange in the background may take (default: the period)",
    schema: whole(0),
  },
  "residual-weight": {
    needs: methods("div-adam", "def"),
    value: "X",
    help: "how much of what it has not sent a worker adds to its own model, 0 to 1 (default 1 for div-adam, less may be better where workers' data differ much; def 0.3)",
    schema: z.coerce
      .number({ error: "a number from 0 to 1 is needed" })
      .min(0, "a number from 0 to 1 is needed")
      .max(1, "a number from 0 to 1 is needed"),
  },
  "dense-steps": {
    needs: withDenseSteps,
    value: "N",
    help: "steps at the beginning in which everything is sent: div-adam 16 (a tenth of all or more where some gradients are rare or grow fast, as in transformers), one-bit-adam and zero-one-adam 100",
    schema: whole(1),
  },
  compressor: {
    needs: compressing,
    value: compressorNames.join("|"),
    help: "what is waited for: a random block or the largest numbers (one of --ratio), and but for div-adam random ones, signs, few levels, halves or factors (default block)",
    schema: oneOf(compressorNames),
  },
  "update-compressor": {
    needs: resetting,
    value: updateCompressorNames.join("|"),
    help: "what cser sends of updates at every step, by a compressor beside that of errors (default none)",
    schema: oneOf(updateCompressorNames),
  },
  "update-ratio": {
    needs: cuttingUpdates,
    value: "N",
    help: "the ratio of that compressor (default 128)",
    schema: z.coerce
      .number({ error: "a number of at least 1 is needed" })
      .min(1, "a number of at least 1 is needed"),
  },
  background: {
    needs: divisible,
    value: precisionNames.join("|"),
    help: "numbers of the background exchange (default float32; int16 is half of it in both directions)",
    schema: oneOf(precisionNames),
  },
  "average-momentum": {
    needs: divisible,
    value: "yes|no",
    help: "also average the workers' momenta in the background, for workers whose data differ (default no)",
    schema: oneOf(["yes", "no"]),
  },
  "variance-every": {
    needs: divisible,
    value: "N",
    help: "steps between background exchanges with gradients for the mean of squares, a multiple of --period (default: the period); exchanges between them have a vector less",
    schema: whole(1),
  },
  "flush-at-end": {
    needs: divisible,
    value: "yes|no",
    help: "after the last step send all that workers have kept back: they are equal then, and --resume may go on with other --workers (default no)",
    schema: oneOf(["yes", "no"]),
  },
  schedule: {
    needs: scheduled,
    value: scheduleNames.join("|"),
    help: "learning rate: constant, or down to zero along a cosine (default constant)",
    schema: oneOf(scheduleNames),
  },
  partition: {
    value: "iid|dirichlet:A|shards:C|exdir:C:A",
    help: "how training examples go to workers (default: equal parts in the order of the data)",
    schema: z.string().superRefine((value, context) => {
      try {
        parsePartition(value);
      } catch (error) {
        context.addIssue({ code: "custom", message: (error as Error).message });
      }
    }),
  },
  "local-steps": {
    value: "N",
    help: "steps per round: between agreements, saves and chances to stop (default 10)",
    schema: whole(1),
  },
  workers: {
    value: "N",
    help: "worker processes (default 2)",
    schema: z.coerce
      .number({ error: "a whole number from 1 to 64 is needed" })
      .int("a whole number from 1 to 64 is needed")
      .min(1, "a whole number from 1 to 64 is needed")
      .max(64, "a whole number from 1 to 64 is needed"),
  },
  steps: { value: "N", help: "optimizer steps per worker, rounded up to whole rounds", schema: whole(1) },
  epochs: {
    value: "N",
    help: "passes over the training data, instead of steps (default 15)",
    schema: positive,
  },
  batch: {
    value: "N|full",
    help: "examples per worker and step (default 64)",
    schema: z
      .string()
      .regex(/^(full|[1-9]\d*)$/, "a whole number of at least 1, or full, is needed")
      .transform((value) => (value === "full" ? value : Number(value))),
  },
  "eval-every": {
    value: "N",
    help: "steps between evaluations on the test data (default: about 20 in all)",
    schema: whole(1),
  },
  seed: {
    value: "N",
    help: "seed of data order, initial parameters and start vectors (default 0)",
    schema: whole(0),
  },
  runtime: {
    value: runtimeNames.join("|"),
    help: "worker processes over sockets, or all in one process (default sockets)",
    schema: oneOf(runtimeNames),
  },
  device: {
    value: deviceNames.join("|"),
    help: "where workers compute: the processor or, each with an adapter of its own, a GPU (default cpu)",
    schema: oneOf(deviceNames),
  },
  port: {
    needs: sockets,
    value: "N",
    help: "port on which the hub listens for its workers (default any free one)",
    schema: z.coerce
      .number({ error: "a whole number from 0 to 65535 is needed" })
      .int("a whole number from 0 to 65535 is needed")
      .min(0, "a whole number from 0 to 65535 is needed")
      .max(65535, "a whole number from 0 to 65535 is needed"),
  },
  host: {
    needs: sockets,
    value: "ADDRESS",
    help: "address on which the hub listens for its workers (default 127.0.0.1: this machine only)",
    schema: text,
  },
  launch: {
    needs: sockets,
    value: "WORDS",
    help: 'words before the command of every worker, such as "ip netns exec NAME" or "nice -n 5"; it must see this folder',
    schema: text,
  },
  out: {
    value: "DIR",
    help: "where results go (default runs/<data>-<model>-<optimizer>, numbered)",
    schema: text,
  },
  resume: { value: "DIR", help: "continue the run in DIR from its last complete round", schema: text },
};

/** A training run; plain data, kept as config.json beside its results. */
export interface TrainConfig {
  readonly data: (typeof dataNames)[number];
  readonly dataDir?: string | undefined;
  readonly dataFile?: string | undefined;
  readonly labelColumn?: string | undefined;
  readonly features?: number | undefined;
  readonly trainLimit?: number | undefined;
  readonly testLimit?: number | undefined;
  readonly model: (typeof modelNames)[number];
  readonly hidden: readonly number[];
  readonly l2: number;
  readonly optimizer: OptimizerName;
  readonly lr?: number | undefined;
  readonly alpha?: number | undefined;
  readonly clip?: number | undefined;
  readonly k: number;
  readonly curvatureEvery: number;
  readonly curvatureWarmup?: number | undefined;
  readonly curvatureBatch: number;
  readonly curvatureWorkers?: number | undefined;
  readonly curvatureDelay?: number | undefined;
  readonly late?: (typeof lateForms)[number] | undefined;
  readonly preconditionEvery?: number | undefined;
  readonly damping?: number | undefined;
  readonly distribution?: (typeof distributionNames)[number] | undefined;
  readonly admm: (typeof admmForms)[number];
  readonly sigma?: number | undefined;
  readonly layout?: (typeof layoutNames)[number] | undefined;
  readonly ratio?: number | undefined;
  readonly period?: number | undefined;
  readonly delay?: number | undefined;
  readonly residualWeight?: number | undefined;
  readonly denseSteps?: number | undefined;
  readonly compressor?: (typeof compressorNames)[number] | undefined;
  readonly updateCompressor?: UpdateCompressorName | undefined;
  readonly updateRatio?: number | undefined;
  readonly background?: (typeof precisionNames)[number] | undefined;
  readonly averageMomentum?: "yes" | "no" | undefined;
  readonly varianceEvery?: number | undefined;
  readonly flushAtEnd?: "yes" | "no" | undefined;
  readonly schedule?: (typeof scheduleNames)[number] | undefined;
  readonly partition?: string | undefined;
  readonly localSteps: number;
  readonly workers: number;
  readonly steps?: number | undefined;
  readonly epochs: number;
  readonly batch: number | "full";
  readonly evalEvery?: number | undefined;
  readonly seed: number;
  readonly runtime: (typeof runtimeNames)[number];
  readonly device?: DeviceName | undefined;
  readonly port?: number | undefined;
  readonly host?: string | undefined;
  readonly launch?: string | undefined;
}

/** Where a run computes; those that do not say it are of before there was a choice. */
export function deviceOf({ device = "cpu" }: TrainConfig): DeviceName {
  return device;
}

/** A wrong command line or a file that does not fit; shown without a stack. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

export interface TrainArguments {
  readonly config: TrainConfig;
  readonly out: string | undefined;
  readonly resume: string | undefined;
  /** The flags that were given, to tell which of them a resumed run may not change. */
  readonly given: readonly string[];
}

/**
 * Reads the flags of `train`.
 *
 * @throws {UsageError} naming the flag, the value and what is allowed
 */
export function parseTrainFlags(args: readonly string[]): TrainArguments {
  const raw = readFlags(args, trainFlags);
  const values: Record<string, unknown> = {};
  const problems: string[] = [];
  for (const [name, value] of Object.entries(raw)) {
    const result = trainFlags[name]!.schema.safeParse(value);
    if (result.success) values[name] = result.data;
    else problems.push(`Cannot use --${name} ${value}: ${result.error.issues[0]!.message}`);
  }
  if (raw["steps"] !== undefined && raw["epochs"] !== undefined) {
    problems.push("Cannot use --steps with --epochs: both say how long to train, one of them is needed");
  }
  if (values["admm"] === "published" && values["sigma"] === 0) {
    problems.push("Cannot use --sigma 0 with --admm published: it is a divisor, a positive number is needed");
  }
  if (problems.length > 0) throw new UsageError(problems.join("\n"));
  const { out, resume, hidden, ...rest } = values;
  const camel = Object.fromEntries(
    Object.entries(rest).map(([name, value]) => [
      name.replace(/-(.)/g, (_, c: string) => c.toUpperCase()),
      value,
    ]),
  );
  const config = {
    ...defaults,
    ...camel,
    ...(hidden !== undefined && { hidden: String(hidden).split(",").map(Number) }),
  } as TrainConfig;
  if (resume === undefined) checkNeeds(Object.keys(raw), config);
  return {
    config,
    out: out as string | undefined,
    resume: resume as string | undefined,
    given: Object.keys(raw),
  };
}

/**
 * Refuses flags that would change nothing.
 *
 * @throws {UsageError} naming each of them and what it needs
 */
export function checkNeeds(given: readonly string[], config: TrainConfig): void {
  const idle = given.flatMap((name) => {
    const need = trainFlags[name]!.needs;
    return need && !need.holds(config)
      ? [`Cannot use --${name}: it would change nothing, ${need.text} is needed`]
      : [];
  });
  if (idle.length > 0) throw new UsageError(idle.join("\n"));
}

const defaults: TrainConfig = {
  data: "glyphs",
  model: "mlp",
  hidden: [64],
  l2: 0,
  optimizer: "dho2",
  k: 8,
  curvatureEvery: 200,
  curvatureBatch: 256,
  admm: "consensus",
  localSteps: 10,
  workers: 2,
  epochs: 15,
  batch: 64,
  seed: 0,
  runtime: "sockets",
};

/** What is wrong with a configuration from a file; null if it is one that `parseTrainFlags` could have made. */
export function configProblem(json: unknown): string | null {
  const record = (json ?? {}) as Readonly<Record<string, unknown>>;
  const missing = Object.keys(defaults).find((name) => !Object.hasOwn(record, name));
  if (missing !== undefined) return `it lacks "${missing}"`;
  for (const [name, value] of Object.entries(record)) {
    const flag = name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);
    if (!(Object.hasOwn(trainFlags, flag) && trainFlags[flag]!.schema.safeParse(String(value)).success))
      return `its "${name}" is ${JSON.stringify(value)}`;
  }
  return null;
}

/** `--name value` and `--name=value` pairs; an unknown flag, a missing value or a stray word is an error. */
export function readFlags(
  args: readonly string[],
  flags: Readonly<Record<string, unknown>>,
): Record<string, string> {
  const values: Record<string, string> = {};
  for (let i = 0; i < args.length; i++) {
    const word = args[i]!;
    const [flag, inline] = word.includes("=")
      ? [word.slice(0, word.indexOf("=")), word.slice(word.indexOf("=") + 1)]
      : [word, undefined];
    const name = flag.startsWith("--") ? flag.slice(2) : undefined;
    if (name === undefined || !Object.hasOwn(flags, name)) {
      const near = name === undefined ? undefined : nearest(name, Object.keys(flags));
      throw new UsageError(
        `Cannot use "${word}": it is not a flag${near ? `, did you mean --${near}?` : ""}; see --help for the flags`,
      );
    }
    const value = inline ?? args[++i];
    if (value === undefined || value.trim() === "" || (inline === undefined && value.startsWith("--"))) {
      throw new UsageError(
        `Cannot use --${name}: its value is missing, --${name} VALUE is needed; see --help`,
      );
    }
    values[name] = value;
  }
  return values;
}

/** The known name with the fewest letters to change, if they are few enough to be a slip. */
function nearest(name: string, names: readonly string[]): string | undefined {
  const best = names.toSorted((a, b) => edits(name, a) - edits(name, b))[0];
  return best !== undefined && edits(name, best) <= Math.max(1, Math.floor(best.length / 3))
    ? best
    : undefined;
}

/** Letters to insert, remove or replace to make `b` of `a`. */
function edits(a: string, b: string): number {
  // row[j] is the distance from the part of a read so far to the first j letters of b.
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1]! + Number(a[i - 1] !== b[j - 1]);
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}
