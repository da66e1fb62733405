/** What a federated run is, checked: from flags, or from the file that a run left behind. */
import { z } from "zod";
import { parsePartition } from "../../dist/federated/partition.ts";
import { readFlags, type TrainConfig, trainFlags, UsageError } from "../config.ts";
import { type DataName, dataNames } from "../data/registry.ts";

export const methodNames = [
  "pfedacnnl",
  "fedacnnl",
  "deepafl",
  "afl",
  "fedavg",
  "fedprox",
  "ditto",
  "pfedme",
  "per-fedavg",
] as const;
export const modelNames = ["mlp", "cnn", "logistic"] as const;
export const filterNames = ["ls", "shared", "random", "half"] as const;
export const hessianForms = ["exact", "ignored"] as const;
export const runtimeNames = ["sockets", "local"] as const;
export const messageNames = ["sums", "model"] as const;
export const ownLayerNames = ["head", "all"] as const;
export const priorNames = ["weights", "gram"] as const;

export type MethodName = (typeof methodNames)[number];

/** A federated run; plain data, kept as config.json beside its results. */
export interface FederatedConfig {
  readonly method: MethodName;
  readonly data: DataName;
  readonly dataDir?: string | undefined;
  readonly dataFile?: string | undefined;
  readonly labelColumn?: string | undefined;
  readonly features?: number | undefined;
  readonly trainLimit?: number | undefined;
  readonly testLimit?: number | undefined;
  readonly clients: number;
  readonly partition: string;
  readonly absent: number;
  /** Spread and limit of the times of clients, as `2:2.5`. */
  readonly stragglers?: string | undefined;
  readonly rounds: number;
  /** Clients that leave after the last round of AFL. */
  readonly forget?: readonly number[] | undefined;
  readonly model: (typeof modelNames)[number];
  readonly hidden: readonly number[];
  readonly epochs?: number | undefined;
  readonly localSteps?: number | undefined;
  readonly batch?: number | "full" | undefined;
  readonly lr?: number | undefined;
  readonly personalLr?: number | undefined;
  readonly alpha?: number | undefined;
  readonly hessian?: (typeof hessianForms)[number] | undefined;
  readonly mu?: number | undefined;
  readonly lambda?: number | undefined;
  readonly beta?: number | undefined;
  readonly groups?: number | undefined;
  readonly prior?: (typeof priorNames)[number] | undefined;
  readonly ownLayers?: (typeof ownLayerNames)[number] | undefined;
  readonly hiddenLambda?: number | undefined;
  /** Of a client's own head. */
  readonly ridge?: number | undefined;
  readonly gamma?: number | undefined;
  readonly message?: (typeof messageNames)[number] | undefined;
  /** Of the gamma of all clients. */
  readonly kept?: number | undefined;
  readonly masked?: boolean | undefined;
  readonly channels: readonly number[];
  readonly filters?: (typeof filterNames)[number] | undefined;
  readonly width: number;
  readonly layers: number;
  readonly alone: boolean;
  readonly evalEvery?: number | undefined;
  readonly workers: number;
  readonly seed: number;
  readonly runtime: (typeof runtimeNames)[number];
}

/** One flag: how it is written, what it means, what it may be, and the methods that it is for; without, all. */
interface Flag {
  readonly value: string;
  readonly help: string;
  readonly schema: z.ZodType;
  readonly methods?: readonly MethodName[];
}

/** Those that learn by gradient steps. */
export const gradientMethods: readonly MethodName[] = ["fedavg", "fedprox", "ditto", "pfedme", "per-fedavg"];
const passing: readonly MethodName[] = ["fedavg", "fedprox", "ditto"];
const networks: readonly MethodName[] = ["fedacnnl", "pfedacnnl"];
const analytic: readonly MethodName[] = [...networks, "afl", "deepafl"];

const number = (what: string) => z.coerce.number({ error: what });
const positive = number("a positive number is needed").positive("a positive number is needed");
const notNegative = number("a number of at least 0 is needed").min(0, "a number of at least 0 is needed");
const whole = (least: number): z.ZodType =>
  number("a whole number is needed")
    .int("a whole number is needed")
    .min(least, `a whole number of at least ${least} is needed`);
const oneOf = (names: readonly string[]): z.ZodType =>
  z.enum(names as [string, ...string[]], { error: `one of ${names.join(", ")} is needed` });
const yesOrNo = z.enum(["yes", "no"], { error: "yes or no is needed" }).transform((word) => word === "yes");
const sizes = (example: string): z.ZodType =>
  z.string().regex(/^[1-9]\d*(,[1-9]\d*)*$/, `sizes such as ${example} are needed`);

const dataFlags = ["data-dir", "data-file", "label-column", "features"] as const;

/** A flag that means what it does in `train`. */
const asInTrain = (name: string): Flag => {
  const { value, help, schema } = trainFlags[name]!;
  return { value, help, schema };
};

/** The flags of `federated`, in the order of the help text. */
export const federatedFlags: Readonly<Record<string, Flag>> = {
  method: { value: methodNames.join("|"), help: "method (default pfedacnnl)", schema: oneOf(methodNames) },
  data: asInTrain("data"),
  ...Object.fromEntries(dataFlags.map((name) => [name, asInTrain(name)])),
  "train-limit": asInTrain("train-limit"),
  "test-limit": asInTrain("test-limit"),
  clients: { value: "N", help: "clients (default 40)", schema: whole(1) },
  partition: {
    value: "iid|dirichlet:A|shards:N|exdir:N:A",
    help: "how classes are spread over clients (default dirichlet:0.5)",
    schema: z.string().superRefine((text, context) => {
      try {
        parsePartition(text);
      } catch {
        context.addIssue({
          code: "custom",
          message: "iid, dirichlet:ALPHA, shards:CLASSES or exdir:CLASSES:ALPHA is needed",
        });
      }
    }),
  },
  absent: {
    value: "X",
    help: "the chance of a client not to be there in a round (default 0)",
    schema: number("a number from 0 to below 1 is needed")
      .min(0, "a number from 0 to below 1 is needed")
      .lt(1, "a number from 0 to below 1 is needed"),
  },
  stragglers: {
    value: "SPREAD:LIMIT",
    help: "clients take 1 to 1 + SPREAD times the shortest time; who would take longer than LIMIT is left out of a round",
    schema: z
      .string()
      .regex(/^\d+(\.\d+)?:\d+(\.\d+)?$/, "two numbers such as 2:2.5 are needed")
      .refine(
        (text) => Number(text.split(":")[1]) >= 1,
        "two numbers such as 2:2.5, the limit from 1, are needed",
      ),
  },
  rounds: {
    methods: [...gradientMethods, "afl"],
    value: "N",
    help: "rounds of communication (default 20; 1 for afl, where clients that were away are added in later ones)",
    schema: whole(1),
  },
  forget: {
    methods: ["afl"],
    value: "K[,K...]",
    help: "clients, from 0, that leave after the last round: what they sent is subtracted (default none)",
    schema: z
      .string()
      .regex(/^\d+(,\d+)*$/, "numbers of clients such as 3,7 are needed")
      .refine((text) => new Set(numbers(text)).size === numbers(text).length, "each client once is needed"),
  },
  model: {
    methods: gradientMethods,
    value: modelNames.join("|"),
    help: "model (default mlp)",
    schema: oneOf(modelNames),
  },
  hidden: {
    methods: gradientMethods,
    value: "N[,N...]",
    help: "hidden layer sizes of the mlp (default 64)",
    schema: sizes("64 or 128,64"),
  },
  epochs: {
    methods: passing,
    value: "N",
    help: "passes over a client's examples in a round (default 5)",
    schema: whole(1),
  },
  "local-steps": {
    methods: ["pfedme", "per-fedavg"],
    value: "N",
    help: "steps of a client in a round (default 20 for pfedme, 10 for per-fedavg)",
    schema: whole(1),
  },
  batch: {
    methods: gradientMethods,
    value: "N|full",
    help: "examples in a step of a client (default 10; 20 for pfedme, 40 for per-fedavg)",
    schema: trainFlags["batch"]!.schema,
  },
  lr: {
    methods: gradientMethods,
    value: "X",
    help: "learning rate (default 0.1; 0.005 for pfedme, 0.05 for per-fedavg)",
    schema: positive,
  },
  "personal-lr": {
    methods: ["pfedme"],
    value: "X",
    help: "learning rate of a client's own model (default 0.01)",
    schema: positive,
  },
  alpha: {
    methods: ["per-fedavg"],
    value: "X",
    help: "size of the step that makes a client's own model (default 0.05)",
    schema: positive,
  },
  hessian: {
    methods: ["per-fedavg"],
    value: hessianForms.join("|"),
    help: "products with the Hessian, or the first-order form (default exact)",
    schema: oneOf(hessianForms),
  },
  mu: {
    methods: ["fedprox"],
    value: "X",
    help: "weight of fedprox's penalty (default 0.1)",
    schema: positive,
  },
  lambda: {
    methods: ["ditto", "pfedme", "pfedacnnl"],
    value: "X",
    help: "how near own models are held to the one of all (default 1; 15 for pfedme, 100 for pfedacnnl)",
    schema: notNegative,
  },
  beta: {
    methods: ["pfedme"],
    value: "X",
    help: "how far the server goes towards the mean (default 1)",
    schema: positive,
  },
  groups: {
    methods: ["pfedacnnl"],
    value: "N",
    help: "groups of clients with similar classes; own heads are held near that of the group (default 1)",
    schema: whole(1),
  },
  prior: {
    methods: ["pfedacnnl"],
    value: priorNames.join("|"),
    help: "what is held near: the weights of own heads, or their answers on the examples of all (default weights)",
    schema: oneOf(priorNames),
  },
  "own-layers": {
    methods: ["pfedacnnl"],
    value: ownLayerNames.join("|"),
    help: "what a client has of its own: the last layer, or all layers one after the other (default head)",
    schema: oneOf(ownLayerNames),
  },
  "hidden-lambda": {
    methods: ["pfedacnnl"],
    value: "X",
    help: "lambda of own hidden layers, in units of the mean diagonal of a client's Gram matrix (default 100)",
    schema: notNegative,
  },
  ridge: {
    methods: ["pfedacnnl"],
    value: "X",
    help: "penalty on the weights of own heads themselves (default 0)",
    schema: notNegative,
  },
  gamma: {
    methods: analytic,
    value: "X",
    help: "ridge of the last layer (default 100 for fedacnnl and pfedacnnl, else 1)",
    schema: notNegative,
  },
  message: {
    methods: ["afl"],
    value: messageNames.join("|"),
    help: "what clients send: the sums X'X and X'Y, or their weights and X'X + gamma I, of which the server removes gamma (default sums)",
    schema: oneOf(messageNames),
  },
  kept: {
    methods: ["afl"],
    value: "X",
    help: "gamma that the server does not remove (default 0); as much as --gamma is the model of the sums",
    schema: notNegative,
  },
  masked: {
    methods: analytic,
    value: "yes|no",
    help: "clients mask what they send, so that the server can read the sum of all and no other (default no)",
    schema: yesOrNo,
  },
  channels: {
    methods: networks,
    value: "N[,N...]",
    help: "filters of the convolutions, 3 x 3 with maxima of 2 x 2 windows (default 8,16)",
    schema: sizes("8,16"),
  },
  filters: {
    methods: networks,
    value: filterNames.join("|"),
    help: "where filters come from: fitted to pseudo-labels, for all positions alike, random, or half (default ls)",
    schema: oneOf(filterNames),
  },
  width: {
    methods: ["afl", "deepafl"],
    value: "N",
    help: "random features of an example, drawn once (default 256)",
    schema: whole(1),
  },
  layers: { methods: ["deepafl"], value: "N", help: "residual layers (default 5)", schema: whole(1) },
  alone: {
    value: "yes|no",
    help: "also what each client would have learned by itself (default yes)",
    schema: yesOrNo,
  },
  "eval-every": {
    methods: [...gradientMethods, "afl"],
    value: "N",
    help: "rounds between evaluations (default: about 10 in all)",
    schema: whole(1),
  },
  workers: asInTrain("workers"),
  seed: { value: "N", help: "seed of everything that is drawn (default 0)", schema: whole(0) },
  runtime: asInTrain("runtime"),
  out: {
    value: "DIR",
    help: "where results go (default runs/federated-<data>-<method>, numbered)",
    schema: z.string().min(1),
  },
  resume: {
    value: "DIR",
    help: "continue the run in DIR from its last complete round",
    schema: z.string().min(1),
  },
};

const defaults: FederatedConfig = {
  method: "pfedacnnl",
  data: dataNames[0],
  clients: 40,
  partition: "dirichlet:0.5",
  absent: 0,
  rounds: 20,
  model: "mlp",
  hidden: [64],
  channels: [8, 16],
  width: 256,
  layers: 5,
  alone: true,
  workers: 2,
  seed: 0,
  runtime: "sockets",
};

export interface FederatedArguments {
  readonly config: FederatedConfig;
  readonly out: string | undefined;
  readonly resume: string | undefined;
  /** The flags that were given, to tell which of them a resumed run may not change. */
  readonly given: readonly string[];
}

/**
 * Reads the flags of `federated`.
 *
 * @throws {UsageError} naming the flag, the value and what is allowed
 */
export function parseFederatedFlags(args: readonly string[]): FederatedArguments {
  const raw = readFlags(args, federatedFlags);
  const values: Record<string, unknown> = {};
  const problems: string[] = [];
  for (const [name, value] of Object.entries(raw)) {
    const result = federatedFlags[name]!.schema.safeParse(value);
    if (result.success) values[camelCase(name)] = result.data;
    else problems.push(`Cannot use --${name} ${value}: ${result.error.issues[0]!.message}`);
  }
  if (problems.length > 0) throw new UsageError(problems.join("\n"));
  const { out, resume, hidden, channels, forget, ...rest } = values;
  const config = {
    ...defaults,
    // The sums of one round are whole.
    ...(rest["method"] === "afl" && { rounds: 1 }),
    ...(typeof rest["clients"] === "number" && { workers: Math.min(defaults.workers, rest["clients"]) }),
    ...rest,
    ...(hidden !== undefined && { hidden: numbers(hidden) }),
    ...(channels !== undefined && { channels: numbers(channels) }),
    ...(forget !== undefined && { forget: numbers(forget) }),
  } as FederatedConfig;
  const given = Object.keys(raw);
  if (resume === undefined) checkUse(given, config);
  return { config, out: out as string | undefined, resume: resume as string | undefined, given };
}

const camelCase = (name: string): string =>
  name.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase());

function numbers(text: unknown): number[] {
  return String(text).split(",").map(Number);
}

/**
 * Refuses what would change nothing, and what cannot be together.
 *
 * @throws {UsageError} naming each flag and what it needs
 */
export function checkUse(given: readonly string[], config: FederatedConfig): void {
  const { method, model, clients, workers } = config;
  const problems = given.flatMap((name) => {
    const { methods } = federatedFlags[name]!;
    return methods && !methods.includes(method)
      ? [`Cannot use --${name}: it would change nothing, --method ${anyOf(methods)} is needed`]
      : [];
  });
  for (const name of dataFlags) {
    const need = trainFlags[name]!.needs;
    // Flags about data look at nothing else of a configuration.
    if (given.includes(name) && need && !need.holds({ data: config.data } as TrainConfig))
      problems.push(`Cannot use --${name}: it would change nothing, ${need.text} is needed`);
  }
  if (given.includes("hidden") && gradientMethods.includes(method) && model !== "mlp")
    problems.push("Cannot use --hidden: it would change nothing, --model mlp is needed");
  if (method === "pfedme" && config.lambda === 0)
    problems.push(
      "Cannot use --lambda 0 with --method pfedme: own models would be tied to nothing, a positive number is needed",
    );
  problems.push(...(method === "pfedacnnl" ? personalProblems(given, config) : []));
  problems.push(...(method === "afl" ? aflProblems(given, config) : []));
  if (workers > clients)
    problems.push(
      `Cannot use --workers ${workers}: there ${clients === 1 ? "is 1 client" : `are ${clients} clients`}, at least one for each worker is needed`,
    );
  if (problems.length > 0) throw new UsageError(problems.join("\n"));
}

function personalProblems(given: readonly string[], config: FederatedConfig): string[] {
  const { clients, groups = 1, ownLayers = "head", filters = "ls", masked } = config;
  const problems: string[] = [];
  if (groups > clients)
    problems.push(
      `Cannot use --groups ${groups}: there ${clients === 1 ? "is 1 client" : `are ${clients} clients`}, at least one for each group is needed`,
    );
  if (ownLayers === "all" && filters !== "ls" && filters !== "shared")
    problems.push(
      `Cannot use --own-layers all with --filters ${filters}: such filters are not fitted to targets, --filters ls or shared is needed`,
    );
  if (given.includes("hidden-lambda") && ownLayers !== "all")
    problems.push("Cannot use --hidden-lambda: it would change nothing, --own-layers all is needed");
  if (masked && groups > 1)
    problems.push(
      `Cannot use --masked yes with --groups ${groups}: the server would have to know the classes of each client, --groups 1 is needed`,
    );
  return problems;
}

function aflProblems(given: readonly string[], config: FederatedConfig): string[] {
  const { clients, rounds, forget = [], message = "sums", masked } = config;
  const problems: string[] = [];
  const unknown = forget.find((client) => client >= clients);
  if (unknown !== undefined)
    problems.push(
      `Cannot use --forget ${unknown}: there ${clients === 1 ? "is 1 client" : `are ${clients} clients`}, a number from 0 to ${clients - 1} is needed`,
    );
  else if (forget.length === clients)
    problems.push(`Cannot use --forget ${forget}: these are all clients, one that stays is needed at least`);
  if (given.includes("kept") && message !== "model")
    problems.push("Cannot use --kept: it would change nothing, --message model is needed");
  if (given.includes("eval-every") && rounds === 1)
    problems.push("Cannot use --eval-every: it would change nothing, --rounds of 2 or more is needed");
  if (masked && message === "model")
    problems.push(
      "Cannot use --masked yes with --message model: models of clients are not summed as they are, --message sums is needed",
    );
  if (masked && forget.length > 0)
    problems.push(
      "Cannot use --masked yes with --forget: the server would get the sums of those that leave apart from the others, --masked no is needed",
    );
  return problems;
}

function anyOf(names: readonly string[]): string {
  return names.length === 1 ? names[0]! : `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`;
}

/** What is wrong with a configuration from a file; null if `parseFederatedFlags` could have made it. */
export function federatedProblem(json: unknown): string | null {
  const record = (json ?? {}) as Readonly<Record<string, unknown>>;
  const missing = Object.keys(defaults).find((name) => !Object.hasOwn(record, name));
  if (missing !== undefined) return `it lacks "${missing}"`;
  for (const [name, value] of Object.entries(record)) {
    const flag = name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    const text = typeof value === "boolean" ? (value ? "yes" : "no") : String(value);
    if (!(Object.hasOwn(federatedFlags, flag) && federatedFlags[flag]!.schema.safeParse(text).success))
      return `its "${name}" is ${JSON.stringify(value)}`;
  }
  return null;
}
