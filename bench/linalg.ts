/**
 * Factorizations of one matrix by the library's LAPACK and by the functions of core/, in turns: the shortest time of each
 * and how many times as fast the first is. The matrix is random, symmetric and definite, in float32 as optimizers have it.
 *
 *     bun bench/linalg.ts                               128 to 1024
 *     bun bench/linalg.ts 785                           these orders
 */
import { findLapack } from "../core/backends/cpu/lapack.ts";
import { type NativeFactors, setNativeFactors } from "../core/factor.ts";
import * as ct from "../mod.ts";

const asked = process.argv.slice(2).map(Number);
const orders = asked.length > 0 ? asked : [128, 256, 512, 785, 1024];
const lapack = findLapack();
console.log(ct.backendInfo()["products"]);
if (lapack === null)
  throw new Error("Cannot compare: there is no LAPACK here, a library that has one is needed");

type Work = (a: ct.Value, x: ct.Value) => ct.Value;
const works: Readonly<Record<string, Work>> = {
  eigh: (a) => ct.eigh(a)[1],
  cholesky: (a) => ct.cholesky(a),
  "solve, n columns": (a, x) => ct.solve(a, x),
  "triangularSolve, n columns": (a, x) => ct.triangularSolve(a, x),
  qr: (_, x) => ct.qr(x)[0],
};

function time(work: Work, native: NativeFactors | null, a: ct.Value, x: ct.Value): number {
  setNativeFactors(() => native);
  const start = performance.now();
  work(a, x).dataSync();
  return performance.now() - start;
}

for (const n of orders) {
  const x = ct.random.normal(ct.random.key(n), [n, n]);
  const a = ct.matmul(x, x.transpose()).add(ct.eye(n).mul(n));
  for (const [name, work] of Object.entries(works)) {
    const [ours, theirs]: [number[], number[]] = [[], []];
    const began = performance.now();
    for (let round = 0; round < 1 || (round < 50 && performance.now() - began < 1500); round++) {
      ours.push(time(work, null, a, x));
      theirs.push(time(work, lapack, a, x));
    }
    const [own, native] = [Math.min(...ours), Math.min(...theirs)];
    const columns = [native.toFixed(2), own.toFixed(2), (own / native).toFixed(1)];
    console.log(
      `${String(n).padStart(5)}  ${name.padEnd(27)}${columns.map((text) => text.padStart(10)).join("")}`,
    );
  }
}
