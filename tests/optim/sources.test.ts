import { expect, test } from "bun:test";
import { baseOf } from "../../dist/jobs.ts";
import { adam, scaleByAdam } from "../../optim/adam.ts";
import { clipByGlobalNorm, clipByValue } from "../../optim/clip.ts";
import { fosi } from "../../optim/fosi.ts";
import { sgd } from "../../optim/momentum.ts";
import { cite, sources } from "../../optim/sources.ts";
import { chain, scaleByLearningRate } from "../../optim/transformation.ts";

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
