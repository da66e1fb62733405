/** Loops that read and write more buffers than a dispatch can have: their results are computed in several. */
import { invariant } from "../../errors.ts";
import type { Expr } from "../../expr.ts";
import type { LoopStep, Slot, Store } from "../../passes/fuse.ts";

/** The step, or several with some of its stores each, so that none has more than `most` buffers. */
export function withFewBuffers(step: LoopStep, most: number): readonly LoopStep[] {
  // Results of pieces need a buffer of their own.
  const room = most - (step.reductions.length > 0 ? 1 : 0);
  const buffers = ({ loads, stores }: LoopStep): number =>
    new Set<Slot>([...loads, ...stores].map(({ slot }) => slot)).size;
  if (buffers(step) <= room) return [step];
  const parts: LoopStep[] = [];
  let stores: Store[] = [];
  for (const store of step.stores) {
    const more = part(step, [...stores, store]);
    if (stores.length > 0 && buffers(more) > room) {
      parts.push(part(step, stores));
      stores = [];
    }
    stores.push(store);
  }
  parts.push(part(step, stores));
  invariant(
    parts.every((one) => buffers(one) <= most),
    "a single result is computed from few buffers",
  );
  return parts;
}

/** The step with some of its stores, and what they need. */
function part(step: LoopStep, stores: readonly Store[]): LoopStep {
  const used = new Set<Expr>();
  const waiting = stores.map(({ expr }) => expr);
  for (let e = waiting.pop(); e !== undefined; e = waiting.pop()) {
    if (used.has(e)) continue;
    used.add(e);
    waiting.push(...e.args);
    for (const { result, arg } of step.reductions) if (result === e) waiting.push(arg);
  }
  return {
    ...step,
    stores,
    loads: step.loads.filter(({ expr }) => used.has(expr)),
    reductions: step.reductions.filter(({ result }) => used.has(result)),
    values: step.values.filter(({ expr }) => used.has(expr)),
  };
}
