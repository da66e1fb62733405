/**
 * Matrix products by onnxruntime-node: `COMPARE_ONNX=package` through its own interface, which is asynchronous, otherwise
 * through the C interface of its library. `bun onnxruntime_child.ts costs` prints what else it costs.
 */
import { ptr } from "bun:ffi";
import { uniform } from "./inputs.ts";
import { libraryProduct, packageProduct } from "./onnxruntime.ts";
import { printCosts } from "./onnxruntime_costs.ts";
import { type Prepared, serve } from "./protocol.ts";
import { productElements } from "./reference.ts";

const THREADS = Number(process.env["COMPARE_THREADS"] ?? "1");

async function matmul(n: number): Promise<Prepared> {
  const [a, b, c] = [uniform(1, n * n, -1, 1), uniform(2, n * n, -1, 1), new Float32Array(n * n)];
  const elements = (c: Float32Array): number[] => productElements(n, (row, column) => c[row * n + column]!);
  if (process.env["COMPARE_ONNX"] === "package") {
    const product = await packageProduct(THREADS);
    const run = (): Promise<Float32Array> => product(a, b, n);
    return { mode: "asynchronous", run, show: async () => elements(await run()) };
  }
  const product = libraryProduct(THREADS);
  const sizes = { m: n, n, k: n };
  const run = (): void => product(ptr(a), ptr(b), ptr(c), sizes);
  const show = (): number[] => {
    run();
    return elements(c);
  };
  return { mode: "native", run, show };
}

const [task, way] = process.argv.slice(2);
if (task === "costs") await printCosts(way);
else
  await serve({
    "matmul-128": () => matmul(128),
    "matmul-512": () => matmul(512),
    "matmul-1024": () => matmul(1024),
    "matmul-2048": () => matmul(2048),
  });
