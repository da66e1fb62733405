/** Methods that precondition each matrix of parameters from both sides. */
import { jit } from "../../../autodiff/jit.ts";
import { valueAndGrad } from "../../../autodiff/vjp.ts";
import type { Params } from "../../../core/nn.ts";
import * as random from "../../../core/random.ts";
import type { Value } from "../../../core/value.ts";
import { type KfacState, kfac, kfacLayers, layerStatistics } from "../../../optim/kfac.ts";
import { sampledLoss } from "../../../optim/sampled_loss.ts";
import { type Shampoo, type ShampooState, shampoo } from "../../../optim/shampoo.ts";
import { soap } from "../../../optim/soap.ts";
import { applyUpdates } from "../../../optim/transformation.ts";
import { around, type Method, method } from "../method.ts";
import type { Batch } from "../task.ts";
import { inHalves, modelOf, termsOf } from "./curvature.ts";

/** The methods by the name of the command line. */
export const matrixMethods: Readonly<Record<string, Method>> = {
  shampoo: method({
    summary: "Shampoo with the step lengths of Adam, 0 for its own",
    rates: around(1e-3),
    settings: { period: 100, graft: 1, beta2: 0.999, dimension: 1024 },
    make({ problem, learningRate, settings: { period, graft, beta2, dimension } }) {
      const optimizer: Shampoo = shampoo(learningRate, {
        period,
        beta2,
        maxDimension: dimension,
        grafting: graft === 0 ? "none" : "adam",
      });
      const gradient = jit((params: Params, batch: Batch) =>
        valueAndGrad((p: Params) => problem.loss(p, batch))(params),
      );
      const step = jit(
        (gradients: Params, state: ShampooState, params: Params): [Params, ShampooState] => {
          const [updates, next] = optimizer.step(gradients, state, params);
          return [applyUpdates(params, updates), next];
        },
        { donate: [0, 1, 2] },
      );
      return {
        init: (params) => optimizer.init(params),
        warm: ({ params, state }) => void optimizer.refreshCurvature(state as ShampooState, params),
        step({ params, state }, index, batch) {
          const [loss, gradients] = gradient(params, batch);
          const own = state as ShampooState;
          const fresh = optimizer.curvatureDue(index) ? optimizer.refreshCurvature(own, gradients) : own;
          const [next, nextState] = step(gradients, fresh, params);
          return { params: next, state: nextState, loss, extraGradients: 0 };
        },
      };
    },
  }),
  soap: method({
    summary: "SOAP: Adam in the eigenbasis of Shampoo",
    rates: around(3e-3),
    settings: { period: 100, decay: 0 },
    make({ problem, learningRate, settings: { period, decay } }) {
      const optimizer = soap(learningRate, { period, weightDecay: decay });
      return inHalves(problem, {
        init: (params) => optimizer.init(params),
        curvatureDue: (made) => optimizer.curvatureDue(made),
        step: (gradients, state, params) => optimizer.step(gradients, state, params),
        refresh: (state) => optimizer.refreshCurvature(state),
        refreshGradients: 0,
      });
    },
  }),
  kfac: method({
    summary: "K-FAC in the eigen form; sampled=1 draws the labels of its statistics",
    rates: around(0.03),
    settings: { period: 50, factors: 5, damping: 1e-3, clip: 1e-3, beta: 0.9, sampled: 0 },
    make({ problem, learningRate, settings, seed }) {
      const { outputs, likelihood } = modelOf("kfac", problem);
      const { period, factors, damping, clip, beta, sampled } = settings;
      const first = problem.batch(0);
      const loss = (p: Params, batch: Batch): Value => problem.loss(p, batch);
      const optimizer = kfac(kfacLayers(loss, problem.initial, first), {
        learningRate,
        period,
        factorPeriod: factors,
        damping,
        klClip: clip,
        momentum: beta,
      });
      const examples = termsOf(problem);
      const both = jit(layerStatistics(loss, { examples }));
      const gradient = jit((params: Params, batch: Batch) =>
        valueAndGrad((p: Params) => problem.loss(p, batch))(params),
      );
      const drawn = sampledLoss((p: Params, x: Value) => outputs(p, x), likelihood);
      const ofDrawn = jit(layerStatistics(drawn, { examples }));
      const accumulate = jit(optimizer.accumulate);
      const step = jit(
        (gradients: Params, state: KfacState, params: Params): [Params, KfacState] => {
          const [updates, next] = optimizer.step(gradients, state, params);
          return [applyUpdates(params, updates), next];
        },
        { donate: [0, 1, 2] },
      );
      return {
        init: (params) => optimizer.init(params),
        // The first step takes the gradient with the statistics; later ones may be without.
        warm: ({ params }) => void gradient(params, first),
        step({ params, state }, index, batch) {
          let own = state as KfacState;
          let [loss, gradients]: [Value | null, Params | null] = [null, null];
          if (optimizer.factorsDue(index) && sampled === 0) {
            const found = both(params, batch);
            [loss, gradients] = [found.value, found.gradient];
            own = accumulate(own, found.layers);
          } else {
            [loss, gradients] = gradient(params, batch);
            if (optimizer.factorsDue(index))
              own = accumulate(own, ofDrawn(params, random.foldIn(random.key(seed), index), batch.x).layers);
          }
          if (optimizer.curvatureDue(index)) own = optimizer.refreshCurvature(own);
          const [next, nextState] = step(gradients, own, params);
          const extraGradients = optimizer.factorsDue(index) && sampled !== 0 ? 1 : 0;
          return { params: next, state: nextState, loss, extraGradients };
        },
      };
    },
  }),
};
