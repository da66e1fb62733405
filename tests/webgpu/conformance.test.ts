/** The WebGPU backend against the reference: every primitive, on calls drawn from its domain at several sizes. */
import { describe, expect, test } from "bun:test";
import { webgpuContext } from "../../core/backends/webgpu/open.ts";
import { primitives } from "../../core/primitive.ts";
import { seeds } from "../support/arbitrary_tensor.ts";
import { propWith } from "../support/prop.ts";
import { compareAll, recorded } from "./conformance_core.ts";
import { gpuBackend, hasGpu } from "./support.ts";

/** Primitives without a shader: their functions run on the host. */
const onHost = new Set<string>();
let compared = 0;

describe.skipIf(!hasGpu)("conformance", () => {
  const hasHalves = webgpuContext()?.gpu.features.f16 === true;
  const floats = hasHalves ? (["float32", "float16"] as const) : (["float32"] as const);
  for (const [primitive, float] of primitives().flatMap((one) =>
    floats.map((float) => [one, float] as const),
  )) {
    for (const largest of [3, 21]) {
      const name = `${primitive.name} of ${float} on the GPU up to size ${largest}`;
      propWith({ runs: float === "float32" ? 6 : 3 }, name, seeds(largest), async (seed) => {
        const { canReadSync } = webgpuContext()!.device;
        const one = recorded(gpuBackend(), primitive, seed, canReadSync, float);
        if (one === null) return;
        if (one.isOnHost) onHost.add(primitive.name);
        compared += await compareAll([one]);
      });
    }
  }

  test("every primitive was compared, and only those without a kernel ran on the host", () => {
    const { host } = webgpuContext()!.device;
    console.log(
      `conformance: ${compared} results through ${host}; on the host: ${[...onHost].join(" ") || "none"}`,
    );
    expect(compared).toBeGreaterThan(primitives().length);
    const withoutKernel = primitives().filter(({ kernel }) => kernel === undefined);
    expect([...onHost].sort()).toEqual(withoutKernel.map(({ name }) => name).sort());
  });
});
