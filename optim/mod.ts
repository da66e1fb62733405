/** The namespace `optim`: optimizers, their parts, curvature. */
export * from "./accumulate.ts";
export * from "./adagrad.ts";
export * from "./adahessian.ts";
export * from "./adam.ts";
export { augmentedGradient, consensusCandidate, dualUpdate, extrapolate, meanOf } from "./admm.ts";
export * from "./clip.ts";
export * from "./conjugate_gradient.ts";
export * from "./ema.ts";
export * from "./fosi.ts";
export * from "./fosi_methods.ts";
export * from "./freeze.ts";
export type { ValueExtra } from "./gain_ratio.ts";
export * from "./gauss_newton.ts";
export * from "./kfac.ts";
export * from "./lamb.ts";
export { type LanczosOptions, lanczos, lanczosAsync, lanczosOrder, type Spectrum } from "./lanczos.ts";
export * from "./lbfgs.ts";
export * from "./lion.ts";
export * from "./lookahead.ts";
export { type LeafTest, type Mask, masked, multiTransform } from "./masked.ts";
export * from "./momentum.ts";
export * from "./muon.ts";
export * from "./newton_cg.ts";
export * from "./penalized.ts";
export * from "./rmsprop.ts";
export * from "./sampled_loss.ts";
export * from "./schedule.ts";
export * from "./shampoo.ts";
export * from "./soap.ts";
export * from "./sophia.ts";
export { cite, type Source, sources } from "./sources.ts";
export {
  applyUpdates,
  type CountState,
  chain,
  type GradientTransformation,
  type NoExtra,
  type StateOf,
  scaleByLearningRate,
} from "./transformation.ts";
export { type Eigen, type Tridiagonal, tridiagonalEigen } from "./tridiagonal.ts";
