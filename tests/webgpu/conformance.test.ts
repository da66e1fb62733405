/** The WebGPU backend against the reference: every primitive, on calls drawn from its domain at several sizes. */
import { describe, expect, test } from "bun:test";
import { reference } from "../../core/backend.ts";
import { primitives } from "../../core/primitive.ts";
import { storage } from "../../core/value.ts";
import { drawCall, SeededDraw, seeds } from "../support/arbitrary_tensor.ts";
import { oneEquation } from "../support/one_equation.ts";
import { propWith } from "../support/prop.ts";
import { assertClose } from "../support/tolerance.ts";
import { gpuBackend, hasGpu } from "./support.ts";

/** Primitives without a shader: their functions run on the host. */
const onHost = new Set<string>();
let compared = 0;

describe.skipIf(!hasGpu)("conformance", () => {
  for (const primitive of primitives()) {
    for (const largest of [3, 21]) {
      propWith({ runs: 6 }, `${primitive.name} on the GPU up to size ${largest}`, seeds(largest), (seed) => {
        const { args, params } = drawCall(primitive, new SeededDraw(seed), "float32");
        const expected = reference.evaluate(primitive, args, params);
        const avals = [...args, ...expected].map((x) => x.aval);
        if (avals.some(({ dtype }) => dtype === "float64")) return;
        const gpu = gpuBackend();
        const executable = gpu.compile(
          oneEquation(
            primitive,
            args.map((x) => x.aval),
            params,
          ),
        );
        if (executable.show().includes("\nhost ")) onHost.add(primitive.name);
        const inputs = args.map((x) => gpu.transfers!.put(x));
        for (const actual of [gpu.evaluate(primitive, inputs, params), executable.run(args)]) {
          expected.forEach((y, i) => {
            assertClose(actual[i]!, y, `${primitive.name} ${avals}`);
            compared++;
          });
        }
        args.forEach((x, i) => {
          expect([...storage(inputs[i]!)]).toEqual([...storage(x)]);
        });
      });
    }
  }

  test("every primitive was compared, and only those without a kernel ran on the host", () => {
    console.log(
      `conformance: ${compared} results of the GPU; on the host: ${[...onHost].join(" ") || "none"}`,
    );
    expect(compared).toBeGreaterThan(primitives().length);
    const withoutKernel = primitives().filter(({ kernel }) => kernel === undefined);
    expect([...onHost].sort()).toEqual(withoutKernel.map(({ name }) => name).sort());
  });
});
