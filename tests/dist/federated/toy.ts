/** A small federated run by name, the same in every process of a test. */
import { tensor } from "../../../core/create.ts";
import { logistic } from "../../../core/nn/models.ts";
import { afl } from "../../../dist/federated/afl.ts";
import { deepafl } from "../../../dist/federated/deepafl.ts";
import { type DittoOptions, ditto } from "../../../dist/federated/ditto.ts";
import { type FedAcnnlOptions, fedacnnl } from "../../../dist/federated/fedacnnl.ts";
import { fedAvg } from "../../../dist/federated/fedavg.ts";
import { type FederatedData, federatedSetup } from "../../../dist/federated/jobs.ts";
import type { ClientData, FederatedMethod } from "../../../dist/federated/method.ts";
import { perFedAvg } from "../../../dist/federated/per_fedavg.ts";
import { pfedacnnl } from "../../../dist/federated/personal.ts";
import { pFedMe } from "../../../dist/federated/pfedme.ts";
import { type FederatedPlan, type FederatedPlanInput, federatedPlan } from "../../../dist/federated/plan.ts";
import type { RunSetup } from "../../../dist/runtime/sequential.ts";
import { mulberry32 } from "../../optim/numbers.ts";

/** Methods by gradient steps, and in closed form. */
export const gradientNames = ["fedavg", "ditto", "pfedme", "per-fedavg"] as const;
export const analyticNames = ["afl", "fedacnnl", "pfedacnnl", "deepafl"] as const;

type ToyName = (typeof gradientNames | typeof analyticNames)[number];
export const toyNames: readonly ToyName[] = [...gradientNames, ...analyticNames];

/** One run; plain data. */
export interface Toy {
  readonly method: ToyName;
  readonly plan: FederatedPlanInput;
}

const features = 4;
const classes = 3;

/** Client k has k + 3 examples that lean towards class k mod 3, as many to be judged on, and client 1 none of these. */
export const toyData: FederatedData = {
  train: (client) => draw(client, client + 3, 1),
  test: (client) => (client === 1 ? null : draw(client, client + 3, 2)),
};

function draw(client: number, count: number, split: number): ClientData {
  const uniform = mulberry32(1000 * split + client);
  const y = Array.from({ length: count }, () =>
    uniform() < 0.5 ? client % classes : Math.floor(classes * uniform()),
  );
  const x = y.flatMap((label) =>
    Array.from({ length: features }, (_, j) => uniform() - 0.5 + (j === label ? 1 : 0)),
  );
  return { x: tensor(x, { shape: [count, features] }), y: tensor(y, { dtype: "int32" }) };
}

export function toyMethod({ method, plan }: Toy): FederatedMethod<never, never> {
  const model = logistic(features, classes);
  const network: FedAcnnlOptions = {
    image: [1, 1, features],
    classes,
    layers: [{ k: "dense", width: 6 }],
    headGamma: 1,
  };
  const options: DittoOptions = { rounds: plan.rounds, batch: 4, learningRate: 0.1, seed: 3 };
  const made = {
    fedavg: () => fedAvg(model, options),
    ditto: () => ditto(model, options),
    pfedme: () => pFedMe(model, { ...options, localRounds: 3 }),
    "per-fedavg": () => perFedAvg(model, { ...options, localSteps: 3 }),
    afl: () => afl({ features: (x) => x, width: features, classes }),
    fedacnnl: () => fedacnnl(network),
    pfedacnnl: () => pfedacnnl({ ...network, lambda: 1, groups: 2 }),
    deepafl: () => deepafl({ inputs: features, classes, hidden: 5, width: 6, blocks: 1 }),
  }[method]();
  return made as unknown as FederatedMethod<never, never>;
}

export function toySetup(toy: Toy): { readonly plan: FederatedPlan; readonly setup: RunSetup } {
  const plan = federatedPlan(toy.plan);
  const isGradient = (gradientNames as readonly string[]).includes(toy.method);
  const alone = toyMethod({
    ...toy,
    method: isGradient ? "fedavg" : toy.method === "pfedacnnl" ? "fedacnnl" : toy.method,
  });
  return { plan, setup: federatedSetup(plan, toyMethod(toy), toyData, { alone }) };
}
