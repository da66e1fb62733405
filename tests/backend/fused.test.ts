/**
 * Random programs of every element type: compiled as a whole, and one equation at a time, against the reference.
 * `FC_RUNS=10000` is the long form that the checks of a release run.
 */
import { expect, test } from "bun:test";
import { reference } from "../../core/backend.ts";
import { cpu } from "../../core/backends/cpu/backend.ts";
import { deadCodeEliminated, type Program, show, type Var } from "../../core/program.ts";
import { Tensor } from "../../core/value.ts";
import { seeds } from "../support/arbitrary_tensor.ts";
import { typedProgram } from "../support/arbitrary_typed_program.ts";
import { propWith } from "../support/prop.ts";
import { assertClose, type Tolerance, table } from "../support/tolerance.ts";

/** Errors of one equation grow in the next ones. */
const loose: Tolerance = { relative: 2 ** -11, reason: "a chain of up to forty equations in float32" };

let compared = 0;

/** Every equation by itself, on the kernels. */
function unfused({ ins, eqns, outs }: Program, args: readonly Tensor[]): Tensor[] {
  const env = new Map<Var, Tensor>(ins.map((v, i) => [v, args[i]!]));
  const read = (atom: unknown): Tensor => (atom instanceof Tensor ? atom : env.get(atom as Var)!);
  for (const eqn of eqns) {
    cpu.evaluate(eqn.prim, eqn.ins.map(read), eqn.params).forEach((y, i) => {
      env.set(eqn.outs[i]!, y);
    });
  }
  return outs.map(read);
}

propWith(
  { runs: 400, timeoutMs: 600_000 },
  "a compiled program gives the values of the reference",
  seeds(3),
  (seed) => {
    const { program, args } = typedProgram(seed);
    const live = deadCodeEliminated(program);
    const expected = reference.compile(live).run(args);
    const executable = cpu.compile(live);
    // Twice: the second run finds what the first one left in the arena.
    for (const actual of [executable.run(args), executable.run(args), unfused(live, args)]) {
      actual.forEach((y, i) => {
        const what = `output ${i} of\n${show(live)}\n${executable.show()}\n`;
        assertClose(y, expected[i]!, what, y.dtype === "float32" ? loose : table[y.dtype]);
        compared++;
      });
    }
  },
);

test("programs were compared", () => {
  console.log(`fused: ${compared} results of compiled programs`);
  expect(compared).toBeGreaterThan(0);
});
