/** Divisible communication and its peers: methods whose workers send parts of what they have, and what they send it by. */
export { blockCompressor, blockIndices, type DrawnOptions } from "./block.ts";
export {
  type Communicator,
  type CompressAt,
  type Compressor,
  type CompressorOptions,
  expandReduced,
  type RatioOptions,
  type Reduced,
  receivedBytes,
  reduceCompressed,
} from "./compressor.ts";
export {
  type DecoupledMomentumOptions,
  type DecoupledMomentumState,
  decoupledMomentum,
} from "./decoupled_momentum.ts";
export { type DivAdam, type DivAdamOptions, type DivAdamState, divAdam } from "./div_adam.ts";
export {
  type DetachedOptions,
  detachedErrorFeedback,
  type ErrorFeedbackOptions,
  type ErrorFeedbackState,
  errorFeedback,
  type StepAheadOptions,
  stepAheadErrorFeedback,
} from "./error_feedback.ts";
export { type ErrorResetOptions, type ErrorResetState, errorReset } from "./error_reset.ts";
export {
  type GradientFeedbackAdamOptions,
  type GradientFeedbackMomentumOptions,
  type GradientFeedbackState,
  gradientFeedbackAdam,
  gradientFeedbackMomentum,
} from "./gradient_feedback.ts";
export { type HalfOptions, halfCompressor } from "./half.ts";
export {
  type DiLoCoOptions,
  diLoCo,
  type LocalAdamOptions,
  type LocalAdamState,
  localAdam,
} from "./local_adam.ts";
export { type LossyMean, lossyMean, type MeanPart, type PowerSgdMemory, powerSgdMean } from "./lossy_mean.ts";
export {
  type Memory,
  type MemoryState,
  noMemory,
  type RememberedMean,
  type RememberedMeanParts,
  rememberedMean,
  residualMemory,
} from "./memory.ts";
export type {
  BackgroundExchange,
  CommunicatingMethod,
  LearningRate,
  ParameterShapes,
  Payload,
  StepAt,
  Traffic,
} from "./method.ts";
export { type OneBitAdamOptions, type OneBitAdamState, oneBitAdam } from "./one_bit_adam.ts";
export type { CommunicationPlan, CompressorPlan } from "./plan.ts";
export {
  type PowerSgd,
  type PowerSgdFirst,
  type PowerSgdOptions,
  type PowerSgdResult,
  type PowerSgdState,
  powerSgd,
} from "./power_sgd.ts";
export { type QsgdOptions, qsgdCompressor } from "./qsgd.ts";
export { type RandomKOptions, randomKCompressor } from "./random_k.ts";
export type { MomentOptions, SettingOptions } from "./setting.ts";
export { type Coded, signCompressor } from "./sign.ts";
export {
  type Together,
  type TogetherPoint,
  type TrafficByWait,
  together,
} from "./together.ts";
export { type Sparse, topKCompressor } from "./top_k.ts";
export {
  type ZeroOneAdamOptions,
  type ZeroOneAdamState,
  type ZeroOneSchedule,
  type ZeroOneStep,
  zeroOneAdam,
  zeroOneSchedule,
} from "./zero_one_adam.ts";
