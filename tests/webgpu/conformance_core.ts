/**
 * One call of a primitive on a GPU beside the reference, for any host: commands are recorded first and everything is
 * read together afterwards, since some hosts cannot wait in place and one takes 11 ms for any read.
 */
import { type Backend, reference } from "../../core/backend.ts";
import { devicePut } from "../../core/devices.ts";
import { DeviceError } from "../../core/errors.ts";
import type { AnyPrimitive } from "../../core/primitive.ts";
import type { Tensor, Value } from "../../core/value.ts";
import { drawCall, type Seed, SeededDraw } from "../support/arbitrary_tensor.ts";
import { oneEquation } from "../support/one_equation.ts";
import { assertClose, assertSameBits } from "../support/tolerance.ts";

/** What a call gave, mostly still on the GPU. */
export interface Comparison {
  readonly what: string;
  /** Whether its function ran on the host, or was refused where the host cannot wait for the operands. */
  readonly isOnHost: boolean;
  readonly expected: readonly Tensor[];
  /** Results: of the single primitive, and of the program with this one equation; none where it was refused. */
  readonly results: readonly (readonly Value[])[];
  readonly args: readonly Tensor[];
  /** The operands as they were sent: nothing may have been written there. */
  readonly sent: readonly Tensor[];
}

/** Draws a call and records it; null where it has element types that no GPU holds. */
export function recorded(
  gpu: Backend,
  primitive: AnyPrimitive,
  seed: Seed,
  canReadSync: boolean,
  float: "float32" | "float16" = "float32",
): Comparison | null {
  const { args, params } = drawCall(primitive, new SeededDraw(seed), float);
  const expected = reference.evaluate(primitive, args, params);
  const avals = args.map((x) => x.aval);
  if ([...args, ...expected].some(({ dtype }) => dtype === "float64")) return null;
  const executable = gpu.compile(oneEquation(primitive, avals, params));
  const isOnHost = executable.show().includes("\nhost ");
  const sent = args.map((x) => gpu.transfers!.put(x));
  const what = `${primitive.name} of ${avals} (${JSON.stringify(seed)})`;
  const runs = [() => gpu.evaluate(primitive, sent, params), () => executable.run(args)];
  if (isOnHost && !canReadSync) {
    for (const run of runs) assertRefused(run, what);
    return { what, isOnHost, expected, results: [], args, sent };
  }
  return { what, isOnHost, expected, results: runs.map((run) => run()), args, sent };
}

/** Without a shader, and without waiting in place, an error has to say what to do. */
function assertRefused(run: () => unknown, what: string): void {
  try {
    run();
  } catch (error) {
    if (error instanceof DeviceError && error.message.includes("devicePut")) return;
    throw error;
  }
  throw new Error(`${what}: it has no shader and this host cannot wait, a DeviceError is needed`);
}

/** Reads all results in one transfer and throws at the first that differs; says how many there were. */
export async function compareAll(comparisons: readonly Comparison[]): Promise<number> {
  const read = await devicePut(
    comparisons.map(({ results, sent }) => ({ results, sent })),
    "cpu",
  );
  let count = 0;
  comparisons.forEach(({ what, expected, args }, i) => {
    const { results, sent } = read[i]!;
    for (const result of results) {
      expected.forEach((y, j) => {
        assertClose(result[j]!, y, what);
        count++;
      });
    }
    args.forEach((x, j) => {
      assertSameBits(sent[j]!, x, `operand ${j} of ${what}`);
    });
  });
  return count;
}
