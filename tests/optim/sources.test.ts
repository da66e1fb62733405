import { expect, test } from "bun:test";
import { baseOf } from "../../dist/jobs.ts";
import { fosi } from "../../optim/fosi.ts";
import { cite, sources } from "../../optim/sources.ts";

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

test("an unknown method is refused with the known ones", () => {
  expect(() => cite("magic")).toThrow(/^Cannot cite "magic": .* sgd, /);
  expect(() => cite("constructor")).toThrow(RangeError);
});
