/** What is left of derivatives after simplification: as few contractions as the mathematics needs. Review the texts. */
import { expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { hvp } from "../../autodiff/hvp.ts";
import { jit } from "../../autodiff/jit.ts";
import { grad, valueAndGrad } from "../../autodiff/vjp.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { tensor } from "../../core/create.ts";
import { mlp, softmaxCrossEntropy } from "../../core/nn.ts";
import { sum, tanh } from "../../core/ops.ts";
import { type Program, show, verify } from "../../core/program.ts";
import { key } from "../../core/random.ts";
import { ravel } from "../../core/ravel.ts";
import type { Value } from "../../core/value.ts";

const model = mlp([4, 5, 3, 2], { activation: "tanh" });
const params = model.init(key(0));
const x = tensor([
  [1, 2, 3, 4],
  [5, 6, 7, 8],
]);
const labels = tensor([0, 1], { dtype: "int32" });
const loss = (p: typeof params, batch: Value, classes: Value): Value =>
  softmaxCrossEntropy(model.apply(p, batch), classes);

const [flat, unravel] = ravel(params);
const flatLoss = (v: Value): Value => loss(unravel(v), x, labels);
/** One example at a time, as vmap sees it. */
const oneLoss = (p: typeof params, row: Value): Value => sum(tanh(model.apply(p, row.reshape([1, 4]))));

interface Case {
  readonly name: string;
  /** Contractions that the derivative needs, derived here and not read off the result. */
  readonly dots: number;
  readonly program: () => Program;
}

const cases: readonly Case[] = [
  // y = W3 h2, h2 = f(W2 h1), h1 = f(W1 x): 3 products forwards. Backwards 3 for the weights and 2 for h2 and h1;
  // x needs none.
  {
    name: "valueAndGrad",
    dots: 3 + 3 + 2,
    program: () => jit(valueAndGrad(loss)).program(params, x, labels),
  },
  // Forwards 3, and their derivative along (V1, V2, V3): V1 x, then W h' and V h for two layers: 5. Backwards 2 for h2
  // and h1, whose derivative has two terms each: 4. For the weights only the derivative is wanted, ct' h + ct h' with
  // x' = 0: 5.
  { name: "hvp", dots: 3 + 5 + 2 + 4 + 5, program: () => jit(hvp(loss)).program(params, params, x, labels) },
  // The same as the gradient by parts: what was cut out of the vector is not padded back.
  { name: "grad_flat", dots: 8, program: () => jit(grad(flatLoss)).program(flat) },
  // Gradients of single examples are outer products: each of the 8 stays one.
  {
    name: "per_example",
    dots: 8,
    program: () => jit(vmap(grad(oneLoss), { inAxes: [null, 0] })).program(params, x),
  },
];

const isDot = ({ prim }: Program["eqns"][number]): boolean => prim.name === "dot";

for (const { name, dots, program } of cases) {
  test(`the simplified program of ${name} has ${dots} contractions and the reviewed text`, () => {
    const compiled = program();
    verify(compiled);
    expect(compiled.eqns.filter(isDot).length).toBe(dots);
    const text = `${show(compiled)}\n`;
    const path = join(import.meta.dir, "../golden", `jit_${name}.txt`);
    if (process.env["UPDATE_GOLDEN"] === "1") writeFileSync(path, text);
    expect(existsSync(path)).toBe(true);
    expect(text).toBe(readFileSync(path, "utf8"));
  });
}

test("no gradient of weights is transposed, no part of a vector padded", () => {
  for (const { program } of cases.slice(0, 3)) {
    const names = program().eqns.map(({ prim }) => prim.name);
    expect(names).not.toContain("permute");
    expect(names).not.toContain("pad");
    expect(names).not.toContain("stopGradient");
  }
});
