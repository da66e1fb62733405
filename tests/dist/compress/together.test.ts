import { describe, expect, test } from "bun:test";
import { tensor } from "../../../core/create.ts";
import { add, mul, sub } from "../../../core/ops.ts";
import type { Value } from "../../../core/value.ts";
import type { CommunicatingMethod, StepAt } from "../../../dist/compress/method.ts";
import { together } from "../../../dist/compress/together.ts";
import { meanOf } from "../../../optim/admm.ts";

interface State {
  readonly x: Value;
  readonly own: Value;
  /** What `own` was when it left. */
  readonly sent: Value;
}

const vector = (...data: number[]): Value => tensor(data, { dtype: "float64" });

/** Gradient descent on the mean gradient in two exchanges; sums of own gradients go in the background, what comes is recorded. */
function recorded(events: string[], period = 3, delay = 2): CommunicatingMethod<State> {
  const label = ({ step, rank }: StepAt): string => `${step}${rank === null ? "" : `/${rank}`}`;
  return {
    name: "recorded",
    init: (theta) => ({ x: theta, own: mul(theta, 0), sent: mul(theta, 0) }),
    position: ({ x }) => x,
    exchanges: () => 2,
    begin(state, gradient, arrived, at) {
      const seen = arrived === null ? "" : ` with ${(arrived as Value).toArray()}`;
      events.push(`begin ${label(at)}${seen}`);
      return [{ ...state, own: add(state.own, gradient) }, gradient];
    },
    reduce(payloads, index, at) {
      events.push(`reduce ${label(at)} ${index}: ${payloads.map((x) => (x as Value).toArray()).join(" ")}`);
      return meanOf(payloads);
    },
    next: (state, reduced, index, { step }) =>
      index === 0
        ? [{ ...state, x: sub(state.x, reduced as Value) }, reduced]
        : [step % period === 0 ? { ...state, sent: state.own } : state, null],
    background: {
      beginsAfter: (step) => step % period === 0,
      endsAt: (step) => step > delay && (step - delay) % period === 0,
      payload: ({ sent }) => sent,
      reduce: (payloads) => meanOf(payloads),
    },
    view: ({ x }) => x,
    stepBytes: () => ({ sent: 16, received: 16 }),
    backgroundBytes: () => ({ sent: 8, received: 8 }),
  };
}

describe("together", () => {
  test("a step is the gradients at the positions, begin, and each exchange in the order of ranks", () => {
    const events: string[] = [];
    const run = together(recorded(events), vector(1), 2);
    const asked: string[] = [];
    run.step((rank, x) => {
      asked.push(`${rank} at ${x.toArray()}`);
      return vector(rank + 1);
    });
    expect(asked).toEqual(["0 at 1", "1 at 1"]);
    expect(events).toEqual(["begin 1/0", "begin 1/1", "reduce 1 0: 1 2", "reduce 1 1: 1.5 1.5"]);
    expect(run.view().toArray()).toEqual([-0.5]);
    expect(run.steps).toBe(1);
  });

  test("a background result is of the values at its beginning, and taken at its end alone", () => {
    const events: string[] = [];
    const run = together(recorded(events), vector(0), 2);
    const open: boolean[] = [];
    for (let step = 1; step <= 8; step++) {
      run.step((rank) => vector(rank));
      open.push(run.isOpen);
    }
    // After three steps rank 0 has 0 and rank 1 has 3, after six steps 6: means 1.5 and 3.
    expect(events.filter((event) => event.includes("with"))).toEqual([
      "begin 5/0 with 1.5",
      "begin 5/1 with 1.5",
      "begin 8/0 with 3",
      "begin 8/1 with 3",
    ]);
    expect(open).toEqual([false, false, true, true, false, true, true, false]);
  });

  test("a run goes on from any point as if it had not stopped", () => {
    const gradient = (rank: number, x: Value): Value => add(mul(x, 0.1), rank);
    for (let stop = 1; stop <= 7; stop++) {
      const [whole, parts]: [string[], string[]] = [[], []];
      const one = together(recorded(whole), vector(1), 2);
      for (let step = 0; step < 9; step++) one.step(gradient);
      const first = together(recorded(parts), vector(1), 2);
      for (let step = 0; step < stop; step++) first.step(gradient);
      const { states, steps } = first;
      const second = together(recorded(parts), vector(1), { states, steps });
      expect(second.isOpen).toBe(first.isOpen);
      while (second.steps < 9) second.step(gradient);
      expect(parts).toEqual(whole);
    }
  });

  test("bytes by formula and counted bytes are those of one worker", () => {
    const run = together(recorded([]), vector(0), 3);
    for (let step = 0; step < 5; step++) run.step((rank) => vector(rank));
    const expected = { foreground: { sent: 80, received: 80 }, background: { sent: 8, received: 8 } };
    expect(run.bytes).toEqual(expected);
    expect(run.counted).toEqual(expected);
  });

  test("what is lost does not arrive, and every worker takes it back", () => {
    const events: string[] = [];
    const run = together(recorded(events), vector(0), 2);
    for (let step = 0; step < 3; step++) run.step((rank) => vector(rank));
    run.lose((state) => ({ ...state, own: vector(-1) }));
    expect(run.states.map(({ own }) => own.toArray())).toEqual([[-1], [-1]]);
    for (let step = 0; step < 2; step++) run.step((rank) => vector(rank));
    expect(events.filter((event) => event.includes("with"))).toEqual([]);
  });

  test("a second background exchange is refused while one is under way", () => {
    const run = together(recorded([], 2, 3), vector(0), 2);
    for (let step = 0; step < 3; step++) run.step((rank) => vector(rank));
    expect(() => run.step((rank) => vector(rank))).toThrow(
      "Cannot begin a background exchange of recorded after step 4: the one of step 2 is under way",
    );
  });

  test("no workers and a missing flush are errors", () => {
    expect(() => together(recorded([]), vector(0), 0)).toThrow("there are 0, at least 1 is needed");
    expect(() => together(recorded([]), vector(0), 1).flush()).toThrow(
      "Cannot flush recorded: it has no flush",
    );
  });
});
