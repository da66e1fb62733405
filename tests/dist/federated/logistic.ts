/** Logistic regression in float64 for federated tests: once as a model, once as plain loops that share nothing with it. */

import { tensor } from "../../../core/create.ts";
import type { Model } from "../../../core/nn/model.ts";
import { cast, matmul, mul, reshape, softplus, sub } from "../../../core/ops.ts";
import type { Value } from "../../../core/value.ts";
import type { ClientData, FederatedMethod } from "../../../dist/federated/method.ts";
import { dot, f64, type Matrix, mulberry32, type Vector } from "../../optim/numbers.ts";

/** Examples as rows of numbers with classes 0 and 1. */
export interface Examples {
  readonly x: Matrix;
  readonly y: Vector;
}

/** Examples of a client, of its own kind. */
export function drawExamples(count: number, features: number, seed: number): Examples {
  const uniform = mulberry32(seed);
  const x = Array.from({ length: count }, () => Array.from({ length: features }, () => 2 * uniform() - 1));
  return { x, y: x.map((row) => (row[0]! + 0.5 * row[seed % features]! > 0.4 * (uniform() - 0.5) ? 1 : 0)) };
}

export function tensorsOf({ x, y }: Examples): ClientData {
  return { x: f64(x.flat(), [x.length, x[0]!.length]), y: tensor([...y], { dtype: "int32" }) };
}

/** Scores x w as a model with parameters [features, 1], starting somewhere. */
export function logisticModel(start: Vector): Model<{ readonly w: Value }> {
  return {
    name: "logistic",
    init: () => ({ w: f64(start, [start.length, 1]) }),
    apply: ({ w }, x) => matmul(x, w),
  };
}

/** log(1 + e^z) - y z of each example. */
export function losses(outputs: Value, y: Value): Value {
  const z = reshape(outputs, [outputs.shape[0]!]);
  return sub(softplus(z), mul(cast(y, "float64"), z));
}

const sigmoid = (z: number): number => 1 / (1 + Math.exp(-z));

/** The mean loss. */
export function lossAt({ x, y }: Examples, w: Vector): number {
  return (
    x.reduce((sum, row, i) => sum + Math.log1p(Math.exp(dot(row, w))) - y[i]! * dot(row, w), 0) / x.length
  );
}

/** The gradient of the mean loss. */
export function gradientAt({ x, y }: Examples, w: Vector): number[] {
  const errors = x.map((row, i) => sigmoid(dot(row, w)) - y[i]!);
  return w.map((_, j) => x.reduce((sum, row, i) => sum + errors[i]! * row[j]!, 0) / x.length);
}

/** The Hessian of the mean loss times v. */
export function hessianTimes({ x }: Examples, w: Vector, v: Vector): number[] {
  const factors = x.map((row) => {
    const p = sigmoid(dot(row, w));
    return p * (1 - p) * dot(row, v);
  });
  return w.map((_, j) => x.reduce((sum, row, i) => sum + factors[i]! * row[j]!, 0) / x.length);
}

/** a + factor b */
export function moved(a: Vector, factor: number, b: Vector): number[] {
  return a.map((ai, i) => ai + factor * b[i]!);
}

/** What a method comes to with these clients; `isThere` says who is there in a round. */
export function runPlainly<S, C>(
  method: FederatedMethod<S, C>,
  data: readonly ClientData[],
  isThere: (round: number, client: number) => boolean = () => true,
): { readonly server: S; readonly clients: readonly C[] } {
  let server = method.initServer();
  const states = data.map((_, client) => method.initClient(client));
  for (let round = 0; round < method.rounds; round++) {
    const message = method.broadcast(server, round);
    const answers = data.map((own, client) => {
      if (!isThere(round, client)) return null;
      const at = { round, client, clients: data.length };
      const [state, sent] = method.client(states[client]!, own, message, at);
      states[client] = state;
      return sent;
    });
    server = method.server(server, answers, round);
  }
  return { server, clients: states };
}
