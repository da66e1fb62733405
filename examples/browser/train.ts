/**
 * A small network learns a noisy curve, on the processor or on a GPU: the same program, the same numbers. The page in
 * this folder draws it as it learns; nothing here needs a browser.
 */
import * as ct from "../../mod.ts";

export const POINTS = 128;
const HIDDEN = 32;

/** The state of the network after so many steps, on the host. */
export interface Progress {
  readonly step: number;
  /** Where it was computed. */
  readonly device: string;
  /** The mean square of the errors. */
  readonly loss: number;
  /** What the network gives at each of the points. */
  readonly fit: ArrayLike<number>;
}

const [dataKey, modelKey] = ct.random.split(ct.random.key(3)) as [ct.Value, ct.Value];

const inputs: ct.Value = ct.linspace(-1, 1, POINTS).reshape([POINTS, 1]);
const noise = ct.random.normal(dataKey, [POINTS, 1]).mul(0.05);
const targets: ct.Value = inputs.mul(5).sin().mul(0.7).add(noise);

/** The points to learn. */
export const points: { readonly x: ArrayLike<number>; readonly y: ArrayLike<number> } = {
  x: inputs.dataSync(),
  y: targets.dataSync(),
};

const model = ct.nn.mlp([1, HIDDEN, HIDDEN, 1], { activation: ct.tanh });
type Params = ReturnType<typeof model.init>;
const adam = ct.optim.adam(0.005);
type State = ReturnType<typeof adam.init>;

const loss = (params: Params, x: ct.Value, y: ct.Value): ct.Value => ct.nn.mse(model.apply(params, x), y);

/** One step of Adam, recorded once and compiled for the device that its arguments are on. */
const learn = ct.jit(
  (params: Params, state: State, x: ct.Value, y: ct.Value): readonly [Params, State, ct.Value] => {
    const [value, gradient] = ct.valueAndGrad(loss)(params, x, y);
    const [updates, next] = adam.update(gradient, state, params, {});
    return [ct.optim.applyUpdates(params, updates), next, value];
  },
  { donate: [0, 1] },
);
const predict = ct.jit((params: Params, x: ct.Value): ct.Value => model.apply(params, x));

/** Trains on a device and reports every `every` steps: a read waits for the device, steps alone do not. */
export async function* train(device: "cpu" | "webgpu", steps: number, every = 10): AsyncGenerator<Progress> {
  await ct.init(device);
  const initial = model.init(modelKey);
  const start = await ct.devicePut({ params: initial, state: adam.init(initial), inputs, targets }, device);
  const { inputs: x, targets: y } = start;
  let { params, state } = start;
  for (let step = 1; step <= steps; step++) {
    const [nextParams, nextState, value] = learn(params, state, x, y);
    [params, state] = [nextParams, nextState];
    if (step % every !== 0 && step !== steps) continue;
    const [now, fit] = await ct.devicePut([value, predict(params, x)] as const, "cpu");
    yield { step, device: value.device, loss: now.item(), fit: fit.dataSync() };
  }
}
