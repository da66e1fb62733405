/**
 * Random programs of every primitive and element type against the reference: compiled as a whole, simplified, and one
 * equation at a time. 300 programs, 10,000 in the long form of the checks; `FC_SEED=random FC_RUNS=50000` looks for more.
 */
import { expect, test } from "bun:test";
import { cpu } from "../../core/backends/cpu/backend.ts";
import { engine } from "../../core/backends/cpu/engine.ts";
import { simplified } from "../../core/passes/simplify.ts";
import { type Atom, deadCodeEliminated, type Program, show, type Var } from "../../core/program.ts";
import { storage, Tensor } from "../../core/value.ts";
import { seeds } from "../support/arbitrary_tensor.ts";
import { known, typedProgram } from "../support/arbitrary_typed_program.ts";
import { type Case, minimalCase } from "../support/minimal_program.ts";
import { propWith } from "../support/prop.ts";
import { assertApproximates } from "../support/rounding.ts";

let compared = 0;
const drawn = new Set<string>();

function assertAll(outs: readonly Tensor[], { expected }: Case, way: string): void {
  expected.forEach((known, i) => {
    assertApproximates(outs[i]!, known, `${way}, output ${i}`);
    compared++;
  });
}

/** The same elements in the memory of the kernels, where results of earlier programs are. */
function inHeap(x: Tensor): Tensor {
  const data = engine().heap.makeArray(x.dtype, x.size);
  if (data === null) return x;
  data.set(storage(x));
  return new Tensor(x.aval, data);
}

function compiled(one: Case): void {
  const executable = cpu.compile(one.program);
  const before = one.args.map((x) => storage(x).slice());
  // Later runs find what the first one left in the arena, and must leave its results alone.
  const results = [one.args, one.args.map(inHeap), one.args].map((args) => executable.run(args));
  for (const outs of results) assertAll(outs, one, "compiled");
  one.args.forEach((x, i) => {
    const isSame = storage(x).every((element, at) => Object.is(element, before[i]![at]));
    if (!isSame) throw new Error(`compiled: input ${i} was written to`);
  });
}

function simplifiedFirst(one: Case): void {
  assertAll(cpu.compile(simplified(one.program)).run(one.args), one, "simplified and compiled");
}

/** Every equation by itself, on the kernels. */
function unfused(one: Case): void {
  const { ins, eqns, outs } = one.program;
  const env = new Map<Var, Tensor>(ins.map((v, i) => [v, one.args[i]!]));
  const read = (atom: Atom | null): Tensor => (atom instanceof Tensor ? atom : env.get(atom as Var)!);
  for (const eqn of eqns) {
    cpu.evaluate(eqn.prim, eqn.ins.map(read), eqn.params).forEach((y, i) => {
      env.set(eqn.outs[i]!, y);
    });
  }
  assertAll(outs.map(read), one, "one equation at a time");
}

/** What a way throws; null if it throws nothing. */
function failure(way: (one: Case) => void, one: Case): Error | null {
  try {
    way(one);
    return null;
  } catch (error) {
    return error as Error;
  }
}

/** Programs with few elements or many, so that some results are copied out of the kernels' memory and some stay. */
function largestOf(seed: number): number {
  return seed % 8 === 0 ? 12_000 : 3000;
}

propWith(
  { runs: 300, timeoutMs: 600_000 },
  "a compiled program gives the values of the reference",
  seeds(3),
  (seed) => {
    const drawnCase = typedProgram(seed, { largest: largestOf(seed.seed) });
    const one = { ...drawnCase, program: deadCodeEliminated(drawnCase.program) };
    for (const { prim } of one.program.eqns) drawn.add(prim.name);
    for (const way of [compiled, simplifiedFirst, unfused]) {
      if (failure(way, one) === null) continue;
      const least = minimalCase(one, (smaller) => failure(way, smaller) !== null);
      throw new Error(`${failure(way, least)?.message}\n${textOf(least)}`);
    }
  },
);

function textOf({ program, args }: Case): string {
  const inputs = args.map((x) =>
    x.size <= 64 ? `${x}` : `${x.aval} of which ${storage(x).slice(0, 16)}, ...`,
  );
  return [`inputs ${inputs.join("; ")}`, show(program as Program), cpu.compile(program).show()].join("\n");
}

test("programs were compared", () => {
  console.log(`fused: ${compared} results of compiled programs`);
  expect(compared).toBeGreaterThan(0);
});

test("every primitive was drawn", () => {
  expect([...known.keys()].filter((name) => !drawn.has(name))).toEqual([]);
});
