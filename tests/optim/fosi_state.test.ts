/** The state of FOSI on its way: saved and restored in the middle of a run, through compiled steps, over batches in slices. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { jit } from "../../autodiff/jit.ts";
import { hessianOperator, type LinearOperator, meanOperator } from "../../autodiff/operator.ts";
import { gradientOf } from "../../autodiff/vjp.ts";
import type { DType } from "../../core/dtype.ts";
import { load, save } from "../../core/io.ts";
import { add, matmul, mean, mul, softplus, sub, sum } from "../../core/ops.ts";
import * as random from "../../core/random.ts";
import type { Value } from "../../core/value.ts";
import { type Fosi, type FosiState, type FosiTrigger, fosiPairs } from "../../optim/fosi.ts";
import { fosiAdam, fosiMomentum, fosiNesterov, fosiSgd } from "../../optim/fosi_methods.ts";
import { cosineSchedule, linearSchedule } from "../../optim/schedule.ts";
import { applyUpdates } from "../../optim/transformation.ts";
import { f64, list, maxDifference, mulberry32, normals, sameTreeBits } from "./numbers.ts";
import { goldenData } from "./problems.ts";

let directory = "";
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "cotangent-fosi-"));
});
afterAll(() => rm(directory, { recursive: true }));

interface Model {
  readonly w: Value;
  readonly b: Value;
}

/** Logistic loss of a line on rows, with a penalty. */
const loss = jit((p: Model, X: Value, y: Value): Value => {
  const z = add(matmul(X, p.w), p.b);
  return add(mean(sub(softplus(z), mul(y, z))), mul(5e-3, sum(mul(p.w, p.w))));
});

const data = goldenData();
const rows = (from: number, to: number, dtype: DType): readonly [X: Value, y: Value] => [
  f64(data.features.slice(from, to).flat(), [to - from, 20]).astype(dtype),
  f64(data.labels.slice(from, to)).astype(dtype),
];

function start(dtype: DType): Model {
  return { w: f64(normals(mulberry32(1), 20)).astype(dtype), b: f64([0.1]).astype(dtype) };
}

/** The Hessian of the refresh: each takes the next hundred rows, in two slices of which one at a time is in memory. */
function hessianAt(p: Model, dtype: DType): (refresh: number) => LinearOperator {
  return (refresh) => {
    const from = 100 * (refresh % 4);
    return meanOperator(
      [rows(from, from + 50, dtype), rows(from + 50, from + 100, dtype)].map(
        (slice) => () => hessianOperator(loss, p, ...slice),
      ),
    );
  };
}

type Run = { readonly p: Model; readonly state: FosiState<unknown> };

function updates(method: Fosi<unknown>, from: Run, steps: number, dtype: DType): Run {
  let { p, state } = from;
  for (let i = 0; i < steps; i++) {
    const g = gradientOf(loss)(p, ...rows(0, 400, dtype));
    const [change, next] = method.update(g, state, p, { hessian: hessianAt(p, dtype) });
    [p, state] = [applyUpdates(p, change), next];
  }
  return { p, state };
}

/** The same as a loop around a compiled step that takes the storage of parameters and state. */
function compiledUpdates(method: Fosi<unknown>, from: Run, steps: number, dtype: DType): Run {
  const step = jit(
    (p: Model, state: FosiState<unknown>, X: Value, y: Value) => {
      const [change, next] = method.step(gradientOf(loss)(p, X, y), state, p);
      return [applyUpdates(p, change), next] as const;
    },
    { donate: [0, 1] },
  );
  let { p, state } = from;
  let made = state.count.item();
  for (let i = 0; i < steps; i++, made++) {
    const refresh = method.refreshNumber(made);
    if (refresh !== null) {
      const key = random.foldIn(random.key(0), made);
      state = method.refreshCurvature(state, hessianAt(p, dtype)(refresh), key);
    }
    [p, state] = step(p, state, ...rows(0, 400, dtype));
  }
  return { p, state };
}

function methodsWith(trigger: FosiTrigger): readonly Fosi<unknown>[] {
  const options = { k: 3, l: 1, warmup: 3, period: 4, trigger };
  const alpha = linearSchedule({ from: 0.2, to: 0.05, steps: 12 });
  return [
    fosiSgd(0.5, options),
    fosiMomentum(cosineSchedule({ from: 0.3, steps: 15 }), { ...options, alpha }),
    fosiNesterov(0.2, options),
    fosiAdam(0.02, { ...options, alpha }),
  ].map((method) => method as unknown as Fosi<unknown>);
}

test.each([
  ["internal", "float64", updates],
  ["external", "float64", updates],
  ["internal", "float32", updates],
  ["external", "float32", updates],
  ["internal", "float32", compiledUpdates],
  ["external", "float64", compiledUpdates],
] as const)(
  "saved and restored after every sixth of 15 updates, trigger %s, %s: the same bits",
  async (trigger, dtype, run) => {
    for (const [i, method] of methodsWith(trigger).entries()) {
      const first = (): Run => ({ p: start(dtype), state: method.init(start(dtype)) });
      const whole = run(method, first(), 15, dtype);
      let part = first();
      for (const steps of [6, 6, 3]) {
        const path = join(directory, `${trigger}-${dtype}-${run.name}-${i}.safetensors`);
        // A new method each time: nothing is remembered outside the file.
        part = run(methodsWith(trigger)[i]!, part, steps, dtype);
        await save(path, part);
        part = (await load<Run>(path)).tree;
      }
      expect(sameTreeBits(part, whole)).toBe(true);
      expect(whole.state.count.item()).toBe(15);
      expect(fosiPairs(whole.state)).toHaveLength(4);
      expect(list(whole.state.vectors).every(Number.isFinite)).toBe(true);
    }
  },
);

test("the compiled loop makes the steps of the plain one", () => {
  for (const method of methodsWith("external")) {
    const first = (): Run => ({ p: start("float64"), state: method.init(start("float64")) });
    const [plain, compiled] = [updates, compiledUpdates].map((run) => run(method, first(), 9, "float64"));
    expect(maxDifference(list(compiled!.p.w), list(plain!.p.w))).toBeLessThan(1e-12);
  }
});

test("the mean over slices of a batch has the curvature of the batch", () => {
  const [method] = methodsWith("internal");
  const p = start("float64");
  const key = random.key(4);
  for (const refresh of [0, 3]) {
    const sliced = method!.refreshCurvature(method!.init(p), hessianAt(p, "float64")(refresh), key);
    const batch = rows(100 * refresh, 100 * refresh + 100, "float64");
    const whole = method!.refreshCurvature(method!.init(p), hessianOperator(loss, p, ...batch), key);
    expect(maxDifference(list(sliced.values), list(whole.values))).toBeLessThan(1e-13);
    expect(maxDifference(list(sliced.residuals), list(whole.residuals))).toBeLessThan(1e-10);
  }
});
