/** The teaching path runs, and agrees with the library: two implementations that share no line. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import * as auto from "../../docs/autodidax.ts";
import * as ct from "../../mod.ts";
import { prop } from "../support/prop.ts";

/** A program of one number as data, so that both implementations can run it. */
type Expression =
  | { readonly k: "x" }
  | { readonly k: "constant"; readonly value: number }
  | { readonly k: (typeof unary)[number]; readonly of: Expression }
  | { readonly k: (typeof binary)[number]; readonly left: Expression; readonly right: Expression };
const unary = ["neg", "sin", "cos", "expSin", "damp"] as const;
const binary = ["add", "sub", "mul"] as const;

/** The operations of one implementation. */
interface Operations<V> {
  constant(value: number): V;
  neg(x: V): V;
  sin(x: V): V;
  cos(x: V): V;
  exp(x: V): V;
  add(x: V, y: V): V;
  sub(x: V, y: V): V;
  mul(x: V, y: V): V;
  div(x: V, y: V): V;
}

const library: Operations<ct.Value> = {
  constant: (value) => ct.tensor(value, { dtype: "float64" }),
  neg: (x) => ct.neg(x),
  sin: (x) => ct.sin(x),
  cos: (x) => ct.cos(x),
  exp: (x) => ct.exp(x),
  add: (x, y) => ct.add(x, y),
  sub: (x, y) => ct.sub(x, y),
  mul: (x, y) => ct.mul(x, y),
  div: (x, y) => ct.div(x, y),
};
const miniature: Operations<auto.Value> = { ...auto, constant: (value) => value };

function evaluate<V>(e: Expression, x: V, ops: Operations<V>): V {
  const go = (part: Expression): V => {
    switch (part.k) {
      case "x":
        return x;
      case "constant":
        return ops.constant(part.value);
      case "neg":
        return ops.neg(go(part.of));
      case "sin":
        return ops.sin(go(part.of));
      case "cos":
        return ops.cos(go(part.of));
      case "expSin": // bounded, so that towers of it stay finite
        return ops.exp(ops.sin(go(part.of)));
      case "damp": {
        const y = go(part.of);
        return ops.div(y, ops.add(ops.constant(1), ops.mul(y, y)));
      }
      case "add":
        return ops.add(go(part.left), go(part.right));
      case "sub":
        return ops.sub(go(part.left), go(part.right));
      case "mul":
        return ops.mul(go(part.left), go(part.right));
      default:
        return part satisfies never;
    }
  };
  return go(e);
}

const small = fc.double({ min: -2, max: 2, noNaN: true });
const { expression } = fc.letrec<{ expression: Expression }>((tie) => ({
  expression: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    fc.constant<Expression>({ k: "x" }),
    small.map((value): Expression => ({ k: "constant", value })),
    fc.record({ k: fc.constantFrom(...unary), of: tie("expression") }),
    fc.record({ k: fc.constantFrom(...binary), left: tie("expression"), right: tie("expression") }),
  ),
}));

function same(actual: ct.Value, expected: auto.Value, tolerance: number): void {
  const [x, y] = [actual.item(), expected as number];
  if (!(Math.abs(x - y) <= tolerance * (1 + Math.abs(y))))
    throw new Error(`Cannot agree: the library has ${x}, the miniature ${y}`);
}
const at = (x: number): ct.Value => ct.tensor(x, { dtype: "float64" });

test("the claims of the teaching path hold", () => {
  const shown = auto.tour();
  expect(shown).toContain("8. Curvature");
  expect(Number(/(\d+) claims hold/.exec(shown)?.[1])).toBeGreaterThanOrEqual(15);
});

prop("values, gradients and curvatures of random programs agree", expression, small, small, (e, x, v) => {
  const mine = (y: ct.Value): ct.Value => evaluate(e, y, library);
  const theirs = (y: auto.Value): auto.Value => evaluate(e, y, miniature);
  same(mine(at(x)), theirs(x), 1e-12);
  same(ct.grad(mine)(at(x)), auto.grad(theirs)(x), 1e-10);
  same(ct.jvp(mine, [at(x)], [at(v)])[1], auto.jvp(theirs, x, v)[1], 1e-10);
  same(ct.hvp(mine)(at(x), at(v)), auto.hvp(theirs)(x, v), 1e-9);
});

prop(
  "batches of derivatives agree",
  expression,
  fc.array(small, { minLength: 1, maxLength: 4 }),
  (e, points) => {
    const mine = ct.vmap(ct.grad((y: ct.Value) => evaluate(e, y, library)));
    const theirs = auto.vmap(auto.grad((y) => evaluate(e, y, miniature)))(points) as readonly number[];
    const rows = [...mine(ct.tensor(points, { dtype: "float64" })).dataSync()];
    expect(rows.length).toBe(points.length);
    rows.forEach((row, i) => {
      same(at(row), theirs[i]!, 1e-10);
    });
  },
);

prop(
  "Hessians of functions of several numbers agree",
  expression,
  fc.array(small, { minLength: 2, maxLength: 3 }),
  (e, point) => {
    // Σ e(x_i) + sin(Σ x_i): the second term couples the coordinates.
    const mine = (x: ct.Value): ct.Value => {
      const total = ct.sum(x);
      return ct.add(ct.sum(ct.mul(evaluate(e, x, library), ct.onesLike(x))), ct.sin(total));
    };
    const theirs = (x: auto.Value): auto.Value =>
      auto.add(
        auto.sum(
          auto.mul(
            evaluate(e, x, miniature),
            point.map(() => 1),
          ),
        ),
        auto.sin(auto.sum(x)),
      );
    const x = ct.tensor(point, { dtype: "float64" });
    const rows = (auto.hessian(theirs)(point) as readonly (readonly number[])[]).flat();
    const flat = [...(ct.hessian(mine)(x) as ct.Value).dataSync()];
    expect(flat.length).toBe(rows.length);
    flat.forEach((h, i) => {
      same(at(h), rows[i]!, 1e-9);
    });
  },
);
