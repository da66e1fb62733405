/** The Hessian of a compiled function as an operator: the products of the plain one, recorded once for all points. */
import { expect, test } from "bun:test";
import { hvp } from "../../autodiff/hvp.ts";
import { jit } from "../../autodiff/jit.ts";
import { hessianOperator } from "../../autodiff/operator.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { tensor } from "../../core/create.ts";
import { add, logSoftmax, matmul, mul, sum, tanh } from "../../core/ops.ts";
import * as random from "../../core/random.ts";
import { ravel } from "../../core/ravel.ts";
import type { Value } from "../../core/value.ts";
import { assertClose } from "../support/tolerance.ts";

type Params = { readonly v: Value; readonly w: Value };

const draw = (i: number, shape: readonly number[]): Value =>
  random.normal(random.foldIn(random.key(7), i), shape, { dtype: "float64" });
const paramsAt = (i: number): Params => ({ v: draw(i, [4, 3]), w: draw(i + 1, [3, 4]) });

test("products are those of the plain operator, at every point and batch, and f is recorded once", () => {
  let recorded = 0;
  const loss = ({ v, w }: Params, x: Value): Value => {
    recorded++;
    return sum(mul(logSoftmax(matmul(tanh(matmul(x, w)), v)), 0.3));
  };
  const compiled = jit(loss);
  for (const i of [0, 10, 20]) {
    const [params, x] = [paramsAt(i), draw(i + 2, [5, 3])];
    const operator = hessianOperator(compiled, params, x);
    for (const j of [3, 4]) {
      const direction = { v: draw(i + j, [4, 3]), w: draw(i + j + 2, [3, 4]) };
      const [flat] = ravel(direction);
      const [expected] = ravel(hvp(loss)(params, direction, x));
      assertClose(operator.apply(flat), expected, `product ${j} at point ${i}`);
      assertClose(hessianOperator(loss, params, x).apply(flat), expected, `plain product ${j} at point ${i}`);
    }
  }
  // Twice by each of the six hvp and six plain operators at most; the compiled ones share one recording.
  const before = recorded;
  hessianOperator(compiled, paramsAt(30), draw(32, [5, 3])).apply(ravel(paramsAt(40))[0]);
  expect(recorded).toBe(before);
  hessianOperator(compiled, paramsAt(30), draw(32, [6, 3])).apply(ravel(paramsAt(40))[0]);
  expect(recorded).toBe(before + 1);
});

test("a function without curvature gives zeros", () => {
  const operator = hessianOperator(
    jit((x: Value) => sum(mul(x, 3))),
    tensor([1, 2]),
  );
  assertClose(operator.apply(tensor([5, 6])), tensor([0, 0]), "zero Hessian");
});

test("products of a compiled operator can be transformed", () => {
  const quartic = jit((x: Value) => sum(mul(mul(x, x), mul(x, x))));
  const x = tensor([1, -2], { dtype: "float64" });
  const operator = hessianOperator(quartic, x);
  const columns = vmap((v: Value) => operator.apply(v))(
    tensor(
      [
        [1, 0],
        [0, 1],
      ],
      { dtype: "float64" },
    ),
  );
  assertClose(
    columns,
    tensor(
      [
        [12, 0],
        [0, 48],
      ],
      { dtype: "float64" },
    ),
    "columns of the Hessian",
  );
  assertClose(
    jit((v: Value) => add(operator.apply(v), v))(tensor([1, 1], { dtype: "float64" })),
    tensor([13, 49], { dtype: "float64" }),
    "inside jit",
  );
});
