/** The namespace `optim`: optimizers, their parts, curvature. */
export * from "./adam.ts";
export { augmentedGradient, consensusCandidate, dualUpdate, extrapolate, meanOf } from "./admm.ts";
export * from "./clip.ts";
export * from "./fosi.ts";
export { type LanczosOptions, lanczos, lanczosAsync, lanczosOrder, type Spectrum } from "./lanczos.ts";
export * from "./momentum.ts";
export * from "./schedule.ts";
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
