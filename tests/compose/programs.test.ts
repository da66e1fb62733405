/** What transforms do, as text: the programs of gradients, Hessian products and maps. Review a change of these files. */
import { expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { hvp } from "../../autodiff/hvp.ts";
import { jvp } from "../../autodiff/jvp.ts";
import { linearize } from "../../autodiff/linearize.ts";
import { evalShape, makeProgram, type Staged } from "../../autodiff/program.ts";
import { grad, vjp } from "../../autodiff/vjp.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { ones, zeros } from "../../core/create.ts";
import { conv, matmul, mean, mul, pad, sin, sub, sum, tanh } from "../../core/ops.ts";
import { deadCodeEliminated, evalProgram, show, verify } from "../../core/program.ts";
import type { Value } from "../../core/value.ts";
import { float64 } from "../support/quartic.ts";
import { assertSameBits } from "../support/tolerance.ts";

const waves = (x: Value): Value => sum(sin(mul(x, x)));
interface Layer {
  readonly b: Value;
  readonly w: Value;
}
/** Mean squared error of one layer of tanh. */
const layer = ({ w, b }: Layer, x: Value, y: Value): Value => {
  const error = sub(tanh(matmul(x, w).add(b)), y);
  return mean(mul(error, error));
};
const params: Layer = { w: zeros([3, 2]), b: zeros([2]) };
const batch = [zeros([4, 3]), zeros([4, 2])] as const;

const golden: readonly { name: string; staged: () => Staged }[] = [
  { name: "program_waves", staged: () => makeProgram(waves)(zeros([3])) },
  {
    name: "program_waves_jvp",
    staged: () => makeProgram((x: Value, v: Value) => jvp(waves, [x], [v]))(zeros([3]), zeros([3])),
  },
  { name: "program_waves_grad", staged: () => makeProgram(grad(waves))(zeros([3])) },
  { name: "program_waves_hvp", staged: () => makeProgram(hvp(waves))(zeros([3]), zeros([3])) },
  { name: "program_waves_vmap_grad", staged: () => makeProgram(vmap(grad(waves)))(zeros([5, 3])) },
  { name: "program_layer_grad", staged: () => makeProgram(grad(layer))(params, ...batch) },
  { name: "program_layer_hvp", staged: () => makeProgram(hvp(layer))(params, params, ...batch) },
];

for (const { name, staged } of golden) {
  test(`the text of ${name} without dead equations is the reviewed one`, () => {
    const { program } = staged();
    verify(program);
    const text = `${show(deadCodeEliminated(program))}\n`;
    const path = join(import.meta.dir, "../golden", `${name}.txt`);
    if (process.env["UPDATE_GOLDEN"] === "1") writeFileSync(path, text);
    expect(existsSync(path)).toBe(true);
    expect(text).toBe(readFileSync(path, "utf8"));
  });
}

test("a program has one line per equation and letters in order", () => {
  const staged = makeProgram((x: Value, y: Value) => [mul(sin(x), 2), y])(
    zeros([2]),
    zeros([], { dtype: "int32" }),
  );
  expect(String(staged)).toBe(
    [
      "program (a: f32[2], b: i32[]) {",
      "  c: f32[2] = sin a",
      "  d: f32[2] = broadcast f32[]:2 {shape: [2], axes: []}",
      "  e: f32[2] = mul c d",
      "  return e, b",
      "}",
    ].join("\n"),
  );
});

test("a recorded gradient runs and gives the bits of the gradient", () => {
  const x = float64([0.5, -1, 2]);
  const { program } = makeProgram(grad(waves))(x);
  assertSameBits(evalProgram(program, [x])[0]!, grad(waves)(x), "gradient");
});

test("a program keeps the lists it was recorded with", () => {
  const [starts, limits, shape, widths] = [[0], [2], [3, 1], [[1, 1] as [number, number]]];
  const x = float64([1, 2, 3]);
  const f = (y: Value): Value => {
    const column = pad(y, widths).slice(starts, limits).broadcastTo([3, 2]).reshape([6]);
    return conv(column.reshape([1, 1, 6]), ones([1, 1, 2], { dtype: "float64" }), { padding: widths })
      .reshape([7, 1])
      .add(zeros(shape.toSpliced(0, 1), { dtype: "float64" }));
  };
  const ct = float64([1, 2, 3, 4, 5, 6, 7]).reshape([7, 1]);
  const [, pullback] = vjp(f, x);
  const [, push] = linearize(f, x);
  const staged = makeProgram(f)(x);
  const before = { text: String(staged), back: pullback(ct)[0], along: push(x), value: f(x) };
  starts[0] = 1;
  limits[0] = 3;
  widths[0]![0] = 0;
  assertSameBits(pullback(ct)[0], before.back, "pullback");
  assertSameBits(push(x), before.along, "linear function");
  assertSameBits(evalProgram(staged.program, [x])[0]!, before.value, "program");
  expect(String(staged)).toBe(before.text);
});

test("recording does not use the elements, and evalShape gives a tree of abstract values", () => {
  const large = evalShape((p: Layer, x: Value) => ({ out: matmul(x, p.w), p }), params, zeros([7, 3]));
  expect(JSON.parse(JSON.stringify(large, (_, leaf) => (leaf?.dtype ? String(leaf) : leaf)))).toEqual({
    out: "f32[7,2]",
    p: { b: "f32[2]", w: "f32[3,2]" },
  });
});
