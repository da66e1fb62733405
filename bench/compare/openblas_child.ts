/**
 * OpenBLAS itself, called through FFI: what a matrix product costs without any library around it. `OPENBLAS_CORETYPE` and
 * `OPENBLAS_NUM_THREADS` must be in the environment of the process, because it reads them when it is loaded.
 */
import { dlopen, ptr } from "bun:ffi";
import { uniform } from "./inputs.ts";
import { type Prepared, serve } from "./protocol.ts";
import { productElements } from "./reference.ts";

const CANDIDATES: readonly string[] = [
  process.env["COMPARE_OPENBLAS"] ?? "",
  "/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0",
  "/usr/lib/aarch64-linux-gnu/openblas-pthread/libopenblas.so.0",
  "libopenblas.so.0",
  "libopenblas.so",
].filter((path) => path !== "");

const SYMBOLS = {
  cblas_sgemm: {
    args: ["i32", "i32", "i32", "i32", "i32", "i32", "f32", "ptr", "i32", "ptr", "i32", "f32", "ptr", "i32"],
    returns: "void",
  },
} as const;

function open(): ReturnType<typeof dlopen<typeof SYMBOLS>>["symbols"]["cblas_sgemm"] {
  const failures: string[] = [];
  for (const path of CANDIDATES) {
    try {
      return dlopen(path, SYMBOLS).symbols.cblas_sgemm;
    } catch (error) {
      failures.push(error instanceof Error ? error.message : String(error));
    }
  }
  throw new Error(`Cannot open OpenBLAS: ${failures.at(-1)}, a path in COMPARE_OPENBLAS is needed`);
}

const [ROW_MAJOR, PLAIN] = [101, 111];

function matmul(n: number): Prepared {
  const sgemm = open();
  const [a, b, c] = [uniform(1, n * n, -1, 1), uniform(2, n * n, -1, 1), new Float32Array(n * n)];
  const run = (): void => {
    sgemm(ROW_MAJOR, PLAIN, PLAIN, n, n, n, 1, ptr(a), n, ptr(b), n, 0, ptr(c), n);
  };
  const show = (): number[] => {
    run();
    return productElements(n, (row, column) => c[row * n + column]!);
  };
  return { mode: "native", run, show };
}

await serve({
  "matmul-128": () => matmul(128),
  "matmul-512": () => matmul(512),
  "matmul-1024": () => matmul(1024),
  "matmul-2048": () => matmul(2048),
});
