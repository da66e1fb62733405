/**
 * Donated inputs: a compiled program may compute in their storage, and computes the same. Whatever else has that
 * storage, as an input that was kept, a view or a result of an earlier run, keeps its elements.
 */
import { expect, test } from "bun:test";
import { cpu } from "../../core/backends/cpu/backend.ts";
import { engine } from "../../core/backends/cpu/engine.ts";
import { deadCodeEliminated, type Program, show } from "../../core/program.ts";
import { range, type Shape } from "../../core/shape.ts";
import { storage, Tensor } from "../../core/value.ts";
import { SeededDraw, seeds } from "../support/arbitrary_tensor.ts";
import { known, typedProgram } from "../support/arbitrary_typed_program.ts";
import { oneEquation } from "../support/one_equation.ts";
import { propWith } from "../support/prop.ts";
import { assertApproximates } from "../support/rounding.ts";
import { assertSameBits } from "../support/tolerance.ts";

/** More than is copied in and out of the kernels' memory: only the storage of large arrays is taken. */
const shapes: readonly Shape[] = [[5000], [70, 72], [3, 1700], [17, 300], [2, 33, 80], [20_003], [130, 131]];

/** The same elements in storage of their own, in the kernels' memory or elsewhere. */
function copied(x: Tensor, isInHeap: boolean): Tensor {
  const data = isInHeap ? engine().heap.makeArray(x.dtype, x.size) : null;
  if (data === null) return new Tensor(x.aval, storage(x).slice());
  data.set(storage(x));
  return new Tensor(x.aval, data);
}

let taken = 0;

/** How many results are computed in the storage of an input. */
function countTaken({ ins, outs }: Program, args: readonly Tensor[], results: readonly Tensor[]): number {
  const isTaken = (y: Tensor, i: number): boolean =>
    !ins.some((v) => v === outs[i]) && args.some((x) => storage(x) === storage(y));
  return results.filter(isTaken).length;
}

propWith({ runs: 60 }, "a program that may take its inputs gives the same values", seeds(), (seed) => {
  const draw = new SeededDraw({ ...seed, seed: ~seed.seed });
  const options = { shapes: [draw.pick(shapes)], length: 8, largest: 40_000 };
  const { expected, args, ...drawn } = typedProgram(seed, options);
  const program = deadCodeEliminated(drawn.program);
  const donated = args.map(() => draw.int(0, 3) > 0);
  const plain = cpu.compile(program);
  const executable = cpu.compile(program, { donated });
  const text = `of\n${show(program)}\ndonated ${donated}\n${executable.show()}\n`;

  // Storage of its own for each input, then one storage for several where they are alike.
  const apart = range(args.length);
  const together = args.map(({ aval }, i) => {
    const alike = apart.slice(0, i).filter((j) => args[j]!.aval.equals(aval));
    return alike.length > 0 && draw.bool() ? draw.pick(alike) : i;
  });
  const results = [apart, together, apart].map((places) => {
    const given: Tensor[] = [];
    for (const [i, place] of places.entries()) given.push(given[place] ?? copied(args[i]!, draw.bool()));
    const before = given.map((x) => copied(x, false));
    const wanted = plain.run(before);
    const outs = executable.run(given);
    outs.forEach((y, i) => {
      assertSameBits(y, wanted[i]!, `output ${i} ${text}`);
    });
    taken += countTaken(program, given, outs);
    given.forEach((x, i) => {
      const isGivenOnce = given.every((other, j) => j === i || other !== x);
      if (!donated[i] || !isGivenOnce) assertSameBits(x, before[i]!, `input ${i} ${text}`);
    });
    return outs;
  });
  // What the first run gave is still there after the others.
  expected.forEach((one, i) => {
    assertApproximates(results[0]![i]!, one, `output ${i} ${text}`);
  });
});

test("storage was taken", () => {
  console.log(`donation: ${taken} results in the storage of an input`);
  expect(taken).toBeGreaterThan(0);
});

test("storage that a view has too is not taken", () => {
  const x = copied(new SeededDraw({ seed: 1, size: 1 }).tensor({ shape: [80, 80] }, "float32"), true);
  const [view] = cpu.evaluate(known.get("reshape")!, [x], { shape: [6400] });
  const before = storage(x).slice();
  expect(storage(view!)).toBe(storage(x));
  cpu.compile(oneEquation(known.get("neg")!, [x.aval], null), { donated: [true] }).run([x]);
  expect(storage(view!)).toEqual(before);
});
