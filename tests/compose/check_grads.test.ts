/** The checker finds wrong derivatives. A part behind stopGradient is a derivative that is wrong on purpose. */
import { expect, test } from "bun:test";
import { checkGrads } from "../../autodiff/check.ts";
import { CheckError } from "../../core/errors.ts";
import { cast, div, log, mul, sin, stopGradient, sub, sum } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { randomFunction } from "../support/arbitrary_program.ts";
import { seeds } from "../support/arbitrary_tensor.ts";
import { prop } from "../support/prop.ts";
import { float64 } from "../support/quartic.ts";

const x = float64([0.5, -1, 2]);

prop("right derivatives pass, in float64 to order 2", seeds(2), (seed) => {
  const { f, xs } = randomFunction(seed, 5);
  checkGrads((p: readonly Value[]) => f(...p), [xs as readonly Value[]]);
});

test("right derivatives pass in float32, with its own tolerance", () => {
  checkGrads((y: Value) => sum(mul(sin(y), y)), [cast(x, "float32")]);
});

test("a wrong first derivative is found in either mode, with the two numbers", () => {
  const wrong = (y: Value): Value => mul(sin(y), stopGradient(y));
  for (const modes of [["forward"], ["reverse"]] as const) {
    try {
      checkGrads(wrong, [x], { order: 1, modes });
      expect.unreachable();
    } catch (error) {
      expect(error).toBeInstanceOf(CheckError);
      const { actual, expected } = error as CheckError;
      expect(Math.abs(actual - expected)).toBeGreaterThan(1e-3);
    }
  }
});

test("a wrong second derivative is found at order 2 and not before", () => {
  // x² as 2 s x - s² with s the stopped x: value and slope are right, the slope has no slope in s.
  const wrong = (y: Value): Value => {
    const s = stopGradient(y);
    return sub(mul(mul(s, y), 2), mul(s, s));
  };
  expect(() => checkGrads(wrong, [x], { order: 1 })).not.toThrow();
  expect(() => checkGrads(wrong, [x], { order: 2 })).toThrow(CheckError);
});

test("derivatives that are not numbers are found", () => {
  expect(() => checkGrads((y: Value) => log(y), [float64([0])], { order: 1 })).toThrow(CheckError);
  expect(() => checkGrads((y: Value) => div(y, y), [float64([0])], { order: 1 })).toThrow(CheckError);
});
