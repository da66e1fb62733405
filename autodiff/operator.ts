/** The namespace `operator`: matrices known by their products with vectors, as second-order methods need them. */
export {
  damped,
  type LinearOperator,
  meanOperator,
  type OperatorSource,
  type Tag,
} from "./operator_algebra.ts";
export { empiricalFisherOperator, fisherOperator, gaussNewtonOperator } from "./operator_gauss_newton.ts";
export { hessianOperator } from "./operator_hessian.ts";
