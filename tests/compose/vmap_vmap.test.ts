import { vmap } from "../../autodiff/vmap.ts";
import { Aval } from "../../core/aval.ts";
import { dot, mul, sin } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { SeededDraw, seeds } from "../support/arbitrary_tensor.ts";
import { stack, take } from "../support/host_oracle.ts";
import { prop } from "../support/prop.ts";
import { assertClose } from "../support/tolerance.ts";

const scalarAval = new Aval([], "float64");

prop("vmap of vmap is two loops: all pairs", seeds(), (seed) => {
  const draw = new SeededDraw(seed);
  const [m, n, k] = [draw.int(0, 3), draw.int(0, 3), draw.int(1, 3)];
  const xs = draw.tensor({ shape: [m, k] }, "float64");
  const ys = draw.tensor({ shape: [n, k] }, "float64");
  const f = (x: Value, y: Value): Value => mul(sin(dot(x, y)), dot(x, x));
  const pairs = vmap(vmap(f, { inAxes: [null, 0] }), { inAxes: [0, null] })(xs, ys);
  const rows = Array.from({ length: m }, (_, i) =>
    stack(
      Array.from({ length: n }, (_, j) => f(take(xs, 0, i), take(ys, 0, j))),
      scalarAval,
      0,
    ),
  );
  assertClose(pairs, stack(rows, new Aval([n], "float64"), 0), "f(x_i, y_j)");
});

prop("vmaps over different axes commute", seeds(), (seed) => {
  const draw = new SeededDraw(seed);
  const x = draw.tensor({ shape: [draw.int(1, 3), draw.int(1, 3), draw.int(1, 3)] }, "float64");
  const f = (row: Value): Value => mul(dot(row, row), row);
  // [a, b, c]: over a then b, and over b then a with the results put back.
  const one = vmap(vmap(f))(x);
  const other = vmap(vmap(f), { inAxes: 1, outAxes: 1 })(x);
  assertClose(other, one, "both orders");
});
