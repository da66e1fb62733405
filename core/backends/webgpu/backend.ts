/** The WebGPU backend of one open device: programs through the compiler, single primitives by programs of one equation. */
import type { Backend, CompileOptions } from "../../backend.ts";
import type { Program } from "../../program.ts";
import { elementsOf, markShared, Tensor } from "../../value.ts";
import { eagerly } from "../eager.ts";
import { type Context, DEVICE_NAME } from "./context.ts";
import { convolutionKernels } from "./convolution.ts";
import { dotKernel } from "./dot.ts";
import { compile } from "./executable.ts";
import { indexingKernels } from "./indexing.ts";
import type { NamedKernel } from "./kernel.ts";
import { poolingKernels } from "./pooling.ts";
import { positionKernels } from "./positions.ts";
import { randomKernels } from "./random.ts";
import { scanKernels } from "./scan.ts";
import { sortingKernels } from "./sorting.ts";
import { tuner } from "./tuning.ts";

/** The kernels written by hand, by the names that records use. */
export const namedKernels: ReadonlyMap<string, NamedKernel> = new Map([
  ["dot", dotKernel],
  ...convolutionKernels,
  ...indexingKernels,
  ...poolingKernels,
  ...positionKernels,
  ...randomKernels,
  ...scanKernels,
  ...sortingKernels,
]);

/** A backend is an object of its own for every device that was opened: programs belong to one. */
export function webgpuBackend(context: Context): Backend {
  const compiled = (program: Program, options?: CompileOptions) =>
    compile(program, context, namedKernels, options);
  return {
    name: DEVICE_NAME,
    evaluate: eagerly(compiled),
    compile: compiled,
    transfers: {
      put(x) {
        const array = context.put(x);
        if (elementsOf(x) === array) return x;
        // The tensor of the host keeps its copy on the device: neither may be overwritten.
        markShared(array);
        return new Tensor(x.aval, array);
      },
      async toHost(xs) {
        const data = await context.read(xs.map((x) => context.arrayOf(x)));
        return xs.map((x, i) => new Tensor(x.aval, data[i]!));
      },
      toHostSync(xs) {
        const data = context.readSync(xs.map((x) => context.arrayOf(x)));
        return xs.map((x, i) => new Tensor(x.aval, data[i]!));
      },
    },
    profile: () => context.profile(),
    tuning: tuner(context),
    info: () => ({ backend: DEVICE_NAME, adapter: context.device.name, host: context.device.host }),
  };
}
