/** The namespace `dist`: plans, runtimes, the simulator. Sockets and processes are in `dist/runtime/mod_bun.ts`. */
export * from "./compress/mod.ts";
export * from "./federated/mod.ts";
export {
  type Costs,
  clockOf,
  type Forecast,
  forecast,
  freeOfCost,
  type Network,
  type PhaseForecast,
  type Rate,
} from "./forecast.ts";
export { viewOf } from "./jobs/communicating.ts";
export { matricesOf, type Problem, type Scored, trainingSetup, workerInitial, workerJobs } from "./jobs.ts";
export {
  type CurvaturePlan,
  type Layout,
  makePlan,
  type Plan,
  type PlanInput,
  type RateSchedule,
  type SplitPlan,
  type SyncPlan,
  type UpdateMethod,
  type UpdatePlan,
} from "./plan.ts";
export {
  type CostOptions,
  type PhaseCost,
  type PlanCost,
  planCost,
  showPlan,
  type WorkerMemory,
} from "./plan_cost.ts";
export type { Script, Turn } from "./protocol/script.ts";
export { type Config, type Exchange, protocolDefaults } from "./protocol/types.ts";
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
  type SimClock,
  type SimOptions,
  type SimResult,
  type SimStats,
  simulate,
} from "./sim.ts";
export {
  type CurvatureGroup,
  type CurvatureSource,
  curvatureGroup,
  directSource,
  groupConfig,
  groupWorkerJobs,
  type Snapshot,
} from "./split.ts";
export {
  type Body,
  encodeFrame,
  type Fed,
  type Frame,
  type FrameReader,
  frameReader,
  type RemoteError,
  type WireLimits,
} from "./wire.ts";
export type { Examples, WorkKind } from "./work_counts.ts";
