/**
 * Faults: what a shader finds wrong in the elements, such as an index outside its axis. A shader cannot throw, so it
 * notes the first fault in two words, and whoever reads elements next gets the error.
 */

/** Makes the error from the element that was at fault. */
export type Fault = (value: number) => Error;

const faults: Fault[] = [];
const numbers = new Map<string, number>();

/** Gives a fault its number, which shaders write; numbers begin at 1. Faults of one key make equal errors. */
export function registerFault(key: string, fault: Fault): number {
  const known = numbers.get(key);
  if (known !== undefined) return known;
  const number = faults.push(fault);
  numbers.set(key, number);
  return number;
}

/** Bytes of the buffer of faults: the number of the first fault, and the element as i32. */
export const FAULT_BYTES = 8;

/** The error that the two words stand for; null where there is none. */
export function faultOf(words: Int32Array): Error | null {
  const [number, value] = words;
  return number === 0 ? null : faults[number! - 1]!(value!);
}

/**
 * Declares binding `index` as the words of faults, and two functions: `claimFault()` says whether fault `number` is the
 * first, which one invocation is told; that one then calls `fault(value)`. The words belong together, since nobody else
 * writes either of them until they are read.
 */
export function faultReporter(index: number, number: number): string {
  return `@group(0) @binding(${index}) var<storage, read_write> faults: array<atomic<u32>, 2>;
fn claimFault() -> bool {
  // An exchange may fail without a reason. Naga refuses a function that ends with a loop, even one without an end.
  while (true) {
    let seen = atomicCompareExchangeWeak(&faults[0], 0u, ${number}u);
    if (seen.exchanged) { return true; }
    if (seen.old_value != 0u) { break; }
  }
  return false;
}
fn fault(value: i32) { atomicStore(&faults[1], bitcast<u32>(value)); }`;
}
