/** What transforms refuse before they run, and in whose name. */
import { expect, test } from "bun:test";
import { hvp } from "../../autodiff/hvp.ts";
import { jvp } from "../../autodiff/jvp.ts";
import { linearize } from "../../autodiff/linearize.ts";
import { grad, valueAndGrad, vjp } from "../../autodiff/vjp.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { LinearityError, ShapeError, TreeError } from "../../core/errors.ts";
import { add, mul, sum } from "../../core/ops.ts";
import { definePrimitive, type Primitive } from "../../core/primitive.ts";
import { bind1 } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import { float64 } from "../support/quartic.ts";
import { assertClose } from "../support/tolerance.ts";

const x = float64([1, 2]);
const product = (a: Value, b: Value): Value => sum(mul(a, b));

test("a position to differentiate is given once", () => {
  const twice = [0, 0] as const;
  expect(() => grad(product, { argnums: twice })(x, x)).toThrow(TreeError);
  expect(() => valueAndGrad(product, { argnums: twice })(x, x)).toThrow(
    /^Cannot differentiate argument 0: it is in argnums \[0,0\] twice, distinct positions are needed/,
  );
  const [db, da] = grad(product, { argnums: [1, 0] })(x, mul(x, 3));
  assertClose(db, x, "second");
  assertClose(da, mul(x, 3), "first");
});

test("positions are those of the time grad was called", () => {
  const positions = [0];
  const gradient = grad(product, { argnums: positions });
  positions[0] = 1;
  assertClose(gradient(x, mul(x, 3))[0]!, mul(x, 3), "first");
});

test("vmap wants an axis, or null, for every argument", () => {
  for (const inAxes of [[0], [0, 0, 0], []]) {
    expect(() => vmap(product, { inAxes })(x, x)).toThrow(ShapeError);
    expect(() => vmap(product, { inAxes })(x, x)).toThrow(
      /^Cannot vmap 2 arguments: inAxes has [013] entr(y|ies), one for each argument is needed/,
    );
  }
  expect(vmap(add, { inAxes: [0, null] })(x, x).shape).toEqual([2, 2]);
});

test("a function with auxiliary output returns a pair", () => {
  const alone = (y: Value): Value => sum(y);
  const three = (y: Value): Value[] => [sum(y), y, y];
  for (const f of [alone, three] as unknown as ((y: Value) => readonly [Value, Value])[]) {
    expect(() => grad(f, { hasAux: true })(x)).toThrow(TreeError);
    expect(() => valueAndGrad(f, { hasAux: true })(x)).toThrow(
      /^Cannot differentiate with hasAux a function that does not return a pair: \[loss, aux\] is needed/,
    );
  }
});

test("a leaf that differs is named by what it is, and by the function that was called", () => {
  const f = (p: { w: Value }): Value => sum(mul(p.w, p.w));
  const [at, short] = [{ w: x }, { w: float64([1]) }];
  expect(() => jvp(f, [at], [short])).toThrow(
    /^Cannot jvp at \[0\]\.w: the tangent is f64\[1\], f64\[2\] is needed/,
  );
  expect(() => hvp(f)(at, short)).toThrow(/^Cannot hvp at w: the direction is f64\[1\], f64\[2\] is needed/);
  expect(() => hvp(f)(at, { v: x } as never)).toThrow(/^Cannot hvp: at the root the keys are /);
  expect(() => linearize(f, at)[1](short)).toThrow(/^Cannot push at \[0\]\.w: the tangent is f64\[1\]/);
  const [, pullback] = vjp((y: Value) => ({ y }), x);
  expect(() => pullback({ y: float64([1]) })).toThrow(/^Cannot pull back at y: the cotangent is f64\[1\]/);
});

/** The zero of a vector as a linear function of it, whose transpose rule gives null or zeros. */
function zeroMap(name: string, transposed: (ct: Value) => Value | null): Primitive<null> {
  const primitive: Primitive<null> = definePrimitive({
    name,
    doc: "0 x",
    arity: 1,
    traits: {},
    shape: ([v]) => [v!],
    cpu: ([v]) => [v!.data.slice().fill(0)],
    jvp: ([v], [dv]) => [[bind1(primitive, [v!], null)], [dv ? bind1(primitive, [dv], null) : null]],
    transpose: ([ct]) => [ct ? transposed(ct) : null],
    batch: ([v], [dim]) => [[bind1(primitive, [v!], null)], [dim!]],
    domain: (draw) => ({ args: [{ shape: draw.shape(0, 2) }], params: null }),
  });
  return primitive;
}

test("a transpose rule gives the cotangent of its linear argument, zeros where it is zero", () => {
  const silent = zeroMap("test_silentZero", () => null);
  const spoken = zeroMap("test_spokenZero", (ct) => mul(ct, 0));
  const through = (p: Primitive<null>) => (y: Value) => sum(add(y, bind1(p, [y], null)));
  expect(() => grad(through(silent))(x)).toThrow(LinearityError);
  expect(() => grad(through(silent))(x)).toThrow(/"test_silentZero".*gives null for a linear argument/);
  assertClose(grad(through(spoken))(x), float64([1, 1]), "gradient");
});
