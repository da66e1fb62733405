/** The namespace `dist`: plans, runtimes, the simulator. */
export { type Problem, type Scored, trainingSetup, workerInitial, workerJobs } from "./jobs.ts";
export {
  type CurvaturePlan,
  makePlan,
  type Plan,
  type PlanInput,
  type SyncPlan,
  type UpdatePlan,
} from "./plan.ts";
export type { Script } from "./protocol/script.ts";
export { type Config, protocolDefaults } from "./protocol/types.ts";
export {
  type Job,
  type Jobs,
  memoryStore,
  type Progress,
  type Store,
  type Values,
} from "./runtime/driver.ts";
export { type LocalOptions, RunError, type RunResult, runLocal } from "./runtime/local.ts";
export { type RunSetup, type RunValues, runSequential } from "./runtime/sequential.ts";
export { configOf, roundScript } from "./script.ts";
