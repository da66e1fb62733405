/** The methods of federated runs, made for a configuration and the shape of the data. */
import * as nn from "../../core/nn.ts";
import { reshape } from "../../core/ops.ts";
import { type AflOptions, afl, randomFeatures } from "../../dist/federated/afl.ts";
import { deepafl } from "../../dist/federated/deepafl.ts";
import { ditto } from "../../dist/federated/ditto.ts";
import { type FedAcnnlOptions, fedacnnl } from "../../dist/federated/fedacnnl.ts";
import { fedAvg } from "../../dist/federated/fedavg.ts";
import type { GradientOptions } from "../../dist/federated/learner.ts";
import type { FederatedMethod } from "../../dist/federated/method.ts";
import { perFedAvg } from "../../dist/federated/per_fedavg.ts";
import { pfedacnnl } from "../../dist/federated/personal.ts";
import { pFedMe } from "../../dist/federated/pfedme.ts";
import { masked } from "../../dist/federated/secure_sum.ts";
import { UsageError } from "../config.ts";
import type { Dataset } from "../data/dataset.ts";
import { type FederatedConfig, gradientMethods, type MethodName } from "./config.ts";

/** Bits after the point of numbers in masked messages. */
export const MASKED_BITS = 32;

/** A method whose states only it reads. */
export type AnyMethod = FederatedMethod<never, never>;

/** What a run computes. */
export interface RunMethods {
  readonly method: AnyMethod;
  /** What a client runs by itself to compare; null if nobody asks. */
  readonly alone: AnyMethod | null;
  /** Whether there is a model after every round, so that curves make sense. */
  readonly isWholeEveryRound: boolean;
  /** Whether a run that has ended can go on for more rounds. */
  readonly canGoOn: boolean;
}

/** The data as methods see it. */
type Shape = Pick<Dataset, "name" | "exampleShape" | "classes">;

type Maker = (config: FederatedConfig, data: Shape) => unknown;

/** FedAvg and those that end in a model of the same steps are compared with plain training alone. */
const plain: Maker = (config, data) =>
  fedAvg(modelOf(config, data), {
    ...gradientOptions(config),
    ...(config.epochs !== undefined && { epochs: config.epochs }),
  });

const makers: Readonly<Record<MethodName, { readonly make: Maker; readonly alone?: Maker }>> = {
  pfedacnnl: {
    make: (config, data) =>
      pfedacnnl({
        ...networkOptions(config, data),
        ...given({
          lambda: config.lambda,
          ridge: config.ridge,
          prior: config.prior,
          groups: config.groups,
          layersOfOwn: config.ownLayers,
          hiddenLambda: config.hiddenLambda,
        }),
      }),
    alone: (config, data) => fedacnnl(networkOptions(config, data)),
  },
  fedacnnl: { make: (config, data) => fedacnnl(networkOptions(config, data)) },
  deepafl: {
    make: (config, data) =>
      deepafl({
        inputs: inputsOf(data),
        classes: data.classes,
        blocks: config.layers,
        hidden: config.width,
        width: config.width,
        seed: config.seed,
        ...given({ gamma: config.gamma }),
      }),
  },
  afl: {
    make: (config, data) =>
      afl({ ...aflOptions(config, data), rounds: config.rounds, leaving: config.forget !== undefined }),
    alone: (config, data) => aflAtOnce(config, data),
  },
  fedavg: { make: plain },
  fedprox: {
    make: (config, data) =>
      fedAvg(modelOf(config, data), {
        ...gradientOptions(config),
        mu: config.mu ?? 0.1,
        ...given({ epochs: config.epochs }),
      }),
    alone: plain,
  },
  ditto: {
    make: (config, data) =>
      ditto(modelOf(config, data), {
        ...gradientOptions(config),
        ...given({ epochs: config.epochs, lambda: config.lambda }),
      }),
    alone: plain,
  },
  pfedme: {
    make: (config, data) =>
      pFedMe(modelOf(config, data), {
        ...gradientOptions(config),
        ...given({
          lambda: config.lambda,
          localRounds: config.localSteps,
          personalLearningRate: config.personalLr,
          beta: config.beta,
        }),
      }),
    alone: (config, data) => plain({ ...config, lr: undefined, batch: undefined }, data),
  },
  "per-fedavg": {
    // The rates of the paper are for many more rounds than a run here has.
    make: (config, data) =>
      perFedAvg(modelOf(config, data), {
        ...gradientOptions({ ...config, lr: config.lr ?? 0.05 }),
        alpha: config.alpha ?? 0.05,
        ...given({ localSteps: config.localSteps, hessian: config.hessian }),
      }),
    alone: (config, data) => plain({ ...config, lr: undefined, batch: undefined }, data),
  },
};

/**
 * What a configuration names, for the shape of the data.
 *
 * @throws {UsageError} if the method cannot be for such data
 */
export function methodsOf(config: FederatedConfig, data: Shape): RunMethods {
  const { make, alone = make } = makers[config.method];
  const { clients, seed } = config;
  try {
    const method = make(config, data) as AnyMethod;
    const isWholeEveryRound = gradientMethods.includes(config.method) || config.method === "afl";
    return {
      method: config.masked ? masked(method, { clients, seed, fractionBits: MASKED_BITS }) : method,
      alone: config.alone ? (alone(config, data) as AnyMethod) : null,
      isWholeEveryRound,
      // Of clients that left, what was known before they did does not stay behind.
      canGoOn: isWholeEveryRound && config.forget === undefined,
    };
  } catch (error) {
    // Sizes that do not fit the images: the message says what is needed.
    if (error instanceof RangeError) throw new UsageError(error.message);
    throw error;
  }
}

/** The options that were given; the others are the method's. */
function given<T extends object>(options: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const entries = Object.entries(options).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as { [K in keyof T]?: Exclude<T[K], undefined> };
}

function gradientOptions({ rounds, batch, lr, seed }: FederatedConfig): GradientOptions {
  return { rounds, seed, ...given({ batch, learningRate: lr }) };
}

/** AFL of one round, from clients that are all there. */
export function aflAtOnce(config: FederatedConfig, data: Shape): ReturnType<typeof afl> {
  return afl(aflOptions(config, data));
}

function aflOptions({ width, seed, gamma, message, kept }: FederatedConfig, data: Shape): AflOptions {
  return {
    features: randomFeatures({ inputs: inputsOf(data), width, seed }),
    width,
    classes: data.classes,
    message: message === "model" ? "model" : "statistics",
    ...given({ gamma, kept }),
  };
}

function networkOptions({ channels, filters, gamma, seed }: FederatedConfig, data: Shape): FedAcnnlOptions {
  return {
    image: imageOf(data),
    classes: data.classes,
    layers: channels.map((count) => ({ k: "conv", channels: count, kernel: 3 })),
    seed,
    ...given({ filters, headGamma: gamma }),
  };
}

/** The model of gradient methods. */
function modelOf(config: FederatedConfig, data: Shape): nn.Model {
  const inputs = inputsOf(data);
  const rows = <P>(model: nn.Model<P>): nn.Model =>
    ({
      ...model,
      apply: (params: P, x: Parameters<nn.Model["apply"]>[1]) =>
        model.apply(params, reshape(x, [x.shape[0]!, inputs])),
    }) as unknown as nn.Model;
  switch (config.model) {
    case "mlp":
      return rows(nn.mlp([inputs, ...config.hidden, data.classes]));
    case "logistic":
      return rows(nn.logistic(inputs, data.classes));
    case "cnn":
      return nn.cnn({ image: imageOf(data), classes: data.classes });
    default:
      return config.model satisfies never;
  }
}

function inputsOf({ exampleShape }: Shape): number {
  return exampleShape.reduce((a, b) => a * b, 1);
}

/** Channels, height, width. */
function imageOf({ exampleShape, name }: Shape): readonly [number, number, number] {
  const [a, b, c] = exampleShape;
  if (exampleShape.length === 3) return [a!, b!, c!];
  if (exampleShape.length === 2) return [1, a!, b!];
  throw new UsageError(
    `Cannot make a convolutional network for ${name}: its examples have the shape [${exampleShape}], images are needed; use --method afl, deepafl or fedavg`,
  );
}
