/** Agreement by ADMM: laws of the published rule on quadratics, and of the consensus form. */

import { expect, test } from "bun:test";
import type { Value } from "../../core/value.ts";
import { type Problem, trainingSetup } from "../../dist/jobs.ts";
import { makePlan, type Plan, type PlanInput } from "../../dist/plan.ts";
import { runSequential } from "../../dist/runtime/sequential.ts";
import { sameBits } from "../../dist/sim.ts";
import { augmentedGradient, consensusCandidate, dualUpdate, extrapolate, meanOf } from "../../optim/admm.ts";
import { f64, list, maxDifference, relativeError, sameTreeBits, type Vector } from "../optim/numbers.ts";
import { fosiStateOf, planOf, quadraticMinimizer, quadraticProblem, thetaOf } from "./training_problems.ts";

/** The parameters after every round, the initial ones first. */
function pathOf<B>(plan: Plan, problem: Problem<B>): number[][] {
  const path = [list(problem.initial)];
  const evaluate = (theta: Value): number[] => {
    path.push(list(theta));
    return [];
  };
  runSequential(trainingSetup({ ...plan, evaluateEvery: 1 }, { ...problem, evaluate }));
  return path;
}

/** ½ h x² from x = 1 at every worker. */
function oneQuadratic(h: number, workers = 1): Problem<number> {
  const ranks = Array.from({ length: workers }, () => 0);
  return quadraticProblem(
    ranks.map(() => [h]),
    ranks.map(() => [0]),
    [1],
  );
}

/** `localSteps` steps of gradient descent per round contract the error by q = (1 - eta h)^localSteps. */
function publishedPlan(
  eta: number,
  localSteps: number,
  rounds: number,
  sync: PlanInput["sync"],
  workers = 1,
): Plan {
  return planOf({
    workers,
    parameters: 1,
    rounds,
    localSteps,
    update: { name: "sgd", learningRate: eta },
    sync,
  });
}

// --- the published rule ------------------------------------------------------------------------------------------

test.each([0.9, 0.5, 0.1])(
  "published: a round that contracts by q = %d gives radius sqrt(q) at every second round",
  (q) => {
    const localSteps = 10;
    const eta = 1 - q ** (1 / localSteps);
    const path = pathOf(
      publishedPlan(eta, localSteps, 12, { k: "published", period: 1 }, 2),
      oneQuadratic(1, 2),
    );
    const e = path.map(([x]) => x!);
    // The matrix of (error, push) has trace 2q and determinant q: e_{t+2} = 2q e_{t+1} - q e_t.
    for (let t = 0; t + 2 < e.length; t++)
      expect(Math.abs(e[t + 2]! - (2 * q * e[t + 1]! - q * e[t]!))).toBeLessThan(1e-6);
    // Two windows give both coefficients without assuming them.
    const determinant = e[2]! ** 2 - e[1]! * e[3]!;
    const radius = Math.sqrt((e[3]! ** 2 - e[2]! * e[4]!) / determinant);
    expect(relativeError(radius, Math.sqrt(q))).toBeLessThan(1e-5);
  },
);

test("published: slow errors fall faster at first: 0.80, 0.54, 0.252, -0.0324 for q = 0.9", () => {
  // Study of the published rule on a quadratic: 1, 0.80, 0.54, 0.25, -0.03 against 1, 0.9, 0.81, 0.73, 0.66.
  const [published, plain] = [{ k: "published", period: 1 } as const, { k: "gradient" } as const].map(
    (sync) => pathOf(publishedPlan(0.1, 1, 4, sync), oneQuadratic(1)).map(([x]) => x!),
  ) as [number[], number[]];
  expect(maxDifference(published, [1, 0.8, 0.54, 0.252, -0.0324])).toBeLessThan(1e-7);
  expect(maxDifference(plain, [1, 0.9, 0.81, 0.729, 0.6561])).toBeLessThan(1e-12);
});

test("published: a round that solves the problem is reflected once, then exact", () => {
  const path = pathOf(publishedPlan(1, 1, 4, { k: "published", period: 1, sigma: 1e-300 }), oneQuadratic(1));
  expect(path.map(([x]) => x! + 0)).toEqual([1, -1, 0, 0, 0]);
});

test("published: it diverges when a round contracts by less than -1/3", () => {
  const last = (q: number): number =>
    Math.abs(
      pathOf(publishedPlan(1 - q, 1, 200, { k: "published", period: 1 }), oneQuadratic(1)).at(-1)![0]!,
    );
  expect(last(-0.3)).toBeLessThan(1e-3);
  expect(last(-0.34)).toBeGreaterThan(5);
  // Without the rule that round converges.
  const plain = pathOf(publishedPlan(1.34, 1, 200, { k: "gradient" }), oneQuadratic(1));
  expect(Math.abs(plain.at(-1)![0]!)).toBeLessThan(1e-90);
});

/** Three workers with different quadratics of five parameters. */
const mixed = quadraticProblem(
  [
    [1, 2, 0.5, 3, 0.1],
    [0.2, 1, 2, 1, 0.3],
    [2, 0.3, 1, 0.5, 1],
  ],
  [
    [1, 0, 2, -1, 3],
    [-2, 1, 0, 4, 1],
    [0, 3, -1, 2, 0],
  ],
  [0.3, -0.2, 0.9, 0.1, 0.5],
);

/** Five parameters, three workers, momentum and curvature. */
function mixedPlan(rounds: number, sync: PlanInput["sync"]): Plan {
  return planOf({
    workers: 3,
    parameters: 5,
    rounds,
    localSteps: 3,
    update: { name: "momentum", learningRate: 0.05, beta: 0.5 },
    curvature: { k: 2, order: 5, period: 2 },
    sync,
  });
}

test("published: the first extrapolation lands exactly on anchor + 2 (theta - anchor)", () => {
  const [published, plain] = [
    // So small that it changes neither gradients nor rates.
    { k: "published", period: 2, sigma: 1e-300 } as const,
    { k: "gradient" } as const,
  ].map((sync) => runSequential(trainingSetup(mixedPlan(2, sync), mixed))) as [
    ReturnType<typeof runSequential>,
    ReturnType<typeof runSequential>,
  ];
  const [theta, anchor] = [thetaOf(plain), list(mixed.initial)];
  // theta + (theta - anchor), in the same order of roundings.
  expect(thetaOf(published)).toEqual(theta.map((x, i) => x + (x - anchor[i]!)));
  expect(list(published.workers[1]!["push"] as Value)).toEqual(theta.map((x, i) => x - anchor[i]!));
  expect(list(published.workers[1]!["anchor"] as Value)).toEqual(thetaOf(published));
});

test("published: pi / sigma is the running sum of the displacements of the rounds", () => {
  const period = 2;
  let sum: number[] = [0, 0, 0, 0, 0];
  let anchor = list(mixed.initial);
  for (let sync = 1; sync <= 4; sync++) {
    const run = runSequential(trainingSetup(mixedPlan(period * sync, { k: "published", period }), mixed));
    const [theta, push] = [thetaOf(run), list(run.workers[2]!["push"] as Value)];
    // Before its extrapolation the round ended at theta - push.
    sum = sum.map((x, i) => x + (theta[i]! - push[i]! - anchor[i]!));
    expect(maxDifference(push, sum)).toBeLessThan(1e-13);
    anchor = theta;
  }
});

test("published: sigma acts through gradients and rates alone; where it is negligible there any sigma gives the same bits", () => {
  const run = (sigma: number) =>
    runSequential(trainingSetup(mixedPlan(8, { k: "published", period: 2, sigma }), mixed));
  expect(sameBits(run(1e-299), run(1e-300))).toBe(true);
  expect(maxDifference(thetaOf(run(5e-9)), thetaOf(run(1e-300)))).toBeLessThan(1e-6);
  expect(maxDifference(thetaOf(run(0.1)), thetaOf(run(1e-300)))).toBeGreaterThan(1e-3);
});

test("published: the gradient of a step carries sigma times the push", () => {
  // After the first extrapolation from x = 1 with eta h = 0.1: x = 0.8, push = -0.1.
  const sigma = 0.5;
  const path = pathOf(publishedPlan(0.1, 1, 2, { k: "published", period: 1, sigma }), oneQuadratic(1));
  const stepped = 0.8 - 0.1 * (0.8 + sigma * -0.1);
  const push = -0.1 + (stepped - 0.8);
  expect(maxDifference(path.flat(), [1, 0.8, stepped + push])).toBeLessThan(1e-15);
});

// --- outer momentum ----------------------------------------------------------------------------------------------

test.each([
  [0.9, 0.9, 0.7],
  [0.5, 0.9, 0.7],
  [0.9, 0.5, 2],
  [0.3, 0, 1],
])(
  "momentum: a round that contracts by q = %d follows the recurrence of mu = %d and gamma = %d",
  (q, mu, gamma) => {
    const path = pathOf(
      publishedPlan(1 - q, 1, 12, { k: "momentum", mu, gamma, period: 1 }, 2),
      oneQuadratic(1, 2),
    );
    const e = path.map(([x]) => x!);
    // (error, push) -> ((q - gamma (1 - q)) e + gamma mu p, mu p - (1 - q) e)
    const [trace, determinant] = [q - gamma * (1 - q) + mu, mu * q];
    expect(maxDifference([e[1]!], [q - gamma * (1 - q)])).toBeLessThan(1e-14);
    for (let t = 0; t + 2 < e.length; t++)
      expect(Math.abs(e[t + 2]! - (trace * e[t + 1]! - determinant * e[t]!))).toBeLessThan(1e-13);
  },
);

test("momentum: with both factors 1 it is the published rule without its penalty, with gamma 0 it is not there", () => {
  const run = (sync: PlanInput["sync"]) => runSequential(trainingSetup(mixedPlan(8, sync), mixed));
  const period = 2;
  const one = run({ k: "momentum", mu: 1, gamma: 1, period });
  expect(sameBits(one, run({ k: "published", sigma: 1e-300, period }))).toBe(true);
  expect(thetaOf(run({ k: "momentum", gamma: 0, period }))).toEqual(thetaOf(run({ k: "gradient" })));
});

// --- consensus ---------------------------------------------------------------------------------------------------

test.each([
  [3, 1],
  [1, 4],
  [10, 0.5],
])(
  "consensus: one worker that solves exactly with curvature %d and sigma %d contracts by sigma / (sigma + h)",
  (h, sigma) => {
    // A step eta = 1 / h is taken as eta / (1 + sigma eta) = 1 / (h + sigma): the exact solution of the round.
    const sync = { k: "consensus", sigma, relative: false } as const;
    const path = pathOf(publishedPlan(1 / h, 1, 9, sync), oneQuadratic(h)).map(([z]) => z!);
    // The proximal point method: with one worker the dual is back at zero after every round.
    const ratio = sigma / (sigma + h);
    for (let t = 0; t + 1 < path.length; t++)
      expect(relativeError(path[t + 1]! / path[t]!, ratio)).toBeLessThan(1e-12);
  },
);

/** Four workers whose minimizers and curvatures differ. */
const curvatures: readonly Vector[] = [
  [1, 0.1, 2, 0.5, 1, 0.2],
  [0.1, 2, 0.3, 1, 0.2, 1.5],
  [1.5, 0.5, 0.1, 2, 0.6, 0.4],
  [0.3, 1, 1, 0.1, 2, 0.9],
];
const centers: readonly Vector[] = [
  [4, -2, 0, 1, 3, -5],
  [-1, 3, 5, -4, 0, 2],
  [0, 0, -6, 2, -3, 4],
  [-3, 5, 1, 6, 1, -1],
];
const heterogeneous = quadraticProblem(curvatures, centers, [0, 0, 0, 0, 0, 0]);
const minimizer = quadraticMinimizer(curvatures, centers);

function consensusPlan(
  rounds: number,
  localSteps: number,
  sigma: number,
  changes: Partial<PlanInput> = {},
): Plan {
  return planOf({
    workers: 4,
    parameters: 6,
    rounds,
    localSteps,
    update: { name: "sgd", learningRate: 0.2 },
    sync: { k: "consensus", sigma, relative: false },
    ...changes,
  });
}

test.each([5, 20])(
  "consensus: %i local steps reach the minimizer of the mean, averaging stays away",
  (localSteps) => {
    const run = runSequential(trainingSetup(consensusPlan(300, localSteps, 0.4), heterogeneous));
    expect(maxDifference(thetaOf(run), minimizer)).toBeLessThan(1e-10);
    const duals = run.workers.map((own) => list(own["dual"] as Value));
    const total = duals[0]!.map((_, j) => duals.reduce((s, dual) => s + dual[j]!, 0));
    expect(Math.max(...total.map(Math.abs))).toBeLessThan(1e-10);
    // Each dual is minus the worker's own gradient there: they do not vanish.
    duals.forEach((dual, i) => {
      const gradient = minimizer.map((x, j) => curvatures[i]![j]! * (x - centers[i]![j]!));
      expect(
        maxDifference(
          dual,
          gradient.map((g) => -g),
        ),
      ).toBeLessThan(1e-9);
    });
    const averaged = runSequential(trainingSetup(consensusPlan(300, localSteps, 0), heterogeneous));
    expect(maxDifference(thetaOf(averaged), minimizer)).toBeGreaterThan(0.1);
  },
  120_000,
);

test("consensus: the duals of all workers add up to zero in every round, also when sigma changes", () => {
  const refreshed = {
    sync: { k: "consensus", sigma: 0.3, relative: true } as const,
    curvature: { k: 2, order: 6, period: 2, warmup: 1 },
  };
  for (let rounds = 1; rounds <= 6; rounds++) {
    for (const changes of [{}, refreshed]) {
      const run = runSequential(trainingSetup(consensusPlan(rounds, 4, 0.4, changes), heterogeneous));
      const duals = run.workers.map((own) => list(own["dual"] as Value));
      const total = duals[0]!.map((_, j) => duals.reduce((s, dual) => s + dual[j]!, 0));
      expect(Math.max(...total.map(Math.abs))).toBeLessThan(1e-13);
      if (rounds > 2) expect(Math.max(...duals[0]!.map(Math.abs))).toBeGreaterThan(0.1);
    }
  }
});

test("consensus: a dual is updated with the sigma of its own round, whatever the next refresh brings", () => {
  // The curvature that is measured grows tenfold in the middle, and sigma with it.
  const problem: Problem<readonly [h: number, center: number]> = {
    initial: f64([0]),
    score: (theta, [h, center]) => ({
      loss: theta
        .sub(center)
        .pow(2)
        .mul(h / 2)
        .sum(),
      sums: [],
    }),
    batch: (rank) => [1, rank === 0 ? 1 : -3],
    curvatureBatch: (_rank, round) => [round < 2 ? 1 : 10, 0],
  };
  const after = (rounds: number) => {
    const plan = makePlan({
      version: 1,
      workers: 2,
      parameters: 1,
      rounds,
      localSteps: 2,
      seed: 0,
      update: { name: "sgd", learningRate: 0.1 },
      curvature: { k: 1, order: 1, period: 2, alpha: 0.1, momentum: "none" },
      sync: { k: "consensus", sigma: 0.5, relative: true },
    });
    const { hub, workers } = runSequential(trainingSetup(plan, problem));
    const number = (register: unknown): number => (register as Value).item();
    return {
      z: number(hub["theta"]),
      own: workers.map((w) => ["dual", "local", "used"].map((name) => number(w[name]))),
    };
  };
  const sigmas: number[] = [];
  for (let rounds = 1; rounds <= 5; rounds++) {
    const [now, next] = [after(rounds), after(rounds + 1)];
    now.own.forEach(([dual, local, used], rank) => {
      sigmas.push(used!);
      expect(next.own[rank]![0]).toBeCloseTo(dual! + used! * (local! - now.z), 12);
    });
  }
  expect(Math.max(...sigmas) / Math.min(...sigmas)).toBeCloseTo(10, 6);
});

test("consensus: an absolute sigma shortens the base step from the first round on, with and without curvature", () => {
  // Without eta / (1 + sigma eta) the local steps diverge: eta (h + sigma) = 2.5.
  for (const curvature of [null, { k: 1, order: 1, warmup: 50 }]) {
    const plan = makePlan({
      ...publishedPlan(0.25, 20, 40, { k: "consensus", sigma: 8, relative: false }),
      curvature,
    });
    const { hub } = runSequential(trainingSetup(plan, oneQuadratic(2)));
    expect(Math.abs((hub["theta"] as Value).item())).toBeLessThan(1e-3);
  }
});

test("published: the Newton rates are those of the augmented Hessian, 1 / (|lambda| + sigma)", () => {
  const rates = (sync: Plan["sync"]) =>
    fosiStateOf(runSequential(trainingSetup(mixedPlan(1, sync), mixed)), 0);
  const { values } = rates({ k: "gradient" });
  const damped = rates({ k: "published", period: 2, sigma: 0.5 });
  expect(
    maxDifference(
      list(damped.rates),
      list(values).map((value) => 1 / (Math.abs(value) + 0.5)),
    ),
  ).toBeLessThan(1e-12);
});

test("consensus with one local step of averaging is gradient descent on the mean, and gets there", () => {
  const run = runSequential(trainingSetup(consensusPlan(400, 1, 0), heterogeneous));
  expect(maxDifference(thetaOf(run), minimizer)).toBeLessThan(1e-8);
});

test("consensus with curvature: sigma follows the largest eigenvalue, rates are those of the penalty", () => {
  const run = runSequential(
    trainingSetup(
      consensusPlan(200, 20, 0.3, {
        sync: { k: "consensus", sigma: 0.3, relative: true },
        curvature: { k: 2, order: 6, period: 50, alpha: 1, momentum: "none" },
      }),
      heterogeneous,
    ),
  );
  const mean = curvatures[0]!.map((_, j) => curvatures.reduce((s, h) => s + h[j]! / 4, 0));
  const largest = [...mean].sort((a, b) => b - a).slice(0, 2) as [number, number];
  const sigma = 0.3 * largest[0];
  for (let rank = 0; rank < 4; rank++) {
    expect(relativeError((run.workers[rank]!["sigma"] as Value).item(), sigma)).toBeLessThan(1e-12);
    const { rates } = fosiStateOf(run, rank);
    expect(maxDifference(list(rates), [1 / (largest[1] + sigma), 1 / (largest[0] + sigma)])).toBeLessThan(
      1e-12,
    );
  }
  expect(maxDifference(thetaOf(run), minimizer)).toBeLessThan(1e-9);
}, 120_000);

test("consensus before the first curvature: sigma is zero, the rounds are plain averaging", () => {
  const curvature = { k: 2, order: 6, period: 4, warmup: 3 };
  const relative = consensusPlan(3, 4, 0.3, {
    curvature,
    sync: { k: "consensus", sigma: 0.3, relative: true },
  });
  const averaging = consensusPlan(3, 4, 0, { curvature });
  expect(sameBits(run(relative), run(averaging))).toBe(true);
  function run(plan: Plan) {
    return runSequential(trainingSetup(plan, heterogeneous));
  }
});

test("sigma zero is plain averaging of local training", () => {
  const path = pathOf(consensusPlan(6, 3, 0), heterogeneous);
  let z = [0, 0, 0, 0, 0, 0];
  for (let round = 1; round <= 6; round++) {
    const locals = curvatures.map((h, i) => {
      let w = z;
      for (let step = 0; step < 3; step++) w = w.map((x, j) => x - 0.2 * h[j]! * (x - centers[i]![j]!));
      return w;
    });
    z = z.map((_, j) => locals.reduce((s, w) => s + w[j]!, 0) / 4);
    expect(maxDifference(path[round]!, z)).toBeLessThan(1e-13);
  }
});

// --- the formulas ------------------------------------------------------------------------------------------------

test("the formulas act leaf by leaf on trees", () => {
  const tree = (x: number) => ({ a: f64([x, 2 * x]), b: [f64([-x])] });
  const same = (actual: unknown, a: Vector, b: Vector) =>
    expect(sameTreeBits(actual, { a: f64(a), b: [f64(b)] })).toBe(true);
  // g + pi + sigma (w - z)
  same(
    augmentedGradient({ gradient: tree(1), dual: tree(2), local: tree(5), consensus: tree(3), sigma: 10 }),
    [23, 46],
    [-23],
  );
  same(dualUpdate(tree(1), tree(5), tree(3), 4), [9, 18], [-9]);
  same(consensusCandidate(tree(1), tree(6), 2), [4, 8], [-4]);
  const moved = extrapolate({ theta: tree(5), anchor: tree(3), push: tree(1) });
  same(moved.push, [3, 6], [-3]);
  same(moved.theta, [8, 16], [-8]);
  same(meanOf([tree(1), tree(2), tree(6)]), [3, 6], [-3]);
});

test("the mean adds in the order of the list", () => {
  const [a, b, c] = [f64([1]), f64([1e-16]), f64([1e-16])];
  expect(list(meanOf([a, b, c]))[0]!).toBe((1 + 1e-16 + 1e-16) / 3);
  expect(list(meanOf([b, c, a]))[0]!).toBe((1e-16 + 1e-16 + 1) / 3);
  expect(() => meanOf([])).toThrow(/^Cannot take the mean of no trees: /);
});

test("a candidate needs a positive sigma", () => {
  for (const sigma of [0, -1, Number.NaN])
    expect(() => consensusCandidate(f64([1]), f64([1]), sigma)).toThrow(
      /^Cannot form a consensus candidate: /,
    );
});
