/** Compiled functions and who owns a tensor: what is given up, what is several values, what an error leaves behind. */
import { describe, expect, test } from "bun:test";
import { jit } from "../../autodiff/jit.ts";
import { hessianOperator } from "../../autodiff/operator.ts";
import { reference } from "../../core/backend.ts";
import { tensor, zeros } from "../../core/create.ts";
import { TraceError } from "../../core/errors.ts";
import * as ops from "../../core/ops.ts";
import { definePrimitive, type Primitive } from "../../core/primitive.ts";
import { adopt, bind, currentBackend } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import { trainingSetup } from "../../dist/jobs.ts";
import { makePlan } from "../../dist/plan.ts";
import { runLocal } from "../../dist/runtime/local.ts";
import { assertClose } from "../support/tolerance.ts";

const identity = (x: Value): Value => ops.neg(ops.neg(x));

// Few elements, which are copied in and out of the kernels' memory, and many, which stay there.
for (const n of [0, 3, 8192]) {
  /** Elements 0, 1, ..., 6, 0, ...; the result of a program, so that its storage can be taken. */
  const fresh = (factor = 1): Value =>
    jit((x: Value) => ops.mul(ops.add(x, 1), factor))(
      adopt(
        Float32Array.from({ length: n }, (_, i) => (i % 7) - 1),
        [n],
        "float32",
      ),
    );
  const overwrite = jit((x: Value) => ops.add(ops.mul(x, 100), 5), { donate: 0 });
  const [once, thrice] = [fresh(), fresh(3)];

  describe(`${n} elements:`, () => {
    test("a donated argument that is a result after simplification stays whole", () => {
      const f = jit((x: Value) => [identity(x), ops.add(x, 1), ops.mul(x, 2)], { donate: 0 });
      for (let call = 0; call < 2; call++) {
        const [x, more, double] = f(fresh()) as [Value, Value, Value];
        assertClose(x, once, "the argument");
        assertClose(more, ops.add(once, 1), "one more");
        assertClose(double, ops.mul(once, 2), "twice");
      }
    });

    test("a donated argument that is a result under another layout of the same elements stays whole", () => {
      const f = jit((x: Value) => [ops.flip(x, { axis: 0 }), ops.reshape(x, [n, 1]), ops.add(x, 1)], {
        donate: 0,
      });
      const [flipped, column, more] = f(fresh()) as [Value, Value, Value];
      assertClose(flipped, ops.flip(once, { axis: 0 }), "flipped");
      assertClose(column, ops.reshape(once, [n, 1]), "column");
      assertClose(more, ops.add(once, 1), "one more");
    });

    test("a constant that was returned and given up is there in the next call", () => {
      const init = jit((x: Value) => ({
        x: ops.add(x, 1),
        sum: adopt(new Float32Array(n), [n], "float32"),
      }));
      const step = jit(
        (state: { x: Value; sum: Value }) => ({ x: ops.mul(state.x, 2), sum: ops.add(state.sum, state.x) }),
        { donate: 0 },
      );
      for (let run = 0; run < 3; run++) {
        const state = step(step(init(once)));
        // 1 + 2 times what the first step begins with.
        assertClose(state.sum, ops.mul(ops.add(once, 1), 3), `run ${run}`);
      }
    });

    test("results that are one value: giving up one leaves the others", () => {
      const f = jit((x: Value) => [ops.add(x, 1), ops.add(1, x), ops.reshape(ops.add(x, 1), [n, 1])]);
      const [a, b, column] = f(once) as [Value, Value, Value];
      assertClose(overwrite(a), ops.add(ops.mul(ops.add(once, 1), 100), 5), "product");
      assertClose(b, ops.add(once, 1), "the same value");
      assertClose(column, ops.reshape(ops.add(once, 1), [n, 1]), "the same elements");
    });

    test("a result that simplification finds to be an argument: giving it up leaves the argument", () => {
      const x = fresh();
      overwrite(jit(identity)(x));
      assertClose(x, once, "the argument");
    });

    test("a constant of a program keeps its elements when it is given up elsewhere", () => {
      const constant = fresh(3);
      const f = jit((x: Value) => ops.sub(x, constant));
      const expected = ops.sub(once, thrice);
      assertClose(f(once), expected, "before");
      overwrite(constant);
      expect(() => constant.dataSync()).toThrow(TraceError);
      // The reference reads its constants in every call: there, an error says that this one is gone.
      if (currentBackend() === reference) expect(() => f(once)).toThrow("argument 0 of jit");
      else assertClose(f(once), expected, "after");
    });

    test("a Hessian keeps its point when the parameters are given up, and its products when these are", () => {
      const loss = (x: Value): Value => ops.sum(ops.mul(ops.mul(x, x), x));
      const [x, v] = [fresh(), fresh(3)];
      const operator = hessianOperator(jit(loss), x);
      const expected = ops.mul(ops.mul(once, 6), v);
      overwrite(x);
      const product = operator.apply(v);
      assertClose(product, expected, "product");
      overwrite(product);
      assertClose(operator.apply(v), expected, "product again");
    });
  });
}

test("after an error in the middle, what was donated is given up: it may be overwritten in part", () => {
  let isBroken = true;
  const error = new RangeError("mine");
  const fragile: Primitive<null> = definePrimitive<null>({
    name: "test_jit_regress_fragile",
    doc: "the operand, or an error",
    arity: 1,
    traits: {},
    shape: ([x]) => [x!],
    cpu: ([x]) => {
      if (isBroken) throw error;
      return [x!.data.slice()];
    },
    jvp: ([x], [dx]) => [bind(fragile, [x!], null), [dx!]],
    batch: ([x], [dim]) => [bind(fragile, [x!], null), [dim!]],
    domain: (draw) => ({ args: [{ shape: draw.shape(0, 2) }], params: null }),
  });
  const f = jit(
    (x: Value) => {
      const more = ops.add(x, 1);
      return [more, bind(fragile, [ops.slice(more, [0], [2])], null)[0]!];
    },
    { donate: 0 },
  );
  const fresh = (): Value => jit((x: Value) => ops.mul(x, 1.5))(tensor(new Array(8192).fill(2)));
  const x = fresh();
  expect(() => f(x)).toThrow(error);
  expect(() => x.dataSync()).toThrow("argument 0 of jit");
  isBroken = false;
  const [more, part] = f(fresh()) as [Value, Value];
  assertClose(more, tensor(new Array(8192).fill(4)), "one more");
  assertClose(part, tensor([4, 4]), "part");
});

test("a penalty that changes with the curvature is no reason to compile a step again", async () => {
  const traces = async (rounds: number): Promise<number> => {
    const plan = makePlan({
      version: 1,
      workers: 2,
      parameters: 4,
      rounds,
      localSteps: 2,
      seed: 0,
      update: { name: "momentum", learningRate: 0.02 },
      curvature: { k: 2, l: 0, period: 2 },
      sync: { k: "consensus", sigma: 0.5, relative: true },
    });
    const before = jit.stats().traces;
    await runLocal(
      trainingSetup(plan, {
        initial: zeros([4]),
        score: (theta, center: number) => {
          const x = ops.sub(theta, tensor([center, 1, 2, 3]));
          return { loss: ops.sum(ops.mul(ops.mul(x, x), ops.add(ops.mul(x, x), 1))), sums: [] };
        },
        batch: (rank) => rank,
        curvatureBatch: (rank) => rank,
      }),
    );
    return jit.stats().traces - before;
  };
  // What no plan owns is compiled once for all of them.
  await traces(2);
  expect(await traces(16)).toBe(await traces(8));
});
