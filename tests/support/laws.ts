/** Laws of primitives: each is checked for every record of the registry, on calls drawn from its domain, on both backends. */
import "../../core/ops.ts";
import "../../core/random.ts";
import { expect, test } from "bun:test";
import { reference } from "../../core/backend.ts";
import { cpu } from "../../core/backends/cpu/backend.ts";
import { isFloat } from "../../core/dtype.ts";
import { type AnyPrimitive, primitives } from "../../core/primitive.ts";
import { bind, setBackend } from "../../core/trace.ts";
import type { Value } from "../../core/value.ts";
import { type Call, drawCall, SeededDraw, seeds } from "./arbitrary_tensor.ts";
import { propWith } from "./prop.ts";

/** A law and the primitives it does not speak about. */
export interface Law {
  readonly name: string;
  /** Largest drawn size of an axis; default 3. */
  readonly largest?: number;
  /** Why the law says nothing about a primitive, or `null` when it does. */
  exempt(primitive: AnyPrimitive): string | null;
  /** Checks one draw; returns how many comparisons it made, and throws where one fails. */
  check(primitive: AnyPrimitive, draw: SeededDraw): number;
}

/** Draws per law and primitive; `FC_RUNS` wins. */
const RUNS = 40;

/** A drawn call as a function of its float arguments alone, in float64. */
export interface Drawn extends Call {
  /** The float arguments. */
  readonly xs: readonly Value[];
  /** The outputs as a function of the float arguments. */
  readonly f: (...xs: readonly Value[]) => Value[];
}

export function drawFunction(primitive: AnyPrimitive, draw: SeededDraw): Drawn {
  const call = drawCall(primitive, draw, "float64");
  const places = call.args.flatMap((x, i) => (isFloat(x.dtype) ? [i] : []));
  return {
    ...call,
    xs: places.map((i) => call.args[i]!),
    f: (...xs) =>
      bind(
        primitive,
        call.args.map((x, i) => (places.includes(i) ? xs[places.indexOf(i)]! : x)),
        call.params,
      ),
  };
}

/** The non-empty subsets of 0 .. n - 1. */
export function subsets(n: number): number[][] {
  const all: number[][] = [];
  for (let mask = 1; mask < 2 ** n; mask++) {
    all.push(Array.from({ length: n }, (_, i) => i).filter((i) => (mask >> i) & 1));
  }
  return all;
}

/** One test per law and primitive, then one that everything was checked. */
export function testLaws(laws: readonly Law[]): void {
  const checked = new Map<string, number>();
  const failed = new Set<string>();
  const exempted: string[] = [];
  const records = primitives();
  for (const law of laws) {
    for (const primitive of records) {
      const reason = law.exempt(primitive);
      if (reason !== null) {
        exempted.push(`${primitive.name} from ${law.name} (${reason})`);
        continue;
      }
      const name = `${law.name} law of ${primitive.name}`;
      checked.set(name, 0);
      propWith({ runs: RUNS }, name, seeds(law.largest), (seed) => {
        for (const backend of [cpu, reference]) {
          const previous = setBackend(backend);
          try {
            checked.set(name, checked.get(name)! + law.check(primitive, new SeededDraw(seed)));
          } catch (error) {
            failed.add(name);
            throw new Error(`on the backend "${backend.name}"`, { cause: error });
          } finally {
            setBackend(previous);
          }
        }
      });
    }
  }
  test("every primitive was checked by every law", () => {
    const total = [...checked.values()].reduce((sum, n) => sum + n, 0);
    const byReason = Map.groupBy(exempted, (text) => text.replace(/^\S+ /, ""));
    for (const [reason, list] of byReason) {
      const names = list.map((text) => text.split(" ")[0]).join(" ");
      console.log(`laws: exempt ${reason}: ${list.length > 12 ? `${list.length} primitives` : names}`);
    }
    console.log(`laws: checked ${records.length} primitives x ${laws.length} laws = ${total} checks`);
    expect(records.length).toBeGreaterThan(0);
    expect(laws.length).toBeGreaterThan(0);
    const unchecked = [...checked].filter(([name, n]) => n === 0 && !failed.has(name));
    expect(unchecked.map(([name]) => name)).toEqual([]);
  });
}
