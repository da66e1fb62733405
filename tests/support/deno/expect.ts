/** The matchers of `bun:test` that the tests of the GPU use. */

/** Stands for every value that it matches. */
class Pattern {
  readonly text: string;
  readonly matches: (x: unknown) => boolean;
  constructor(text: string, matches: (x: unknown) => boolean) {
    this.text = text;
    this.matches = matches;
  }
}

type Fields = Readonly<Record<string, unknown>>;

const isObject = (x: unknown): x is Fields => typeof x === "object" && x !== null;
const defined = (x: Fields): string[] => Object.keys(x).filter((key) => x[key] !== undefined);
const kindOf = (x: unknown): string => Object.prototype.toString.call(x);

/** Whether a value has the elements and fields of another; fields that are undefined are none. */
function isEqual(x: unknown, y: unknown): boolean {
  if (y instanceof Pattern) return y.matches(x);
  if (Object.is(x, y) || !isObject(x) || !isObject(y)) return Object.is(x, y);
  if (kindOf(x) !== kindOf(y)) return false;
  if (x instanceof Error && y instanceof Error) return x.message === y.message;
  if (x instanceof Map && y instanceof Map)
    return x.size === y.size && [...y].every(([key, value]) => x.has(key) && isEqual(x.get(key), value));
  if (x instanceof Set && y instanceof Set) {
    const others = [...y];
    return x.size === y.size && [...x].every((one) => others.some((other) => isEqual(one, other)));
  }
  if (Array.isArray(x) && Array.isArray(y) && x.length !== y.length) return false;
  const [keys, others] = [defined(x), defined(y)];
  return keys.length === others.length && others.every((key) => key in x && isEqual(x[key], y[key]));
}

/** Whether a value has the fields of another, perhaps beside more. */
function hasFields(x: unknown, y: unknown): boolean {
  if (y instanceof Pattern || !isObject(y) || !isObject(x)) return isEqual(x, y);
  if (Array.isArray(y) && (!Array.isArray(x) || x.length !== y.length)) return false;
  return Object.keys(y).every((key) => key in x && hasFields(x[key], y[key]));
}

type Constructor = abstract new (...args: never[]) => unknown;

/** Whether what was thrown is of a class, or says something. */
function isThrown(error: unknown, wanted: string | RegExp | Constructor): boolean {
  if (typeof wanted === "function") return error instanceof wanted;
  const message = error instanceof Error ? error.message : String(error);
  return typeof wanted === "string" ? message.includes(wanted) : wanted.test(message);
}

/** Whether a function throws that. */
function throws(f: unknown, wanted: string | RegExp | Constructor): boolean {
  try {
    (f as () => unknown)();
  } catch (error) {
    return isThrown(error, wanted);
  }
  return false;
}

function contains(x: unknown, y: unknown): boolean {
  return typeof x === "string"
    ? x.includes(String(y))
    : [...(x as Iterable<unknown>)].some((one) => one === y);
}

/** Whether two numbers agree to so many decimal places. */
const isClose = (x: number, y: number, digits: number = 2): boolean =>
  x === y || Math.abs(x - y) < 0.5 * 10 ** -digits;

/** A function that remembers its calls. */
export interface Spy {
  (...args: unknown[]): unknown;
  readonly mock: { calls: unknown[][] };
  mockClear(): void;
  mockImplementation(f: (...args: never[]) => unknown): Spy;
  mockRestore(): void;
}

/** Puts a spy in the place of a method, which it calls until told otherwise. */
export function spyOn<T extends object>(target: T, name: keyof T & string): Spy {
  const methods = target as Record<string, unknown>;
  const isOwn = Object.hasOwn(target, name);
  const original = methods[name];
  let current = original as (...args: unknown[]) => unknown;
  const spy = function (this: unknown, ...args: unknown[]): unknown {
    spy.mock.calls.push(args);
    return current.apply(this, args);
  } as Spy & { mock: { calls: unknown[][] } };
  Object.assign(spy, {
    mock: { calls: [] },
    mockClear: () => void spy.mock.calls.splice(0),
    mockImplementation: (f: typeof current) => {
      current = f;
      return spy;
    },
    mockRestore: () => {
      if (isOwn) methods[name] = original;
      else delete methods[name];
    },
  });
  methods[name] = spy;
  return spy;
}

const calls = (x: unknown): number => (x as Spy).mock.calls.length;

/** What holds of a value, by the name of the matcher. TypeScript 7.0.2 breaks down on results that it has to infer here. */
const laws = {
  toBe: (x: unknown, y: unknown): boolean => Object.is(x, y),
  toBeNull: (x: unknown): boolean => x === null,
  toEqual: (x: unknown, y: unknown): boolean => isEqual(x, y),
  toMatchObject: (x: unknown, y: unknown): boolean => hasFields(x, y),
  toBeCloseTo: (x: unknown, y: number, digits?: number): boolean => isClose(x as number, y, digits),
  toBeGreaterThan: (x: unknown, y: number): boolean => (x as number) > y,
  toBeGreaterThanOrEqual: (x: unknown, y: number): boolean => (x as number) >= y,
  toBeLessThan: (x: unknown, y: number): boolean => (x as number) < y,
  toBeLessThanOrEqual: (x: unknown, y: number): boolean => (x as number) <= y,
  toBeInstanceOf: (x: unknown, y: Constructor): boolean => x instanceof y,
  toContain: (x: unknown, y: unknown): boolean => contains(x, y),
  toHaveLength: (x: unknown, length: number): boolean => (x as ArrayLike<unknown>).length === length,
  toMatch: (x: unknown, y: RegExp): boolean => y.test(x as string),
  toThrow: (f: unknown, wanted: string | RegExp | Constructor): boolean => throws(f, wanted),
  toStartWith: (x: unknown, y: string): boolean => (x as string).startsWith(y),
  toHaveBeenCalled: (x: unknown): boolean => calls(x) > 0,
  toHaveBeenCalledTimes: (x: unknown, count: number): boolean => calls(x) === count,
};

type Laws = typeof laws;
type Rest<F> = F extends (x: never, ...rest: infer R) => boolean ? R : never;

/** Throw unless something holds. */
export type Matchers = { readonly [Name in keyof Laws]: (...rest: Rest<Laws[Name]>) => void };

/** All there is to ask of a value. */
export interface Expectation extends Matchers {
  readonly not: Matchers;
  readonly rejects: { toThrow(wanted: string | RegExp | Constructor): Promise<void> };
}

const LONGEST = 1000;

function shown(x: unknown): string {
  if (x instanceof Pattern) return x.text;
  const replaced = (_: string, y: unknown): unknown =>
    y instanceof Pattern ? y.text : typeof y === "number" && !Number.isFinite(y) ? String(y) : y;
  const text = isObject(x) ? (JSON.stringify(x, replaced) ?? String(x)) : String(x);
  return text.length > LONGEST ? `${text.slice(0, LONGEST)}...` : text;
}

function matchers(actual: unknown, wanted: boolean, say: string): Matchers {
  const entries = Object.entries(laws).map(([name, law]) => {
    const matcher = (...rest: readonly unknown[]): void => {
      if ((law as (...args: readonly unknown[]) => boolean)(actual, ...rest) === wanted) return;
      const not = wanted ? "" : "not.";
      throw new Error(`${say}expect(${shown(actual)}).${not}${name}(${rest.map(shown).join(", ")})`);
    };
    return [name, matcher];
  });
  return Object.fromEntries(entries) as Matchers;
}

function expectation(actual: unknown, message: string = ""): Expectation {
  const say = message === "" ? "" : `${message}: `;
  const rejects = {
    async toThrow(wanted: string | RegExp | Constructor): Promise<void> {
      const [outcome] = await Promise.allSettled([actual]);
      if (outcome.status === "rejected" && isThrown(outcome.reason, wanted)) return;
      const happened = outcome.status === "rejected" ? String(outcome.reason) : "a value";
      throw new Error(`${say}expect(...).rejects.toThrow(${String(wanted)}): there was ${happened}`);
    },
  };
  return { ...matchers(actual, true, say), not: matchers(actual, false, say), rejects };
}

/** Patterns, as a part of what a value is compared with. */
const patterns = {
  arrayContaining: (parts: readonly unknown[]): Pattern =>
    new Pattern(`containing ${shown(parts)}`, (x) =>
      parts.every((part) => (x as readonly unknown[]).some((one) => isEqual(one, part))),
    ),
  closeTo: (y: number, digits?: number): Pattern =>
    new Pattern(`close to ${y}`, (x) => isClose(x as number, y, digits)),
  stringContaining: (part: string): Pattern =>
    new Pattern(`containing "${part}"`, (x) => typeof x === "string" && x.includes(part)),
};

export const expect: typeof expectation & typeof patterns = Object.assign(expectation, patterns);
