/**
 * A primitive of one's own. One record says what it computes and how it moves; every transform then knows it, and
 * `checkGrads` compares the rule with differences.
 */
import * as ct from "../mod.ts";

// y = sqrt(1 + x²), a smooth absolute value. From y² = 1 + x²: dy = (x / y) dx.
const smoothAbsP = ct.elementwise({
  name: "smoothAbs",
  doc: "The smooth absolute value sqrt(1 + x²)",
  accepts: ["float"],
  scalar: (x) => Math.hypot(1, x), // no overflow where x² has one
  terms: [(dx, [x], y) => ct.mul(dx, ct.div(x!, y))],
});
const smoothAbs = (x: ct.Value): ct.Value => ct.bind(smoothAbsP, [x], null)[0]!;

const x = ct.tensor([-3, -0.5, 0, 2], { dtype: "float64" });
const total = (v: ct.Value): ct.Value => smoothAbs(v).sum();
const show = (v: ct.Value): string => [...v.dataSync()].map((e) => e.toFixed(4).padStart(9)).join("");

console.log(`x         ${show(x)}`);
console.log(`value     ${show(smoothAbs(x))}`);
console.log(`slope     ${show(ct.grad(total)(x))}`);
console.log(`curvature ${show(ct.hvp(total)(x, ct.onesLike(x)))}`);
console.log(`by vmap   ${show(ct.vmap(ct.grad(smoothAbs))(x))}`);

ct.checkGrads(total, [x], { order: 2 });
console.log("\nthe rule agrees with differences, to second order");

// A wrong rule is found: this one forgets the division.
const wrongP = ct.elementwise({
  name: "smoothAbsWrong",
  doc: "The same function with a wrong rule",
  accepts: ["float"],
  scalar: (v) => Math.hypot(1, v),
  terms: [(dx, [v]) => ct.mul(dx, v!)],
});
try {
  ct.checkGrads((v: ct.Value) => ct.bind(wrongP, [v], null)[0]!.sum(), [x]);
  throw new Error("Cannot trust checkGrads: a wrong rule passed, an error is needed");
} catch (error) {
  if (!(error instanceof ct.CheckError)) throw error;
  console.log(`a wrong rule does not: ${error.actual.toFixed(4)} against ${error.expected.toFixed(4)}`);
}

console.log(`\nthe gradient as a program\n${ct.makeProgram(ct.grad(total))(x)}`);
