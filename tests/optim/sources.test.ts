import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ones } from "../../core/create.ts";
import * as nn from "../../core/nn.ts";
import { sum } from "../../core/ops.ts";
import * as random from "../../core/random.ts";
import { baseOf } from "../../dist/jobs.ts";
import { adam, addDecayedWeights, scaleByAdam } from "../../optim/adam.ts";
import { clipByGlobalNorm, clipByValue } from "../../optim/clip.ts";
import { fosi } from "../../optim/fosi.ts";
import { scaleByTrustRatio } from "../../optim/lamb.ts";
import * as optim from "../../optim/mod.ts";
import { sgd } from "../../optim/momentum.ts";
import { cite, sources } from "../../optim/sources.ts";
import { chain, scaleByLearningRate } from "../../optim/transformation.ts";
import { filesUnder } from "../../tools/source.ts";

test("every source is complete, and prints on one line", () => {
  for (const [name, entries] of Object.entries(sources)) {
    expect(entries.length).toBeGreaterThan(0);
    for (const { authors, year, title, venue, url } of entries) {
      expect([authors, title, venue].every((text) => text.length > 3)).toBe(true);
      expect(year >= 1800 && year < 2100).toBe(true);
      if (url !== undefined) expect(new URL(url).protocol).toBe("https:");
    }
    expect(cite(name).every((line) => !line.includes("\n") && /\(\d{4}\)\. /.test(line))).toBe(true);
  }
});

test("optimizers can be cited by their names, a hybrid gives both", () => {
  const plans = [
    { name: "sgd", learningRate: 1 },
    { name: "momentum", learningRate: 1, beta: 0.9 },
    { name: "nesterov", learningRate: 1, beta: 0.9 },
    { name: "adam", learningRate: 1, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 },
    { name: "adamw", learningRate: 1, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 },
  ] as const;
  for (const plan of plans) {
    const base = baseOf(plan);
    expect(cite(base.name)).toEqual(cite(plan.name));
    expect(cite(fosi(base).name)).toEqual([...cite("fosi"), ...cite(plan.name)]);
  }
});

const layer: optim.KfacLayer = optim.kfacLayers(
  (p: nn.AffineParams) => sum(nn.dense(1, 1).apply(p, ones([1, 1]))),
  nn.dense(1, 1).init(random.key(0)),
)[0]!;

/** Every method, and who published it and what it contains. */
const methods: readonly (readonly [method: { readonly name: string }, first: readonly string[]])[] = [
  [sgd(1), ["H. Robbins"]],
  [optim.momentum(1), ["B. T. Polyak"]],
  [optim.nesterov(1), ["Y. Nesterov", "I. Sutskever"]],
  [optim.adagrad(1), ["J. Duchi"]],
  [optim.rmsprop(1), ["T. Tieleman", "A. Graves"]],
  [scaleByAdam(), ["D. P. Kingma"]],
  [adam(1), ["D. P. Kingma"]],
  [addDecayedWeights(0.1), ["I. Loshchilov"]],
  [optim.adamw(1), ["I. Loshchilov"]],
  [optim.lion(1), ["X. Chen"]],
  [scaleByTrustRatio(), ["Y. You"]],
  [optim.lamb(1), ["Y. You"]],
  [optim.muon(1), ["K. Jordan", "J. Bernstein"]],
  [optim.sophia(1), ["H. Liu"]],
  [optim.adahessian(1), ["Z. Yao"]],
  [optim.shampoo(1), ["V. Gupta", "H.-J. M. Shi"]],
  [optim.soap(1), ["N. Vyas"]],
  [optim.kfac([layer]), ["J. Martens", "R. Grosse", "J. G. Pauloski"]],
  [optim.lbfgs(), ["D. C. Liu", "J. Nocedal"]],
  [optim.newtonCg(), ["S. G. Nash", "T. Steihaug"]],
  [optim.gaussNewton(), ["K. Levenberg", "D. W. Marquardt", "H. B. Nielsen"]],
  [fosi(adam(1)), ["H. Sivan", "D. P. Kingma"]],
  [optim.fosiSgd(1), ["H. Sivan", "H. Robbins"]],
  [optim.fosiMomentum(1), ["H. Sivan", "B. T. Polyak"]],
  [optim.fosiNesterov(1), ["H. Sivan", "Y. Nesterov", "I. Sutskever"]],
  [optim.fosiAdam(1), ["H. Sivan", "D. P. Kingma"]],
  [optim.lookahead(adam(1)), ["M. R. Zhang", "D. P. Kingma"]],
  [optim.ema(0.9), ["B. T. Polyak"]],
  [optim.accumulate(adam(1), 2), ["D. P. Kingma"]],
  [optim.masked(optim.lion(1), true), ["X. Chen"]],
  [optim.multiTransform({ moved: adam(1), still: optim.freeze() }, () => "moved"), ["D. P. Kingma"]],
  [optim.freeze(), []],
  [clipByGlobalNorm(1), ["R. Pascanu"]],
  [clipByValue(1), []],
  [scaleByLearningRate(1), []],
];

test("every method can be cited by its name", () => {
  for (const [{ name }, first] of methods) {
    const lines = cite(name);
    expect([name, lines.length]).toEqual([name, first.length]);
    lines.forEach((line, i) => {
      expect(line).toStartWith(first[i]!);
    });
  }
});

test("no name of a transformation is without an answer, and none is missing from the table", () => {
  const known = new Set(methods.flatMap(([{ name }]) => name.split(/[()]| > /)));
  let count = 0;
  const root = new URL("../../", import.meta.url).pathname;
  for (const file of filesUnder(root, "optim")) {
    for (const [, name] of readFileSync(join(root, file), "utf8").matchAll(/\bname: ["`](\w+)/g)) {
      count++;
      expect(() => cite(name!)).not.toThrow();
      // A direction is part of the method of its file, which has a name of its own.
      if (!name!.startsWith("scaleBy")) expect(known).toContain(name!);
    }
  }
  expect(count).toBeGreaterThan(30);
});

test("a chain is cited by its parts, those without sources give none", () => {
  const clipped = chain(clipByGlobalNorm(1), clipByValue(1), adam(0.1));
  expect(cite(clipped.name)).toEqual([...cite("clipByGlobalNorm"), ...cite("adam")]);
  expect(cite(chain(clipByValue(1), scaleByLearningRate(1)).name)).toEqual([]);
  expect(cite(clipByValue(1).name)).toEqual([]);
  expect(cite(scaleByAdam().name)).toEqual(cite("adam"));
  const mine = { ...clipByValue(1), name: "mine" };
  expect(cite(chain(mine, sgd(0.1)).name)).toEqual(cite("sgd"));
  expect(cite(fosi(chain(clipByGlobalNorm(1), adam(0.1))).name)).toEqual([
    ...cite("fosi"),
    ...cite("clipByGlobalNorm"),
    ...cite("adam"),
  ]);
  expect(() => cite("fosi(magic)")).toThrow(/^Cannot cite "magic"/);
});

test("an unknown method is refused with the known ones", () => {
  expect(() => cite("magic")).toThrow(/^Cannot cite "magic": .* sgd, /);
  expect(() => cite("constructor")).toThrow(RangeError);
});
