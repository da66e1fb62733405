/** What every optimizer must do, in one table: purity, trees, descent, and the numbers of plain loops. */
import { expect, test } from "bun:test";
import { checkGrads } from "../../autodiff/check.ts";
import { jit } from "../../autodiff/jit.ts";
import { hessianOperator } from "../../autodiff/operator.ts";
import { gradientOf } from "../../autodiff/vjp.ts";
import { tensor } from "../../core/create.ts";
import type { DType } from "../../core/dtype.ts";
import { ShapeError } from "../../core/errors.ts";
import { add, mul, sum } from "../../core/ops.ts";
import * as random from "../../core/random.ts";
import { flatten, leaves, map, show } from "../../core/tree.ts";
import { Tensor, type Value } from "../../core/value.ts";
import { accumulate } from "../../optim/accumulate.ts";
import { adagrad } from "../../optim/adagrad.ts";
import { type AdaHessian, type AdaHessianState, adahessian } from "../../optim/adahessian.ts";
import { adam, adamw, addDecayedWeights } from "../../optim/adam.ts";
import { clipByGlobalNorm, clipByValue, globalNorm } from "../../optim/clip.ts";
import { ema } from "../../optim/ema.ts";
import { type Fosi, type FosiExtra, type FosiOptions, type FosiState, fosi } from "../../optim/fosi.ts";
import { freeze } from "../../optim/freeze.ts";
import { lamb } from "../../optim/lamb.ts";
import { lion } from "../../optim/lion.ts";
import { lookahead } from "../../optim/lookahead.ts";
import { masked, multiTransform } from "../../optim/masked.ts";
import { momentum, nesterov, sgd } from "../../optim/momentum.ts";
import { muon } from "../../optim/muon.ts";
import { rmsprop } from "../../optim/rmsprop.ts";
import { linearSchedule } from "../../optim/schedule.ts";
import { type Sophia, type SophiaExtra, type SophiaState, sophia } from "../../optim/sophia.ts";
import {
  applyUpdates,
  chain,
  type GradientTransformation,
  scaleByLearningRate,
} from "../../optim/transformation.ts";
import {
  f64,
  length,
  list,
  type Matrix,
  maxDifference,
  mulberry32,
  normals,
  sameTreeBits,
  type Vector,
} from "./numbers.ts";
import { rosenbrock } from "./problems.ts";

/** All that any method of the table may ask for. */
type Extra = FosiExtra & SophiaExtra;
type Optimizer = GradientTransformation<unknown, Extra>;
/** The state of a method whose curvature is apart from its step, with the curvature of a function. */
type Refresh = (
  optimizer: Optimizer,
  state: unknown,
  loss: (params: unknown) => Value,
  params: unknown,
) => unknown;
/** One update in plain float64 loops; the closure holds the state. */
type Plain = (g: Vector, p: Vector) => number[];

interface Row {
  readonly name: string;
  /** With a learning rate that suits the problem. */
  readonly make: (rate: number) => Optimizer;
  readonly plain?: (rate: number) => Plain;
  readonly rates: { readonly parabola: number; readonly rosenbrock: number };
  readonly refresh?: Refresh;
}

function row<S>(
  name: string,
  make: (rate: number) => GradientTransformation<S, never>,
  rates: Row["rates"],
  plain?: (rate: number) => Plain,
): Row {
  return { name, make: make as unknown as Row["make"], rates, ...(plain && { plain }) };
}

function extraAt(loss: (params: unknown) => Value, params: unknown): Extra {
  return {
    hessian: () => hessianOperator(loss, params),
    sampledGradient: () => gradientOf(loss)(params),
    batchSize: 1,
  };
}

const scale = (x: Vector, c: number): number[] => x.map((xi) => c * xi);

function plainMomentum(beta: number, isNesterov: boolean): (rate: number) => Plain {
  return (rate) => {
    let v: number[] = [];
    return (g) => {
      v = g.map((x, i) => x + beta * (v[i] ?? 0));
      return g.map((x, i) => -rate * (isNesterov ? x + beta * v[i]! : v[i]!));
    };
  };
}

function plainAdam(
  rate: number | ((step: number) => number),
  decay = 0,
  [b1, b2, epsilon]: readonly [number, number, number] = [0.9, 0.999, 1e-8],
): Plain {
  let [m, s, t]: [number[], number[], number] = [[], [], 0];
  return (g, p) => {
    t++;
    m = g.map((x, i) => b1 * (m[i] ?? 0) + (1 - b1) * x);
    s = g.map((x, i) => b2 * (s[i] ?? 0) + (1 - b2) * x * x);
    const size = typeof rate === "number" ? rate : rate(t - 1);
    return g.map(
      (_, i) =>
        -size * (m[i]! / (1 - b1 ** t) / (Math.sqrt(s[i]! / (1 - b2 ** t)) + epsilon) + decay * p[i]!),
    );
  };
}

/** v <- a v + (1 - a) g². */
const blended = (a: number, v: Vector, g: Vector): number[] => g.map((x, i) => a * (v[i] ?? 0) + (1 - a) * x);

const plainAdagrad: (rate: number) => Plain = (rate) => {
  let s: number[] = [];
  return (g) => {
    s = g.map((x, i) => (s[i] ?? 0) + x * x);
    return g.map((x, i) => (-rate * x) / (Math.sqrt(s[i]!) + 1e-10));
  };
};

function plainRmsprop(decay: number, beta: number, isCentered: boolean): (rate: number) => Plain {
  return (rate) => {
    let [s, m, v]: number[][] = [[], [], []];
    return (g) => {
      s = blended(
        decay,
        s!,
        g.map((x) => x * x),
      );
      m = isCentered ? blended(decay, m!, g) : g.map(() => 0);
      v = g.map((x, i) => beta * (v![i] ?? 0) + x / (Math.sqrt(s![i]! - m![i]! ** 2) + 1e-8));
      return scale(v, -rate);
    };
  };
}

function plainLion(decay: number): (rate: number) => Plain {
  return (rate) => {
    let m: number[] = [];
    return (g, p) => {
      const direction = blended(0.9, m, g).map(Math.sign);
      m = blended(0.99, m, g);
      return g.map((_, i) => -rate * (direction[i]! + decay * p[i]!));
    };
  };
}

/** The leaves of `treeOf`, or of one vector, in a flat list. */
const leafRanges = (n: number): readonly (readonly [number, number])[] =>
  n === 10
    ? [
        [0, 1],
        [1, 4],
        [4, 10],
      ]
    : [[0, n]];

function plainLamb(decay: number): (rate: number) => Plain {
  return (rate) => {
    const adam = plainAdam(-1, decay, [0.9, 0.999, 1e-6]);
    return (g, p) => {
      const u = adam(g, p);
      return leafRanges(g.length).flatMap(([from, to]) => {
        const part = u.slice(from, to);
        return scale(part, (-rate * Math.min(10, length(p.slice(from, to)))) / length(part));
      });
    };
  };
}

const times = (a: Matrix, b: Matrix): number[][] =>
  a.map((row) => b[0]!.map((_, j) => row.reduce((total, x, r) => total + x * b[r]![j]!, 0)));
const turned = (a: Matrix): number[][] => a[0]!.map((_, j) => a.map((row) => row[j]!));

/** Five steps of X <- 3.4445 X - 4.775 (X Xᵀ) X + 2.0315 (X Xᵀ)² X from X / |X|. */
function plainOrthogonal(a: Matrix): number[][] {
  let X = a.map((row) => scale(row, 1 / (length(a.flat()) + 1e-7)));
  for (let step = 0; step < 5; step++) {
    const first = times(times(X, turned(X)), X);
    const second = times(times(X, turned(X)), first);
    X = X.map((row, i) => row.map((x, j) => 3.4445 * x - 4.775 * first[i]![j]! + 2.0315 * second[i]![j]!));
  }
  return X;
}

/** The matrix [2, 3] at the end of the list, two inputs and three outputs; Adam for what is before it. */
const plainMuon: (rate: number) => Plain = (rate) => {
  const adam = plainAdam(rate, 0, [0.9, 0.95, 1e-10]);
  let m: number[] = [];
  return (g, p) => {
    const rest = adam(g.slice(0, 4), p.slice(0, 4));
    m = blended(0.95, m, g.slice(4));
    const u = blended(0.95, m, g.slice(4));
    const step = plainOrthogonal([u.slice(0, 3), u.slice(3)]);
    return [...rest, ...scale(step.flat(), -rate * Math.sqrt(3 / 2))];
  };
};

function plainLookahead(inner: Plain, k: number, alpha: number): Plain {
  let [slow, t]: [Vector | null, number] = [null, 0];
  return (g, p) => {
    slow ??= p;
    const u = inner(g, p);
    if (++t % k !== 0) return u;
    slow = slow.map((x, i) => x + alpha * (p[i]! + u[i]! - x));
    return slow.map((x, i) => x - p[i]!);
  };
}

function plainAccumulate(inner: Plain, steps: number): Plain {
  let gathered: Vector[] = [];
  return (g, p) => {
    gathered.push(g);
    if (gathered.length < steps) return g.map(() => 0);
    const mean = g.map((_, i) => gathered.reduce((total, one) => total + one[i]!, 0) / steps);
    gathered = [];
    return inner(mean, p);
  };
}

const clipped = (g: Vector, limit: number): number[] => scale(g, Math.min(1, limit / length(g)));
const falling = (rate: number) => linearSchedule({ from: rate, to: rate / 2, steps: 8 });
const fallingPlain = (rate: number) => (step: number) => rate * (1 - Math.min(1, step / 8) / 2);

const first: readonly Row[] = [
  row("sgd", sgd, { parabola: 0.1, rosenbrock: 1e-3 }, (rate) => (g) => scale(g, -rate)),
  row("momentum", momentum, { parabola: 0.02, rosenbrock: 2e-4 }, plainMomentum(0.9, false)),
  row(
    "momentum 0.5",
    (rate) => momentum(rate, 0.5),
    { parabola: 0.1, rosenbrock: 5e-4 },
    plainMomentum(0.5, false),
  ),
  row("nesterov", nesterov, { parabola: 0.02, rosenbrock: 2e-4 }, plainMomentum(0.9, true)),
  row("adam", adam, { parabola: 0.05, rosenbrock: 0.02 }, (rate) => plainAdam(rate)),
  row("adamw", adamw, { parabola: 0.05, rosenbrock: 0.02 }, (rate) => plainAdam(rate, 0.01)),
  row("adagrad", adagrad, { parabola: 0.5, rosenbrock: 0.5 }, plainAdagrad),
  row("rmsprop", rmsprop, { parabola: 0.02, rosenbrock: 0.01 }, plainRmsprop(0.99, 0, false)),
  row(
    "rmsprop, centered with momentum",
    (rate) => rmsprop(rate, { decay: 0.9, momentum: 0.5, isCentered: true }),
    { parabola: 0.005, rosenbrock: 2e-3 },
    plainRmsprop(0.9, 0.5, true),
  ),
  row("lion", lion, { parabola: 0.03, rosenbrock: 0.01 }, plainLion(0)),
  row(
    "lion with decay",
    (rate) => lion(rate, { weightDecay: 0.1 }),
    { parabola: 0.03, rosenbrock: 0.01 },
    plainLion(0.1),
  ),
  row("lamb", lamb, { parabola: 0.05, rosenbrock: 0.02 }, plainLamb(0)),
  row(
    "lamb with decay",
    (rate) => lamb(rate, { weightDecay: 0.1 }),
    { parabola: 0.05, rosenbrock: 0.02 },
    plainLamb(0.1),
  ),
  row(
    "muon",
    (rate) => muon(rate, { auxiliary: { learningRate: rate } }),
    { parabola: 0.03, rosenbrock: 0.02 },
    plainMuon,
  ),
];

const chains: readonly Row[] = [
  row(
    "clip by norm, then adam",
    (rate) => chain(clipByGlobalNorm(0.5), adam(rate)),
    { parabola: 0.05, rosenbrock: 0.02 },
    (rate) => {
      const step = plainAdam(rate);
      return (g, p) => step(clipped(g, 0.5), p);
    },
  ),
  row(
    "clip by norm, then sgd",
    (rate) => chain(clipByGlobalNorm(1), sgd(rate)),
    { parabola: 0.1, rosenbrock: 0.01 },
    (rate) => (g) => scale(clipped(g, 1), -rate),
  ),
  row(
    "clip by value, then momentum",
    (rate) => chain(clipByValue(0.3), momentum(rate)),
    { parabola: 0.05, rosenbrock: 0.002 },
    (rate) => {
      const step = plainMomentum(0.9, false)(rate);
      return (g, p) =>
        step(
          g.map((x) => Math.min(0.3, Math.max(-0.3, x))),
          p,
        );
    },
  ),
  row(
    "adam on a schedule",
    (rate) => adam(falling(rate)),
    { parabola: 0.08, rosenbrock: 0.03 },
    (rate) => plainAdam(fallingPlain(rate)),
  ),
  row(
    "sgd on a schedule",
    (rate) => scaleByLearningRate(falling(rate)),
    { parabola: 0.2, rosenbrock: 2e-3 },
    (rate) => {
      let step = 0;
      return (g) => scale(g, -fallingPlain(rate)(step++));
    },
  ),
];

const wrapped: readonly Row[] = [
  row(
    "decay of matrices, then adam",
    (rate) =>
      chain(
        masked(addDecayedWeights(0.5), (_path, leaf) => leaf.ndim > 1),
        adam(rate),
      ),
    { parabola: 0.05, rosenbrock: 0.02 },
    (rate) => {
      const step = plainAdam(rate);
      return (g, p) =>
        step(
          g.map((x, i) => (i < 4 ? x : x + 0.5 * p[i]!)),
          p,
        );
    },
  ),
  row(
    "adam for matrices, sgd for the rest",
    (rate) =>
      multiTransform({ matrix: adam(rate), other: sgd(rate) }, (_path, leaf) =>
        leaf.ndim > 1 ? "matrix" : "other",
      ),
    { parabola: 0.05, rosenbrock: 1e-3 },
    (rate) => {
      const step = plainAdam(rate);
      return (g, p) => [...scale(g.slice(0, 4), -rate), ...step(g.slice(4), p.slice(4))];
    },
  ),
  row(
    "three gradients to a step of adam on a schedule",
    (rate) => accumulate(adam(falling(rate)), 3),
    { parabola: 0.15, rosenbrock: 0.08 },
    (rate) => plainAccumulate(plainAdam(fallingPlain(rate)), 3),
  ),
  row(
    "lookahead over momentum",
    (rate) => lookahead(momentum(rate), { k: 3, alpha: 0.4 }),
    { parabola: 0.05, rosenbrock: 2e-4 },
    (rate) => plainLookahead(plainMomentum(0.9, false)(rate), 3, 0.4),
  ),
  row(
    "adam with an average",
    (rate) => chain(adam(rate), ema(0.9)),
    { parabola: 0.05, rosenbrock: 0.02 },
    (rate) => plainAdam(rate),
  ),
];

const options: FosiOptions = { k: 1, order: 2, warmup: 3, period: 4, alpha: 0.05, clip: 1 };
const withHessian: Refresh = (optimizer, state, loss, params) =>
  (optimizer as unknown as Fosi<unknown>).refreshCurvature(
    state as FosiState<unknown>,
    hessianOperator(loss, params),
    random.key(0),
  );
const bases: readonly string[] = ["sgd", "momentum", "nesterov", "adam", "rmsprop", "muon"];
const hybrids: readonly Row[] = first
  .filter(({ name }) => bases.includes(name))
  .map(({ name, make, rates }) => ({
    ...row(
      `fosi over ${name}`,
      (rate) => fosi(make(rate) as unknown as GradientTransformation<unknown>, options),
      rates,
    ),
    refresh: withHessian,
  }));

const diagonal: readonly Row[] = [
  {
    ...row("sophia", (rate) => sophia(rate, { period: 4 }), { parabola: 0.05, rosenbrock: 0.02 }),
    refresh: (optimizer, state, loss, params) =>
      (optimizer as unknown as Sophia).refreshCurvature(state as SophiaState, gradientOf(loss)(params), 5),
  },
  ...[1, 3].map((period) => ({
    ...row(`adahessian, period ${period}`, (rate) => adahessian(rate, { period, weightDecay: 0.01 }), {
      parabola: 0.15,
      rosenbrock: 0.15,
    }),
    refresh: ((optimizer, state, loss, params) =>
      (optimizer as unknown as AdaHessian).refreshCurvature(
        state as AdaHessianState,
        hessianOperator(loss, params),
        random.key(0),
      )) satisfies Refresh,
  })),
];

const all: readonly (readonly [string, Row])[] = [
  ...first,
  ...chains,
  ...wrapped,
  ...hybrids,
  ...diagonal,
].map((r) => [r.name, r]);
const dtypes: readonly DType[] = ["float32", "float64"];

/** A tree with a matrix, a vector and a scalar. */
function treeOf(numbers: Vector, dtype: DType): { layers: { w: Value; b: Value }[]; gain: Value } {
  const at = (from: number, to: number, shape: readonly number[]): Value =>
    tensor(Float64Array.from(numbers.slice(from, to)), { shape }).astype(dtype);
  return { layers: [{ w: at(0, 6, [2, 3]), b: at(6, 9, [3]) }], gain: at(9, 10, []) };
}

const flatNumbers = (tree: unknown): number[] => leaves(tree).flatMap((x) => list(x));

/** ½ Σ (1 + i / 4) x_i² over all leaves in order. */
function bowl(tree: unknown): Value {
  return leaves(tree)
    .map((x, i) => mul(0.5 + i / 8, sum(mul(x, x))))
    .reduce((a, b) => add(a, b));
}

test.each(all)(
  "%s is pure, and its state is a tree of tensors that keeps its structure",
  (_name, { make, rates }) => {
    for (const dtype of dtypes) {
      const optimizer = make(rates.parabola);
      let params = treeOf(normals(mulberry32(1), 10), dtype);
      let state = optimizer.init(params);
      expect(sameTreeBits(state, optimizer.init(params))).toBe(true);
      for (let step = 0; step < 5; step++) {
        const gradient = gradientOf<typeof params, []>(bowl)(params);
        const extra = extraAt(bowl, params);
        const before = [state, params, gradient].map((tree) => flatNumbers(tree));
        const [updates, next] = optimizer.update(gradient, state, params, extra);
        // Twice the same, from a second optimizer too: nothing is remembered outside the state.
        expect(sameTreeBits([updates, next], optimizer.update(gradient, state, params, extra))).toBe(true);
        expect(
          sameTreeBits([updates, next], make(rates.parabola).update(gradient, state, params, extra)),
        ).toBe(true);
        expect([state, params, gradient].map((tree) => flatNumbers(tree))).toEqual(before);
        // Updates are like the parameters, the next state like the state: a loop can carry both.
        expect(avals(updates)).toEqual(avals(params));
        expect(avals(next)).toEqual(avals(state));
        expect(leaves(next).every((x) => x instanceof Tensor)).toBe(true);
        [params, state] = [applyUpdates(params, updates), next];
      }
    }
  },
);

/** Structure, shapes and element types. */
function avals(tree: unknown): readonly string[] {
  const [xs, def] = flatten(tree);
  return [show(def), ...xs.map((x) => String(x.aval))];
}

test.each(all.filter(([, r]) => r.plain))(
  "%s makes the updates of plain loops",
  (name, { make, plain, rates }) => {
    for (const dtype of dtypes) {
      const optimizer = make(rates.parabola);
      const reference = plain!(rates.parabola);
      const uniform = mulberry32(2);
      let params = treeOf(normals(uniform, 10), dtype);
      let p = flatNumbers(params);
      let state = optimizer.init(params);
      const refuse = (): never => {
        throw new Error("Cannot be asked for more than a gradient");
      };
      const extra = { hessian: refuse, sampledGradient: refuse, batchSize: 1 };
      for (let step = 0; step < 12; step++) {
        // Any gradients will do: a method must not know where they come from.
        const gradient = treeOf(normals(uniform, 10), dtype);
        const [updates, next] = optimizer.update(gradient, state, params, extra);
        const expected = reference(flatNumbers(gradient), p);
        // Schedules give float32 rates.
        const tolerance = dtype === "float64" && !name.includes("schedule") ? 1e-14 : 2e-6;
        expect(maxDifference(flatNumbers(updates), expected)).toBeLessThan(tolerance);
        [params, state] = [applyUpdates(params, updates), next];
        p = flatNumbers(params);
      }
    }
  },
);

test.each(all)(
  "%s compiled makes the same updates, and its second step is not recorded again",
  (_name, { make, rates, refresh }) => {
    for (const dtype of dtypes) {
      const optimizer = make(rates.parabola);
      // Curvature is refreshed outside the compiled step: when it is due depends on numbers.
      const { step = null } = optimizer as unknown as {
        step?: (g: unknown, s: unknown, p: unknown) => readonly [unknown, unknown];
      };
      const update = (gradient: unknown, state: unknown, params: unknown): readonly [unknown, unknown] =>
        step?.(gradient, state, params) ?? optimizer.update(gradient, state, params, {} as Extra);
      const compiled = jit(update);
      const uniform = mulberry32(4);
      let params = treeOf(normals(uniform, 10), dtype);
      let state = optimizer.init(params);
      expect(refresh !== undefined).toBe(step !== null);
      if (refresh) state = refresh(optimizer, state, bowl, params);
      for (let step = 0; step < 4; step++) {
        const gradient = treeOf(normals(uniform, 10), dtype);
        const [updates, next] = compiled(gradient, state, params);
        const [expected, expectedNext] = update(gradient, state, params);
        const tolerance = dtype === "float64" ? 1e-13 : 2e-6;
        expect(maxDifference(flatNumbers(updates), flatNumbers(expected))).toBeLessThan(tolerance);
        expect(maxDifference(flatNumbers(next), flatNumbers(expectedNext))).toBeLessThan(tolerance);
        [params, state] = [applyUpdates(params, updates as typeof params), next];
      }
      expect(compiled.stats()).toMatchObject({ traces: 1, hits: 3 });
    }
  },
);

test.each(all)("%s goes down a parabola", (_name, { make, rates }) => {
  for (const dtype of dtypes) {
    const optimizer = make(rates.parabola);
    let params = treeOf(normals(mulberry32(3), 10), dtype);
    let state = optimizer.init(params);
    const before = bowl(params).item();
    for (let step = 0; step < 150; step++) {
      const gradient = gradientOf<typeof params, []>(bowl)(params);
      const [updates, next] = optimizer.update(gradient, state, params, extraAt(bowl, params));
      [params, state] = [applyUpdates(params, updates), next];
    }
    expect(bowl(params).item()).toBeLessThan(0.01 * before);
  }
});

test.each(all)("%s goes down Rosenbrock's valley", (_name, { make, rates }) => {
  for (const dtype of dtypes) {
    const optimizer = make(rates.rosenbrock);
    let x: Value = f64([-1.2, 1]).astype(dtype);
    let state = optimizer.init(x);
    const before = rosenbrock(x).item();
    for (let step = 0; step < 150; step++) {
      const extra = extraAt(rosenbrock as (params: unknown) => Value, x);
      const [updates, next] = optimizer.update(gradientOf(rosenbrock)(x), state, x, extra);
      [x, state] = [applyUpdates(x, updates), next];
    }
    expect(rosenbrock(x).item()).toBeLessThan(0.2 * before);
  }
});

test("FOSI refuses a base that decays weights, wherever the decay is, and says what to do", () => {
  const decay = addDecayedWeights(0.1);
  const decaying: readonly { readonly name: string; readonly decays?: true }[] = [
    decay,
    adamw(0.1),
    lion(0.1, { weightDecay: 0.1 }),
    lamb(0.1, { weightDecay: 0.1 }),
    muon(0.1, { weightDecay: 0.1 }),
    muon(0.1, { auxiliary: { weightDecay: 0.1 } }),
    sophia(),
    adahessian(0.1, { weightDecay: 0.1 }),
    chain(clipByValue(1), chain(decay, sgd(0.1))),
    masked(decay, true),
    multiTransform({ a: sgd(0.1), b: adamw(0.1) }, () => "a"),
    accumulate(chain(decay, sgd(0.1)), 2),
    lookahead(adamw(0.1)),
  ];
  for (const method of decaying)
    expect(() => fosi(method as unknown as GradientTransformation<unknown>)).toThrow(
      /^Cannot make FOSI over .*, a base without weight decay is needed; penalized\(loss, decay\) puts/,
    );
  const clean: readonly { readonly name: string; readonly decays?: true }[] = [
    adamw(0.1, { weightDecay: 0 }),
    lion(0.1),
    lamb(0.1),
    muon(0.1),
    lookahead(adam(0.1)),
    chain(addDecayedWeights(0), accumulate(sgd(0.1), 2)),
    multiTransform({ a: sgd(0.1), b: freeze() }, () => "a"),
  ];
  for (const method of clean)
    expect(fosi(method as unknown as GradientTransformation<unknown>).name).toStartWith("fosi(");
  for (const method of [sophia(0.1, { weightDecay: 0 }), adahessian()]) expect(method.decays).toBeUndefined();
});

test("a chain passes updates on and keeps one state for each part", () => {
  const optimizer = chain(clipByGlobalNorm(1), momentum(0.1, 0.5), clipByValue(0.05));
  expect(optimizer.name).toBe("clipByGlobalNorm > momentum > clipByValue");
  const x = f64([0, 0]);
  const state = optimizer.init(x);
  expect(state).toHaveLength(3);
  // 3-4-5: clipped to (0.6, 0.8), times 0.1, clipped to 0.05.
  const [updates, next] = optimizer.update(f64([3, 4]), state, x, {});
  expect(maxDifference(list(updates), [-0.05, -0.05])).toBe(0);
  expect(maxDifference(list(next[1][0].velocity as Value), [0.6, 0.8])).toBeLessThan(1e-15);
  expect(next[1][1].count.item()).toBe(1);
});

test("a type that forgets what a part needs does not compile", () => {
  const compiles = (x: Value): void => {
    const plain = chain(clipByGlobalNorm(1), adam(1e-3));
    plain.update(x, plain.init(x), x, {});
    const hybrid = chain(clipByGlobalNorm(1), fosi(sgd(0.1)));
    hybrid.update(x, hybrid.init(x), x, { hessian: () => hessianOperator(rosenbrock, x) });
    // @ts-expect-error a part of the chain needs the Hessian
    hybrid.update(x, hybrid.init(x), x, {});
    // @ts-expect-error the Hessian is a function that gives an operator
    hybrid.update(x, hybrid.init(x), x, { hessian: x });
    // @ts-expect-error a base is run on flat vectors without extra needs
    fosi(fosi(sgd(0.1)));
    // @ts-expect-error the state of another chain
    plain.update(x, hybrid.init(x), x, {});
  };
  expect(compiles).toBeFunction();
});

test.each([
  ["sgd", sgd(0.3)],
  ["momentum", momentum(0.2, 0.7)],
  ["adam", adam(0.1)],
  ["clip", chain(clipByGlobalNorm(0.5), sgd(0.3))],
])("derivatives pass through three steps of %s", (_name, optimizer) => {
  const trained = (start: Value): Value => {
    let [x, state] = [start, optimizer.init(start) as never];
    for (let step = 0; step < 3; step++) {
      const [updates, next] = optimizer.update(gradientOf<Value, []>(bowlOf)(x), state, x, {});
      [x, state] = [applyUpdates(x, updates), next as never];
    }
    return bowlOf(x);
  };
  checkGrads(trained, [f64([1, -2, 0.5])], { order: 1 });
});

/** Not a quadratic: its gradient is not linear. */
function bowlOf(x: Value): Value {
  return sum(mul(x, mul(x, add(1, mul(x, x)))));
}

test("the norm of a tree is that of all its elements", () => {
  const tree = treeOf(normals(mulberry32(4), 10), "float64");
  expect(globalNorm(tree).item()).toBeCloseTo(length(flatNumbers(tree)), 14);
});

test("clipping leaves a short gradient alone, bit for bit, and zero too", () => {
  const clip = clipByGlobalNorm(1);
  for (const g of [f64([0.3, -0.4]), f64([0, 0])])
    expect(sameTreeBits(clip.update(g, [], g, {})[0], g)).toBe(true);
  for (const limit of [0, -1, Number.NaN]) {
    expect(() => clipByGlobalNorm(limit)).toThrow(/^Cannot clip gradients: /);
    expect(() => clipByValue(limit)).toThrow(RangeError);
  }
});

const f32 = (numbers: readonly number[]): Value => tensor(Float32Array.from(numbers));
const clippedTo = (limit: number, g: Value): number[] =>
  list(clipByGlobalNorm(limit).update(g, [], g, {})[0]);

test("the norm of a tree neither overflows nor underflows, and has derivative 0 at 0", () => {
  expect(globalNorm({ a: f32([3e30]), b: f32([4e30]) }).item() / 5e30).toBeCloseTo(1, 6);
  expect(globalNorm({ a: f32([3e-30]), b: f32([4e-30]) }).item() / 5e-30).toBeCloseTo(1, 6);
  expect(globalNorm(f64([3, Infinity])).item()).toBe(Infinity);
  expect(globalNorm(f64([3, Number.NaN, Infinity])).item()).toBeNaN();
  expect(list(gradientOf<Value, []>((x) => globalNorm(x))(f64([0, 0])))).toEqual([0, 0]);
  checkGrads((x: Value) => globalNorm({ x, y: x.mul(2) }), [f64([1, -2, 0.5])]);
});

test("the norm of nothing is 0", () => {
  expect(globalNorm({}).item()).toBe(0);
  expect(globalNorm([f64([])]).item()).toBe(0);
  expect(globalNorm([f64([]), f64([3, 4])]).item()).toBe(5);
});

test("clipping by norm keeps the direction of what is large, and shows what is not finite", () => {
  expect(clippedTo(1, f32([1e20, 1]))).toEqual([1, Math.fround(1e-20)]);
  const [a, b] = clippedTo(1, f32([3e38, 3e38]));
  expect([a, b].map((x) => Math.abs(x! / Math.SQRT1_2 - 1) < 1e-6)).toEqual([true, true]);
  expect(clippedTo(1, f32([Infinity, 1]))).toEqual([Number.NaN, Number.NaN]);
  expect(clippedTo(1, f32([Number.NaN, 1]))).toEqual([Number.NaN, Number.NaN]);
});

test("the derivative of clipping is the identity inside, and at zero", () => {
  const clip = clipByGlobalNorm(1);
  for (const g of [f64([0, 0]), f64([0.3, 0.4])]) {
    const slope = gradientOf<Value, []>((x) => sum(mul(f64([5, 7]), clip.update(x, [], x, {})[0])))(g);
    expect(list(slope)).toEqual([5, 7]);
  }
  checkGrads((g: Value) => clip.update({ g }, [], { g }, {})[0], [f64([3, -4])]);
});

test("updates must be like the parameters, leaf by leaf", () => {
  const params = { v: f64([1]), w: f64([1, 2]) };
  const wrong = { v: f64([1]), w: tensor(1, { dtype: "float64" }) };
  expect(() => applyUpdates(params, wrong)).toThrow(ShapeError);
  expect(() => applyUpdates(params, wrong)).toThrow(
    /^Cannot apply updates at w: the update is f64\[\], f64\[2\] is needed/,
  );
  expect(() => applyUpdates(params, { v: f64([1]), w: f32([1, 2]) })).toThrow(ShapeError);
});

test("trees of different structure are refused, with the path", () => {
  const optimizer = adam(0.1);
  const params = { a: f64([1]), b: f64([2]) };
  const wrong = { a: f64([1]), c: f64([2]) } as unknown as typeof params;
  expect(() => optimizer.update(wrong, optimizer.init(params), params, {})).toThrow(
    /keys are \{a,c\} and \{a,b\}/,
  );
  expect(() => applyUpdates(params, wrong)).toThrow(/Cannot apply updates: at the root the keys are/);
  expect(map((x) => x, params)).toEqual(params);
});
