/** Which loops become part of the product or convolution before them; backends of devices test what they compute. */
import { expect, test } from "bun:test";
import * as ops from "../../core/ops.ts";
import { withEpilogues } from "../../core/passes/epilogue.ts";
import { type CallStep, fused, type Schedule, type Slot } from "../../core/passes/fuse.ts";
import { lifetimes, slotsOf } from "../../core/passes/plan.ts";
import { deadCodeEliminated, type Program, show, stage } from "../../core/program.ts";
import type { Shape } from "../../core/shape.ts";
import type { Tensor, Value } from "../../core/value.ts";
import { SeededDraw, seeds } from "../support/arbitrary_tensor.ts";
import { typedProgram } from "../support/arbitrary_typed_program.ts";
import { propWith } from "../support/prop.ts";

type Values = (...xs: Value[]) => Value[];

function programOf(f: Values, args: readonly Tensor[]): Program {
  return deadCodeEliminated(
    stage(
      f,
      args.map((x) => x.aval),
    ),
  );
}

const draw = new SeededDraw({ seed: 7, size: 9 });

function drawn(shape: Shape): Tensor {
  return draw.tensor({ shape, range: [-3, 3] }, "float32");
}

const layer: Values = (x, w, b) => [ops.relu(ops.add(ops.matmul(x!, w!), b!))];

/** Operands of kernels written by hand are row-major here; every call has one. */
const scheduleOf = (program: Program): Schedule => fused(program, (_, args) => args.map(() => true));

const callsOf = ({ steps }: Schedule): CallStep[] => steps.filter((step) => step.k !== "loop");

function attached(f: Values, ...args: readonly Tensor[]): readonly CallStep["epilogue"][] {
  return callsOf(withEpilogues(scheduleOf(programOf(f, args)), () => true)).map(({ epilogue }) => epilogue);
}

test("a result is kept where somebody else needs it", () => {
  const args = [drawn([3, 4]), drawn([4, 5]), drawn([5])];
  expect(attached(layer, ...args)[0]?.keepsResult).toBe(false);
  const returned: Values = (x, w, b) => {
    const p = ops.matmul(x!, w!);
    return [ops.relu(p.add(b!)), p];
  };
  expect(attached(returned, ...args)[0]?.keepsResult).toBe(true);
  const read: Values = (x, w, b) => {
    const p = ops.matmul(x!, w!);
    return [ops.matmul(ops.relu(p.add(b!)).transpose(), p)];
  };
  expect(attached(read, ...args)[0]?.keepsResult).toBe(true);
});

test("a loop over another split of the elements gets the shape of the result", () => {
  const [x, w, y] = [drawn([6, 4]), drawn([4, 10]), drawn([3, 2, 2, 5])];
  const [epilogue] = attached((x, w, y) => [ops.matmul(x!, w!).reshape([3, 2, 2, 5]).add(y!)], x, w, y);
  expect(epilogue?.loop.shape).toEqual([6, 10]);
  for (const { layout } of [...epilogue!.loop.loads, ...epilogue!.loop.stores])
    expect(layout).toEqual({ shape: [6, 10], offset: 0, strides: [10, 1] });
  // One value for every two of the six rows has no stride.
  const rows = drawn([3, 1, 1]);
  expect(attached((x, w, y) => [ops.matmul(x!, w!).reshape([3, 2, 10]).add(y!)], x, w, rows)).toEqual([null]);
});

for (const [what, f] of [
  ["has a reduction", (x, w) => [ops.max(ops.matmul(x!, w!).mul(2))]],
  ["reads the result in another order", (x, w) => [ops.matmul(x!, w!).transpose().mul(2)]],
  ["reads a part of the result", (x, w) => [ops.matmul(x!, w!).slice([0, 0], [2, 3]).mul(2)]],
  [
    "reads the result twice, once in another order",
    (x, w) => {
      const p = ops.matmul(x!, w!);
      return [p.add(p.transpose())];
    },
  ],
  ["repeats the result", (x, w) => [ops.matmul(x!, w!).reshape([1, 4, 4]).broadcastTo([3, 4, 4]).mul(2)]],
  ["writes a part of a buffer", (x, w) => [ops.concat([ops.matmul(x!, w!), x!])]],
  [
    "writes over a fill",
    (x, w) => [
      ops.pad(ops.matmul(x!, w!), [
        [0, 0],
        [0, 0],
      ]),
    ],
  ],
  [
    "writes over a part of a fill",
    (x, w) => [
      ops.pad(ops.matmul(x!, w!), [
        [1, 0],
        [0, 0],
      ]),
    ],
  ],
] as const satisfies readonly (readonly [string, Values])[]) {
  test(`a loop that ${what} is no epilogue`, () => {
    expect(attached(f, drawn([4, 4]), drawn([4, 4]))).toEqual([null]);
  });
}

test("a loop that reads what is computed later is an epilogue of the last call it needs", () => {
  const both: Values = (x, w) => [ops.matmul(x!, w!).add(ops.matmul(w!, x!))];
  const [first, second] = attached(both, drawn([4, 4]), drawn([4, 4]));
  expect([first, second?.loop.names, second?.keepsResult]).toEqual([null, ["add"], false]);
});

test("an epilogue may read what another one has stored", () => {
  const f: Values = (x, w) => {
    const [p, q] = [ops.matmul(x!, w!), ops.matmul(w!, x!)];
    return [ops.relu(p).transpose().add(q)];
  };
  const names = attached(f, drawn([4, 4]), drawn([4, 4])).map((epilogue) => epilogue?.loop.names.at(-1));
  expect(names).toEqual(["where", "add"]);
});

test("the backend is asked about each loop, and may refuse", () => {
  const program = programOf(layer, [drawn([3, 4]), drawn([4, 5]), drawn([5])]);
  const asked: string[] = [];
  const schedule = withEpilogues(scheduleOf(program), (call, loop) => {
    asked.push(`${call.prim.name} ${loop.names.join(" ")} [${loop.shape}]`);
    return false;
  });
  expect(asked).toEqual(["dot add lessEqual where [3,5]"]);
  expect(callsOf(schedule).map(({ epilogue }) => epilogue)).toEqual([null]);
  expect(schedule.steps).toHaveLength(2);
});

test("a call with an epilogue reads and writes what both do, but for the result", () => {
  const n = 4;
  const args = [drawn([n, n]), drawn([n, n]), drawn([n, n]), drawn([n])];
  const f: Values = (x, w, y, b) => [ops.matmul(x!, w!).add(y!).add(b!).add(w!)];
  const { steps, ins, outs } = withEpilogues(scheduleOf(programOf(f, args)), () => true);
  expect(steps).toHaveLength(1);
  const step = steps[0] as CallStep;
  const [x, w, y, b] = ins as [Slot, Slot, Slot, Slot];
  const out = outs[0]!.slot;
  expect(slotsOf(step).writes).toEqual([out]);
  expect(new Set(slotsOf(step).reads)).toEqual(new Set([x, w, y, b]));
  // Nobody needs the result of the product itself.
  expect(lifetimes({ steps, ins, outs }).has(step.outs[0]!)).toBe(false);
});

propWith(
  { runs: 100 },
  "whatever becomes an epilogue, every buffer is written before it is read",
  seeds(3),
  (seed) => {
    const drawnProgram = typedProgram(seed, { length: 12 });
    const program = deadCodeEliminated(drawnProgram.program);
    const d = new SeededDraw(seed);
    const before = scheduleOf(program);
    const { ins, steps, outs } = withEpilogues(before, () => d.int(0, 3) > 0);
    const known = new Set(ins);
    const isKnown = (slot: Slot): boolean =>
      slot.origin === "constant" || slot.aval.size === 0 || known.has(slot);
    for (const step of steps) {
      const { reads, writes } = slotsOf(step);
      if (!reads.every(isKnown)) throw new Error(`a step reads what is not written in\n${show(program)}`);
      for (const slot of writes) known.add(slot);
    }
    expect(outs.every(({ slot }) => isKnown(slot))).toBe(true);
    // No loop is lost, and none is computed twice.
    const loops = ({ steps }: Schedule): string[] =>
      steps
        .flatMap((step) => (step.k === "loop" ? [step] : step.epilogue ? [step.epilogue.loop] : []))
        .map(({ names }) => names.join(" "))
        .sort();
    expect(loops({ ins, steps, outs })).toEqual(loops(before));
  },
);
