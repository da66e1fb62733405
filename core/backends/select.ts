/**
 * Which backend is current from the start: the compiled one, unless the environment variable COTANGENT_BACKEND says
 * `reference`. Importing this file makes the choice.
 */
import type { Backend } from "../backend.ts";
import { reference } from "../backend.ts";
import { environment } from "../environment.ts";
import { currentBackend, setBackend } from "../trace.ts";
import { cpu } from "./cpu/backend.ts";

const choices: Readonly<Record<string, Backend>> = { cpu, reference };

const name: string = environment("COTANGENT_BACKEND") ?? "cpu";
const choice: Backend | undefined = choices[name];
if (choice === undefined) {
  throw new RangeError(
    `Cannot use backend "${name}": it is the value of COTANGENT_BACKEND, one of ${Object.keys(choices).join(", ")} is needed`,
  );
}
setBackend(choice);

/**
 * What computations run on, as text by topic: the backend, and for the compiled one its threads, instructions and the
 * library that multiplies matrices.
 *
 * Shapes: none.
 *
 * @example What the documentation was checked with
 * ```ts
 * assert(["cpu", "reference"].includes(ct.backendInfo()["backend"]!));
 * ```
 * @since 0.2.0
 */
export function backendInfo(): Readonly<Record<string, string>> {
  return currentBackend().info();
}
