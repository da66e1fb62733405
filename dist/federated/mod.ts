/**
 * Federated learning: clients whose examples never leave them, methods as pure functions, and runs over every runtime.
 */
export {
  type AnalyticConv,
  type AnalyticDense,
  type AnalyticFilters,
  type AnalyticLayer,
  type AnalyticNetworkOptions,
  type FittedLayer,
  pseudoLabels,
} from "./acnnl.ts";
export {
  type AflOptions,
  type AflServer,
  afl,
  joinByAbsoluteLaw,
  joinModels,
  leaveModel,
  type RecursiveModel,
  type RidgeModel,
  randomFeatures,
  recursiveModel,
  recursiveStep,
  removeGamma,
  ridgeModel,
} from "./afl.ts";
export {
  type BlockFactors,
  type DeepAflClient,
  type DeepAflOptions,
  type DeepAflServer,
  deepafl,
  sandwich,
} from "./deepafl.ts";
export { type DittoOptions, ditto, type PersonalModel } from "./ditto.ts";
export {
  type FedAcnnlBroadcast,
  type FedAcnnlClient,
  type FedAcnnlOptions,
  type FedAcnnlServer,
  fedacnnl,
} from "./fedacnnl.ts";
export { type FedAvgOptions, fedAvg, type NoState } from "./fedavg.ts";
export {
  type ClientOutcome,
  type FederatedData,
  type FederatedModels,
  type FederatedOptions,
  type FederatedOutcome,
  federatedModels,
  federatedOutcome,
  federatedSetup,
  federatedWorkerInitial,
  federatedWorkerJobs,
} from "./jobs.ts";
export { type Groups, kMeans } from "./k_means.ts";
export type { GradientOptions } from "./learner.ts";
export type { ClientData, FederatedMethod } from "./method.ts";
export {
  type DirichletOptions,
  dirichlet,
  type ExtendedDirichletOptions,
  extendedDirichlet,
  iid,
  type OwnExamples,
  type Partition,
  type PartitionOptions,
  parsePartition,
  partitionExamples,
  type ShardOptions,
  shards,
  showPartition,
  splitOwn,
} from "./partition.ts";
export { type PerFedAvgOptions, perFedAvg } from "./per_fedavg.ts";
export {
  type PersonalizeOptions,
  type PFedAcnnlBroadcast,
  type PFedAcnnlOptions,
  type PFedAcnnlServer,
  personalize,
  personalizeFew,
  pfedacnnl,
} from "./personal.ts";
export { type PFedMeOptions, pFedMe } from "./pfedme.ts";
export {
  type ClientBytes,
  type FederatedPlan,
  type FederatedPlanInput,
  federatedBytes,
  federatedConfig,
  federatedPlan,
  hostedClients,
  presentClients,
  type Stragglers,
} from "./plan.ts";
export {
  type FixedPoint,
  fromFixedPoint,
  type Masking,
  type MaskKeys,
  masked,
  maskPayload,
  seededMaskKeys,
  sumOfMasked,
  toFixedPoint,
} from "./secure_sum.ts";
export {
  addStatistics,
  type PackedStatistics,
  packStatistics,
  packSymmetric,
  ridge,
  type Statistics,
  statisticsBytes,
  statisticsOf,
  subtractStatistics,
  unpackStatistics,
  unpackSymmetric,
  zeroStatistics,
} from "./statistics.ts";
