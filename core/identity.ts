/** Names of data: two names are the same text exactly where the data are equal. */

const numbers = new WeakMap<object, number>();
const symbols = new Map<symbol, number>();
let last = 0;

/** A number for an object or a symbol, the same every time. */
export function identity(x: object | symbol): number {
  const known = typeof x === "symbol" ? symbols.get(x) : numbers.get(x);
  if (known !== undefined) return known;
  last++;
  if (typeof x === "symbol") symbols.set(x, last);
  else numbers.set(x, last);
  return last;
}

/** The text of a number; 0 and -0 differ. */
export function numberName(x: number): string {
  return Object.is(x, -0) ? "-0" : String(x);
}

/** Whether an object is a record of data, not an instance of a class. */
export function isRecord(x: object): x is Readonly<Record<string, unknown>> {
  const prototype: unknown = Object.getPrototypeOf(x);
  return prototype === Object.prototype || prototype === null;
}

/** The text of data. Lists and records are equal by what they hold, functions and instances of classes to themselves only. */
export function dataName(x: unknown): string {
  switch (typeof x) {
    case "number":
      return numberName(x);
    case "string":
      return JSON.stringify(x);
    case "bigint":
      return `${x}n`;
    case "function":
    case "symbol":
      return `@${identity(x)}`;
    case "object": {
      if (x === null) return "null";
      if (Array.isArray(x)) return `[${Array.from(x, dataName).join()}]`;
      if (!isRecord(x)) return `@${identity(x)}`;
      const fields = Object.keys(x).sort();
      return `{${fields.map((key) => `${JSON.stringify(key)}:${dataName(x[key])}`).join()}}`;
    }
    default:
      return String(x);
  }
}
