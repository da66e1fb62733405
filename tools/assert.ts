/** The three checks an example in the documentation may use. */

/** Throws unless the condition holds. */
export function assert(condition: unknown, what = "the condition of the example"): asserts condition {
  if (!condition) throw new Error(`Cannot accept the example: ${what} is false, true is needed`);
}

/**
 * Throws unless the numbers in both arguments agree, one by one and in number.
 *
 * Takes numbers, arrays and typed arrays (nested ones are flattened), tensors, and records of these (in order of
 * their keys). The difference allowed is `tolerance * (1 + |expected|)`; NaN agrees only with NaN.
 */
export function assertClose(actual: unknown, expected: unknown, tolerance = 1e-5): void {
  const left = numbersIn(actual);
  const right = numbersIn(expected);
  if (left.length !== right.length || right.length === 0) {
    throw new Error(
      `Cannot compare: ${left.length} numbers against ${right.length}, the same number of them is needed`,
    );
  }
  for (let i = 0; i < left.length; i++) {
    const [x, y] = [left[i]!, right[i]!];
    if (!Object.is(x, y) && !(Math.abs(x - y) <= tolerance * (1 + Math.abs(y))) && x !== y) {
      throw new Error(`Cannot accept the example: number ${i} is ${x}, ${y} within ${tolerance} is needed`);
    }
  }
}

/** Calls the function and returns what it throws; throws itself where that is not an instance of `kind`. */
export function assertThrows<E>(call: () => unknown, kind: abstract new (...args: never[]) => E): E {
  let outcome = "it returned";
  try {
    call();
  } catch (error) {
    if (error instanceof kind) return error;
    outcome = `it threw ${String(error)}`;
  }
  throw new Error(`Cannot accept the example: ${outcome}, a thrown ${kind.name} is needed`);
}

function numbersIn(value: unknown): number[] {
  if (typeof value === "number" || typeof value === "bigint") return [Number(value)];
  if (typeof value === "boolean") return [value ? 1 : 0];
  if (Array.isArray(value)) return value.flatMap(numbersIn);
  if (ArrayBuffer.isView(value)) return Array.from(value as unknown as ArrayLike<number>, Number);
  if (typeof value === "object" && value !== null) {
    if ("toArray" in value && typeof value.toArray === "function") return numbersIn(value.toArray());
    const record = value as Readonly<Record<string, unknown>>;
    return Object.keys(record)
      .sort()
      .flatMap((key) => numbersIn(record[key]));
  }
  throw new Error(
    `Cannot compare ${String(value)}: it is a ${typeof value}, a number or a tree of numbers is needed`,
  );
}
