/** The compiled CPU backend: programs through the compiler, single primitives through a cache of one-equation programs. */
import {
  type Activity,
  type Backend,
  type CompileOptions,
  type Executable,
  type KernelProfile,
  reference,
} from "../../backend.ts";
import { setNativeFactors } from "../../factor.ts";
import type { AnyPrimitive } from "../../primitive.ts";
import type { Program } from "../../program.ts";
import { currentBackend } from "../../trace.ts";
import { eagerly } from "../eager.ts";
import { findBlas } from "./blas.ts";
import { convInputKernel, convKernel, convKernelKernel } from "./convolution.ts";
import { dotKernel } from "./dot.ts";
import { engine } from "./engine.ts";
import { Compiler, compile } from "./executable.ts";
import { indexingKernels } from "./indexing.ts";
import { findLapack } from "./lapack.ts";
import type { NamedKernel } from "./named.ts";
import { poolingKernels } from "./pooling.ts";
import { scanKernels } from "./scan.ts";
import { sortingKernels } from "./sorting.ts";
import { threefryKernels } from "./threefry.ts";

/** The kernels written by hand, by the names that records use. */
const namedKernels: ReadonlyMap<string, NamedKernel> = new Map([
  ["dot", dotKernel],
  ["conv", convKernel],
  ["convInput", convInputKernel],
  ["convKernel", convKernelKernel],
  ...indexingKernels,
  ...poolingKernels,
  ...scanKernels,
  ...threefryKernels,
  ...sortingKernels,
]);

let compiler: Compiler | null = null;

function theCompiler(): Compiler {
  compiler ??= new Compiler(engine(), namedKernels);
  return compiler;
}

function hasKernel({ kernel }: AnyPrimitive): boolean {
  return kernel !== undefined && (kernel.k !== "named" || namedKernels.has(kernel.name));
}

const evaluate = eagerly((program) => compile(program, theCompiler()));

/** Times the steps of compiled programs; the result ends it. */
function profile(): () => Promise<Activity> {
  const kernels = new Map<string, KernelProfile>();
  let busyMilliseconds = 0;
  theCompiler().watch = ({ label, result, bytes }, milliseconds) => {
    busyMilliseconds += milliseconds;
    const key = `${label} ${result} ${bytes}`;
    const known = kernels.get(key);
    kernels.set(key, {
      device: "cpu",
      label,
      result,
      calls: 1 + (known?.calls ?? 0),
      milliseconds: milliseconds + (known?.milliseconds ?? 0),
      bytes: bytes + (known?.bytes ?? 0),
      operations: 0,
    });
  };
  return async () => {
    theCompiler().watch = null;
    const none = { submits: 0, reads: 0, sentBytes: 0, readBytes: 0, notes: [] };
    return { kernels: [...kernels.values()], busyMilliseconds, ...none };
  };
}

export const cpu: Backend = {
  name: "cpu",
  // Not kept as a program where there is no kernel: the parameters may be large, and there is nothing to compile.
  evaluate: (primitive, args, params) =>
    (hasKernel(primitive) ? evaluate : reference.evaluate)(primitive, args, params),
  compile: (program: Program, options?: CompileOptions): Executable =>
    compile(program, theCompiler(), options),
  profile,
  info() {
    const blas = findBlas();
    const products = typeof blas === "string" ? `own kernels (no BLAS: ${blas})` : blas.name;
    const factorizations = findLapack() === null ? "own functions" : "LAPACK of the same library";
    return { backend: "cpu", ...engine().info(), products, factorizations };
  },
};

// The reference backend is what others are compared with: it computes without libraries.
setNativeFactors(() => (currentBackend() === reference ? null : findLapack()));
