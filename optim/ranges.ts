/** The numbers that options of methods may be, checked when a method is made. */

/** Which numbers an option may be, and how a message says it. */
export interface Range {
  readonly text: string;
  holds(x: number): boolean;
}

export const fraction: Range = { text: "a number in [0, 1)", holds: (x) => x >= 0 && x < 1 };
export const unitInterval: Range = { text: "a number in [0, 1]", holds: (x) => x >= 0 && x <= 1 };
export const nonNegative: Range = {
  text: "a number of at least 0",
  holds: (x) => x >= 0 && x < Infinity,
};
export const positive: Range = { text: "a positive number", holds: (x) => x > 0 && x < Infinity };
export const countingNumber: Range = {
  text: "an integer of at least 1",
  holds: (x) => Number.isInteger(x) && x >= 1,
};
export const seedRange: Range = {
  text: "a non-negative integer up to 2^53 - 1",
  holds: (x) => Number.isSafeInteger(x) && x >= 0,
};

/** Throws RangeError that names every option outside its range. */
export function checkOptions(
  what: string,
  options: Readonly<Record<string, readonly [value: number, range: Range]>>,
): void {
  const problems = Object.entries(options)
    .filter(([, [value, range]]) => !range.holds(value))
    .map(([name, [value, range]]) => `${name} is ${value}, ${range.text} is needed`);
  if (problems.length > 0) throw new RangeError(`Cannot make ${what}: ${problems.join("; ")}`);
}
