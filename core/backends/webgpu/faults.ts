/**
 * Faults: what a shader finds wrong in the elements, such as an index outside its axis. A shader cannot throw, so it
 * notes the first fault in two words, and whoever reads elements next gets the error.
 */

/** Makes the error from the element that was at fault. */
export type Fault = (value: number) => Error;

const faults: Fault[] = [];

/** Gives a fault its number, which shaders write; numbers begin at 1. */
export function registerFault(fault: Fault): number {
  return faults.push(fault);
}

/** Bytes of the buffer of faults: the number of the first fault, and the element as i32. */
export const FAULT_BYTES = 8;

/** The error that the two words stand for; null where there is none. */
export function faultOf(words: Int32Array): Error | null {
  const [number, value] = words;
  return number === 0 ? null : faults[number! - 1]!(value!);
}

/** Declares binding `index` as the words of faults, and `fault(value)`, which notes fault `number`. */
export function faultReporter(index: number, number: number): string {
  return `@group(0) @binding(${index}) var<storage, read_write> faults: array<atomic<u32>, 2>;
fn fault(value: i32) {
  if (atomicMax(&faults[0], ${number}u) == 0u) { atomicStore(&faults[1], bitcast<u32>(value)); }
}`;
}
