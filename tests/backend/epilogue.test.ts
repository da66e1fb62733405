/**
 * Loops that became part of the product or convolution before them: the bits of the same equations one at a time, for any
 * number of threads, whatever else needs the result and wherever buffers are; and which loops may become one.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { cpu } from "../../core/backends/cpu/backend.ts";
import { engine, setThreads } from "../../core/backends/cpu/engine.ts";
import { full } from "../../core/create.ts";
import type { DType } from "../../core/dtype.ts";
import * as ops from "../../core/ops.ts";
import { withEpilogues } from "../../core/passes/epilogue.ts";
import { type CallStep, fused, type Schedule, type Slot } from "../../core/passes/fuse.ts";
import { lifetimes, mayOverwrite, slotsOf } from "../../core/passes/plan.ts";
import { type Atom, deadCodeEliminated, type Program, show, stage, type Var } from "../../core/program.ts";
import type { Shape } from "../../core/shape.ts";
import { storage, Tensor, type Value } from "../../core/value.ts";
import { SeededDraw, seeds } from "../support/arbitrary_tensor.ts";
import { typedProgram } from "../support/arbitrary_typed_program.ts";
import { propWith } from "../support/prop.ts";
import { assertSameBits } from "../support/tolerance.ts";

type Values = (...xs: Value[]) => Value[];

const { pool, threads: usual } = engine();
const run = pool.run.bind(pool);
/** How often a product and its epilogue were divided while a worker was ready. */
let divided = 0;

beforeAll(async () => {
  pool.run = (kernel, work, threads) => {
    if (work.follower !== null && pool.ready > 0) divided++;
    run(kernel, work, threads);
  };
  // Workers start when work is divided, and are ready some time after.
  const x = full([2 ** 20], 1) as Tensor;
  const exponential = cpu.compile(programOf((v) => [ops.exp(v!)], [x]));
  setThreads(2);
  while (pool.obstacle === null && pool.ready === 0) {
    exponential.run([x]);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
});

afterAll(() => {
  pool.run = run;
  setThreads(usual);
});

function programOf(f: Values, args: readonly Tensor[]): Program {
  const avals = args.map((x) => x.aval);
  return deadCodeEliminated(stage(f, avals));
}

const draw = new SeededDraw({ seed: 7, size: 9 });

function drawn(shape: Shape, dtype: DType = "float32"): Tensor {
  return draw.tensor({ shape, range: [-3, 3] }, dtype);
}

/** Every equation by itself. */
function unfused({ ins, eqns, outs }: Program, args: readonly Tensor[]): Tensor[] {
  const env = new Map<Var, Tensor>(ins.map((v, i) => [v, args[i]!]));
  const read = (atom: Atom | null): Tensor => (atom instanceof Tensor ? atom : env.get(atom as Var)!);
  for (const { prim, ins, outs, params } of eqns) {
    cpu.evaluate(prim, ins.map(read), params).forEach((y, i) => {
      env.set(outs[i]!, y);
    });
  }
  return outs.map(read);
}

/** How many loops of the compiled program are epilogues. */
const epiloguesOf = (text: string): number => text.split(", then loop").length - 1;

/** Checks a program on one and two threads, twice each, and how many epilogues it has where that is given. */
function check(what: string, f: Values, args: readonly Tensor[], epilogues?: number): void {
  const program = programOf(f, args);
  setThreads(1);
  const expected = unfused(program, args);
  for (const threads of [1, 2]) {
    setThreads(threads);
    const executable = cpu.compile(program);
    const text = executable.show();
    if (epilogues !== undefined) expect([what, text, epiloguesOf(text)]).toEqual([what, text, epilogues]);
    for (let i = 0; i < 2; i++) {
      executable.run(args).forEach((y, o) => {
        assertSameBits(y, expected[o]!, `${what}, ${threads} threads, output ${o} of\n${text}\n`);
      });
    }
  }
}

const layer: Values = (x, w, b) => [ops.relu(ops.add(ops.matmul(x!, w!), b!))];

// -------------------------------------------------------------------------------------------------------- the values

test("a bias and an activation after a product of any size", () => {
  for (const dtype of ["float32", "float64", "int32"] as const) {
    for (const m of [0, 1, 2, 7, 13, 31]) {
      for (const [k, n] of [
        [5, 0],
        [0, 3],
        [1, 1],
        [3, 2],
        [17, 29],
        [40, 67],
      ] as const) {
        const args = [drawn([m, k], dtype), drawn([k, n], dtype), drawn([n], dtype)];
        const isBand = m > 1 && n > 1;
        check(`${dtype} ${m} ${k} ${n}`, layer, args, isBand ? 1 : undefined);
      }
    }
  }
});

test("a bias along rows or columns, of one element, and for each matrix of a batch", () => {
  const [x, w] = [drawn([11, 6]), drawn([6, 9])];
  for (const shape of [[9], [11, 1], [1, 1], [11, 9]]) check(`bias ${shape}`, layer, [x, w, drawn(shape)], 1);
  const [p, q] = [drawn([4, 11, 6]), drawn([4, 6, 9])];
  for (const shape of [[9], [11, 1], [4, 11, 1], [4, 1, 9]])
    check(`batch and bias ${shape}`, layer, [p, q, drawn(shape)], 1);
  // A loop over whole matrices has no part for the first rows of one.
  check("a bias of each matrix", layer, [p, q, drawn([4, 1, 1])], 0);
});

test("large enough for several threads, in rows that they share", () => {
  divided = 0;
  for (const dtype of ["float32", "float64", "int32"] as const) {
    for (const [m, k, n] of [
      [1031, 64, 61],
      [211, 103, 127],
    ] as const) {
      check(
        `${dtype} ${m} ${k} ${n}`,
        layer,
        [drawn([m, k], dtype), drawn([k, n], dtype), drawn([n], dtype)],
        1,
      );
      const gate: Values = (x, w, b) => [ops.mul(ops.tanh(ops.matmul(x!, w!)), b!)];
      // In float64 tanh is a function of the host, which other threads do not have.
      const epilogues = dtype === "float32" ? 1 : 0;
      const args = [drawn([m, k], dtype), drawn([k, n], dtype), drawn([m, n], dtype)];
      if (dtype !== "int32") check(`gate of ${dtype} ${m}`, gate, args, epilogues);
      const crossed: Values = (x, w, y) => [ops.add(ops.matmul(x!, w!), y!.transpose())];
      check(`a transposed operand, ${dtype} ${m}`, crossed, [args[0]!, args[1]!, drawn([n, m], dtype)], 1);
    }
  }
  if (pool.obstacle === null) expect(divided).toBeGreaterThan(0);
});

test("columns in several blocks are left to a loop", () => {
  const args = [drawn([20, 200], "int32"), drawn([200, 1500], "int32"), drawn([1500], "int32")];
  check("1500 columns", layer, args, 0);
});

test("after a convolution and its transpose", () => {
  const [x, w, b] = [drawn([3, 4, 9, 7]), drawn([6, 4, 3, 3]), drawn([6, 1, 1])];
  const conv: Values = (x, w, b) => [ops.relu(ops.add(ops.conv(x!, w!), b!))];
  check("conv", conv, [x, w, b], 1);
  check("no image", conv, [drawn([0, 4, 9, 7]), w, b]);
  const grouped: Values = (x, w, b) => [ops.relu(ops.add(ops.conv(x!, w!, { groups: 2 }), b!))];
  check("groups", grouped, [x, drawn([6, 2, 3, 3]), b], 1);
  const pointwise: Values = (x, w, y) => [ops.mul(ops.conv(x!, w!), ops.neg(y!))];
  check("pointwise", pointwise, [x, drawn([5, 4, 1, 1]), drawn([3, 5, 9, 7])], 1);
  const large = [drawn([16, 8, 30, 30]), drawn([16, 8, 3, 3]), drawn([16, 1, 1])];
  check("many images", conv, large, 1);
  // Images in several bands: all channels of some rows are no rows of the result.
  check("large images", conv, [drawn([2, 8, 100, 100]), drawn([16, 8, 3, 3]), drawn([16, 1, 1])], 0);
});

// --------------------------------------------------------------------------------------------- who else needs a result

test("a result that is used again is kept", () => {
  const args = [drawn([13, 5]), drawn([5, 8]), drawn([8])];
  const product = (x?: Value, w?: Value): Value => ops.matmul(x!, w!);
  check(
    "by a reduction",
    (x, w, b) => {
      const p = product(x, w);
      return [ops.relu(p.add(b!)), ops.max(p, { axis: 0 })];
    },
    args,
  );
  check(
    "by another product",
    (x, w, b) => {
      const p = product(x, w);
      return [ops.matmul(ops.relu(p.add(b!)), p.transpose())];
    },
    args,
  );
  check(
    "as an output",
    (x, w, b) => {
      const p = product(x, w);
      return [ops.relu(p.add(b!)), p];
    },
    args,
    1,
  );
  check(
    "as an output of another shape",
    (x, w, b) => {
      const p = product(x, w);
      return [p.reshape([8, 13]), ops.relu(p.add(b!))];
    },
    args,
  );
  check(
    "in another order",
    (x, w) => {
      const p = product(x, w);
      return [
        p
          .slice([0, 0], [8, 8])
          .transpose()
          .add(p.slice([0, 0], [8, 8])),
      ];
    },
    args,
  );
});

test("products after each other and side by side", () => {
  const [x, w, v, b] = [drawn([19, 12]), drawn([12, 14]), drawn([14, 12]), drawn([14])];
  check("two layers", (x, w, v, b) => [ops.matmul(layer(x!, w!, b!)[0]!, v!).mul(2)], [x, w, v, b], 2);
  check(
    "a residual",
    (x, w, v, b) => [x!.add(ops.tanh(ops.matmul(layer(x!, w!, b!)[0]!, v!)))],
    [x, w, v, b],
    2,
  );
  const [p, q] = [drawn([19, 12]), drawn([12, 14])];
  check("of both", (x, w, p, q) => [ops.matmul(x!, w!).sub(ops.matmul(p!, q!))], [x, w, p, q], 1);
});

test("a residual that nobody needs later, and results that overwrite each other in the arena", () => {
  // As many elements as are copied in and out, and more.
  for (const n of [6, 90]) {
    const [x, w, b] = [drawn([n, n]), drawn([n, n]), drawn([n])];
    check(
      `${n}`,
      (x, w, b) => {
        const h = ops.sin(x!);
        const y = h.add(layer(ops.cos(x!), w!, b!)[0]!);
        const z = y.mul(ops.relu(ops.matmul(y, w!)));
        return [ops.max(z, { axis: 1 }), ops.matmul(z, z).mul(z)];
      },
      [x, w, b],
    );
  }
});

test("a donated input takes a result where the product does not read it", () => {
  const n = 80;
  const [x, w, m] = [drawn([n, n]), drawn([n, n]), drawn([n, n])];
  const f: Values = (x, w, m) => {
    const g = ops.matmul(x!, ops.matmul(x!, w!));
    const moment = m!.mul(0.5).add(g);
    return [w!.sub(moment.mul(0.1)), moment];
  };
  const own: Values = (x, w) => [w!.add(ops.matmul(x!, w!))];
  for (const [g, args] of [
    [f, [x, w, m]],
    [own, [x, w]],
    [own, [w, w]],
  ] as const) {
    const program = programOf(g, args);
    const expected = unfused(program, args);
    const executable = cpu.compile(program, { donated: args.map((_, i) => i > 0) });
    expect(epiloguesOf(executable.show())).toBe(1);
    for (let i = 0; i < 3; i++) {
      // In the memory of the kernels, where storage can be taken.
      const copies = args.map((y) => {
        const data = engine().heap.makeArray(y.dtype, y.size)!;
        data.set(storage(y));
        return new Tensor(y.aval, data);
      });
      executable.run(copies).forEach((y, o) => {
        assertSameBits(y, expected[o]!, `output ${o} of\n${executable.show()}\n`);
      });
    }
  }
});

propWith({ runs: 60 }, "layers drawn at random have the bits of single equations", seeds(), (seed) => {
  const d = new SeededDraw(seed);
  const dtype = d.pick(["float32", "float64"] as const);
  const [m, k, n] = [d.int(1, 40), d.int(1, 40), d.int(1, 90)];
  const make = (shape: Shape): Tensor => d.tensor({ shape, range: [-2, 2] }, dtype);
  const others = Array.from({ length: d.int(1, 3) }, () => make(d.pick([[n], [m, 1], [m, n], []])));
  const steps = others.map(() => d.pick([ops.add, ops.mul, ops.maximum, ops.sub] as const));
  const last = d.pick([ops.relu, ops.sign, ops.abs, ops.neg] as const);
  const [returnsProduct, returnsMiddle] = [d.bool(), d.bool()];
  const f: Values = (x, w, ...rest) => {
    const product = ops.matmul(x!, w!);
    const middle = rest.reduce((y, other, i) => steps[i]!(y, other), product);
    const outs = [last(middle)];
    if (returnsProduct) outs.push(product);
    if (returnsMiddle) outs.push(middle);
    return outs;
  };
  check("drawn", f, [make([m, k]), make([k, n]), ...others], m > 1 && n > 1 ? 1 : undefined);
});

// ------------------------------------------------------------------------------------------------------------ the pass

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

test("a call with an epilogue overwrites what only the epilogue reads", () => {
  const n = 4;
  const args = [drawn([n, n]), drawn([n, n]), drawn([n, n]), drawn([n])];
  const f: Values = (x, w, y, b) => [ops.matmul(x!, w!).add(y!).add(b!).add(w!)];
  const { steps, ins, outs } = withEpilogues(scheduleOf(programOf(f, args)), () => true);
  expect(steps).toHaveLength(1);
  const step = steps[0] as CallStep;
  const [x, w, y, b] = ins as [Slot, Slot, Slot, Slot];
  const out = outs[0]!.slot;
  expect([x, w, y, b].map((slot) => mayOverwrite(step, slot, out))).toEqual([false, false, true, false]);
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

// ------------------------------------------------------------------------------------------------------------ the text

test("the text of a program shows its epilogues", () => {
  const [x, w, b, v] = [drawn([3, 4]), drawn([4, 5]), drawn([5]), drawn([5, 2])];
  const f: Values = (x, w, b, v) => {
    const product = ops.matmul(x!, w!);
    return [ops.matmul(ops.relu(product.add(b!)), v!).mul(2), product];
  };
  const [, ...steps] = cpu
    .compile(programOf(f, [x, w, b, v]))
    .show()
    .split("\n");
  expect(steps).toEqual([
    "  %0: f32[3,5], %2: f32[3,5] = named dot %3 %4, then loop [3,5] add lessEqual where of it %1",
    "  %5: f32[3,2] = named dot %2 %6, then loop [3,2] mul of it",
    "  return %5, %0",
  ]);
});
