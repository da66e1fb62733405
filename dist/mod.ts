/** The namespace `dist`: plans, runtimes, the simulator. Sockets and processes are in `dist/runtime/mod_bun.ts`. */
export { type Problem, type Scored, trainingSetup, workerInitial, workerJobs } from "./jobs.ts";
export {
  type CurvaturePlan,
  makePlan,
  type Plan,
  type PlanInput,
  type SyncPlan,
  type UpdatePlan,
} from "./plan.ts";
export { type PhaseCost, type PlanCost, planCost, showPlan } from "./plan_cost.ts";
export type { Script } from "./protocol/script.ts";
export { type Config, protocolDefaults } from "./protocol/types.ts";
export {
  type Job,
  type JobSteps,
  type Jobs,
  memoryStore,
  type Progress,
  type Store,
  type Values,
} from "./runtime/driver.ts";
export { type LocalOptions, RunError, type RunResult, runLocal } from "./runtime/local.ts";
export { type RunSetup, type RunValues, runSequential } from "./runtime/sequential.ts";
export { configOf, roundScript } from "./script.ts";
export {
  type Faults,
  noFaults,
  report,
  type SimOptions,
  type SimResult,
  type SimStats,
  simulate,
} from "./sim.ts";
export {
  encodeFrame,
  type Fed,
  type Frame,
  type FrameReader,
  frameReader,
  type RemoteError,
  type WireLimits,
} from "./wire.ts";
