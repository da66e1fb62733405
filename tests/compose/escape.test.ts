/** A traced value has no meaning outside its transform, and a traced function has no time. Both are TraceErrors. */
import { expect, test } from "bun:test";
import { hessian, hvp, jacfwd, jacrev } from "../../autodiff/hvp.ts";
import { jvp } from "../../autodiff/jvp.ts";
import { linearize } from "../../autodiff/linearize.ts";
import { hessianOperator } from "../../autodiff/operator.ts";
import { evalShape, makeProgram } from "../../autodiff/program.ts";
import { linearTranspose } from "../../autodiff/transpose.ts";
import { grad, valueAndGrad, vjp } from "../../autodiff/vjp.ts";
import { vmap } from "../../autodiff/vmap.ts";
import { LinearityError, TraceError } from "../../core/errors.ts";
import { add, mul, sin, sum, where } from "../../core/ops.ts";
import { encode } from "../../core/safetensors.ts";
import type { Value } from "../../core/value.ts";
import { float64 } from "../support/quartic.ts";
import { assertClose } from "../support/tolerance.ts";

const x = float64([1, 2]);
type F = (x: Value) => Value;

/** Every transform as a way to run a function at `x`; `scalar` ones need a scalar function. */
const transforms: readonly { name: string; scalar?: true; run: (f: F) => unknown }[] = [
  { name: "jvp", run: (f) => jvp(f, [x], [x]) },
  { name: "vjp", run: (f) => vjp(f, x) },
  { name: "linearize", run: (f) => linearize(f, x) },
  { name: "vmap", run: (f) => vmap(f)(x) },
  { name: "makeProgram", run: (f) => makeProgram(f)(x) },
  { name: "evalShape", run: (f) => evalShape(f, x) },
  { name: "linearTranspose", run: (f) => linearTranspose(f, x) },
  { name: "jacfwd", run: (f) => jacfwd(f)(x) },
  { name: "jacrev", run: (f) => jacrev(f)(x) },
  { name: "grad", scalar: true, run: (f) => grad(f)(x) },
  { name: "valueAndGrad", scalar: true, run: (f) => valueAndGrad(f)(x) },
  { name: "hvp", scalar: true, run: (f) => hvp(f)(x, x) },
  { name: "hessian", scalar: true, run: (f) => hessian(f)(x) },
  { name: "hessianOperator", scalar: true, run: (f) => hessianOperator(f, x) },
];

/** Runs a transform and returns the value that its function saw. */
function leaked({ scalar, run }: (typeof transforms)[number]): Value {
  let seen: Value | undefined;
  run((y) => {
    seen ??= mul(y, 2);
    return scalar ? sum(y) : mul(y, 2);
  });
  return seen!;
}

for (const transform of transforms) {
  test(`a value leaked from ${transform.name} is refused by every later use`, () => {
    const old = leaked(transform);
    expect(() => sin(old)).toThrow(TraceError);
    expect(() => old.dataSync()).toThrow(TraceError);
    expect(() => old.item()).toThrow();
    expect(() => old.toArray()).toThrow(TraceError);
    expect(old.data()).rejects.toThrow(TraceError);
    expect(() => encode({ old })).toThrow(TraceError);
    for (const later of transforms) {
      const use: F = (y) => {
        const z = add(y, old);
        return later.scalar ? sum(z) : z;
      };
      expect(() => later.run(use), `in ${later.name}`).toThrow(TraceError);
    }
    expect(() => makeProgram(() => sin(old))(), "alone in makeProgram").toThrow(TraceError);
    expect(() => makeProgram(() => old)(), "returned from makeProgram").toThrow(TraceError);
    expect(() => jvp(() => sin(old), [], []), "alone in jvp").toThrow(TraceError);
  });

  test(`a function that returns a Promise is refused by ${transform.name}`, () => {
    const asynchronous = (async (y: Value) => sum(y)) as unknown as F;
    expect(() => transform.run(asynchronous)).toThrow(TraceError);
  });

  test(`the elements cannot be read under ${transform.name}`, () => {
    const reading: F = (y) => {
      y.dataSync();
      return sum(y);
    };
    expect(() => transform.run(reading)).toThrow(TraceError);
  });

  test(`${transform.name} leaves no trace behind when its function throws`, () => {
    const failing: F = () => {
      throw new RangeError("mine");
    };
    expect(() => transform.run(failing)).toThrow("mine");
    assertClose(sin(float64([0])), float64([0]), "evaluation goes on");
  });
}

test("a leaked value that is returned as it is is refused by every transform", () => {
  for (const transform of transforms) {
    const old = leaked(transform);
    for (const later of transforms) {
      const whole: F = () => (later.scalar ? sum(old) : old);
      expect(() => later.run(whole), `${transform.name} in ${later.name}`).toThrow(TraceError);
    }
  }
  const old = leaked(transforms[0]!);
  let scalar: Value | undefined;
  jvp(
    (y: Value) => {
      scalar = sum(y);
      return scalar;
    },
    [x],
    [x],
  );
  const loss: F = () => scalar!;
  expect(() => grad(loss)(x), "as loss").toThrow(TraceError);
  const beside = (y: Value): readonly [Value, Value] => [sum(y), old];
  const inside = (y: Value): readonly [Value, { old: Value }] => [sum(y), { old }];
  expect(() => grad(beside, { hasAux: true })(x), "as aux").toThrow(TraceError);
  expect(() => valueAndGrad(inside, { hasAux: true })(x), "inside aux").toThrow(TraceError);
});

test("an inner value used in the outer function after the inner transform is refused", () => {
  const outer = (y: Value): Value => {
    let inner: Value | undefined;
    jvp(
      (z: Value) => {
        inner = sin(z);
        return z;
      },
      [y],
      [y],
    );
    return add(y, inner!);
  };
  expect(() => jvp(outer, [x], [x])).toThrow(TraceError);
  expect(() => makeProgram(outer)(x)).toThrow(TraceError);
  expect(() => vmap(outer)(x)).toThrow(TraceError);
  expect(() => vjp(outer, x)).toThrow(TraceError);
});

test("outer values inside inner transforms are fine, in every pair", () => {
  for (const outer of transforms) {
    for (const inner of transforms) {
      // vmap sees scalars: what it maps inside must have an axis. The inner function returns and uses the outer value.
      const f: F = (y) => {
        inner.run((z) => {
          const both = add(mul(sum(y), z), sum(mul(y, z)));
          // linearTranspose wants a function without constant term.
          const result = inner.name === "linearTranspose" ? mul(z, sum(y)) : both;
          return inner.scalar ? sum(result) : result;
        });
        return outer.scalar ? sum(y) : y;
      };
      if (outer.name === "vmap") continue;
      expect(() => outer.run(f), `${inner.name} in ${outer.name}`).not.toThrow();
    }
  }
});

test("a pullback belongs to the transform it was made in", () => {
  let pullback: ((ct: Value) => unknown) | undefined;
  jvp(
    (y: Value) => {
      const [z, pull] = vjp((p: Value) => mul(p, p), y);
      pullback = pull as (ct: Value) => unknown;
      return z;
    },
    [x],
    [x],
  );
  expect(() => pullback!(x)).toThrow(TraceError);
});

test("linearTranspose refuses what is not linear", () => {
  const one = float64([1, 1]);
  const attempts: readonly F[] = [
    (y) => sin(y),
    (y) => mul(y, y),
    (y) => add(y, 1),
    () => one,
    (y) => y.div(y),
    (y) => y.dot(y),
    (y) => where(y.greater(0), y, 0),
  ];
  for (const f of attempts) expect(() => linearTranspose(f, x), String(f)).toThrow(LinearityError);
  assertClose(linearTranspose((y: Value) => mul(add(y, y), 3), x)(one)[0], float64([6, 6]), "6 I");
});
