/**
 * What onnxruntime-node costs before and around its products, in a fresh process for each way:
 *
 *     bun onnxruntime_child.ts costs
 *
 * Prints the time until the first product of 8 x 8 has been computed, the memory that then stays resident beyond Bun's own,
 * the shortest call, and in how many of 200 random products some bits differ with two threads instead of one.
 */
import { ptr } from "bun:ffi";
import { uniform } from "./inputs.ts";
import { libraryProduct, packageProduct } from "./onnxruntime.ts";

const N = 8;
const CALLS = 20_000;
const PRODUCTS = 200;

/** Milliseconds of the shortest of many calls. */
async function shortest(call: () => unknown): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < CALLS; i++) {
    const start = performance.now();
    const result = call();
    if (result instanceof Promise) await result;
    best = Math.min(best, performance.now() - start);
  }
  return best;
}

/** Random products whose bits depend on the number of threads. */
function different(): number {
  const [one, two] = [libraryProduct(1), libraryProduct(2)];
  const side = (i: number, seed: number, most: number): number =>
    1 + Math.floor(most * uniform(seed, i + 1)[i]!);
  let count = 0;
  for (let i = 0; i < PRODUCTS; i++) {
    const sizes = { m: side(i, 11, 300), n: side(i, 12, 300), k: side(i, 13, 600) };
    const a = uniform(1, sizes.m * sizes.k, -1, 1);
    const b = uniform(2, sizes.k * sizes.n, -1, 1);
    const [c, d] = [new Float32Array(sizes.m * sizes.n), new Float32Array(sizes.m * sizes.n)];
    one(ptr(a), ptr(b), ptr(c), sizes);
    two(ptr(a), ptr(b), ptr(d), sizes);
    if (c.some((x, j) => x !== d[j])) count++;
  }
  return count;
}

async function measure(way: string): Promise<void> {
  const [a, b, c] = [uniform(1, N * N), uniform(2, N * N), new Float32Array(N * N)];
  const before = process.memoryUsage.rss();
  const start = performance.now();
  let call: () => unknown;
  if (way === "package") {
    const product = await packageProduct(1);
    call = () => product(a, b, N);
  } else {
    const product = libraryProduct(1);
    call = () => product(ptr(a), ptr(b), ptr(c), { m: N, n: N, k: N });
  }
  await call();
  const first = performance.now() - start;
  const megabytes = (process.memoryUsage.rss() - before) / 1e6;
  const cells = [
    way,
    `${first.toFixed(0)} ms`,
    `${megabytes.toFixed(0)} MB`,
    `${(1000 * (await shortest(call))).toFixed(1)} us`,
    way === "library" ? `${different()} of ${PRODUCTS}` : "",
  ];
  console.log(`| ${cells.join(" | ")} |`);
}

/** All ways, or one in this process. */
export async function printCosts(way: string | undefined): Promise<void> {
  if (way !== undefined) return await measure(way);
  console.log(
    "| way | until the first product | resident | a call | other bits with two threads |\n|-|-|-|-|-|",
  );
  for (const one of ["package", "library"]) {
    const child = Bun.spawn([process.execPath, Bun.main, "costs", one], {
      stdout: "inherit",
      stderr: "inherit",
    });
    await child.exited;
  }
}
