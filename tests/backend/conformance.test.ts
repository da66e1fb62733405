/** The compiled backend against the reference: every primitive, on calls drawn from its domain at several sizes. */
import { expect, test } from "bun:test";
import "../../core/ops.ts";
import "../../core/random.ts";
import { reference } from "../../core/backend.ts";
import { cpu } from "../../core/backends/cpu/backend.ts";
import type { DType } from "../../core/dtype.ts";
import { primitives } from "../../core/primitive.ts";
import { storage } from "../../core/value.ts";
import { drawCall, SeededDraw, seeds } from "../support/arbitrary_tensor.ts";
import { oneEquation } from "../support/one_equation.ts";
import { propWith } from "../support/prop.ts";
import { assertClose } from "../support/tolerance.ts";

let compared = 0;

for (const primitive of primitives()) {
  for (const float of ["float32", "float64", "float16"] satisfies DType[]) {
    for (const largest of [3, 21]) {
      propWith(
        { runs: float === "float16" ? 6 : 15 },
        `${primitive.name} of ${float} up to size ${largest}`,
        seeds(largest),
        (seed) => {
          const { args, params } = drawCall(primitive, new SeededDraw(seed), float);
          const expected = reference.evaluate(primitive, args, params);
          const before = args.map((x) => [...storage(x)]);
          const avals = args.map((x) => x.aval);
          const program = oneEquation(primitive, avals, params);
          for (const actual of [cpu.evaluate(primitive, args, params), cpu.compile(program).run(args)]) {
            expected.forEach((y, i) => {
              assertClose(actual[i]!, y, `${primitive.name} ${avals}`);
              compared++;
            });
          }
          args.forEach((x, i) => {
            expect([...storage(x)]).toEqual(before[i]!);
          });
        },
      );
    }
  }
}

test("every primitive was compared", () => {
  console.log(`conformance: ${primitives().length} primitives, ${compared} results of the compiled backend`);
  expect(compared).toBeGreaterThan(primitives().length);
});
