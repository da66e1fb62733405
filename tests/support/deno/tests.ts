/**
 * What the tests of the GPU use of `bun:test`, over the tests of Deno: `imports.json` puts it in the place of `bun:test`.
 * Bun runs only the test that the matchers say what its own say.
 */
export { expect, spyOn } from "./expect.ts";

type Body = () => unknown;

/** What Deno gives to tests. */
interface Registry {
  (definition: Readonly<Record<string, unknown>>): void;
  afterAll(f: Body): void;
  afterEach(f: Body): void;
}

const registry = (): Registry =>
  (globalThis as unknown as { readonly Deno: { readonly test: Registry } }).Deno.test;

/** The names of the groups around what is defined now, and whether one of them is skipped. */
let path: readonly string[] = [];
let isSkipped = false;

type Define = (name: string, body: Body, timeoutMs?: number) => void;
type Definer = Define & { readonly skipIf: (condition: boolean) => Define };

const withSkip = (define: (isOff: boolean) => Define): Definer =>
  Object.assign(define(false), { skipIf: define });

export const describe: Definer = withSkip((isOff) => (name, body) => {
  const [outerPath, outerSkipped] = [path, isSkipped];
  [path, isSkipped] = [[...path, name], isSkipped || isOff];
  try {
    body();
  } finally {
    [path, isSkipped] = [outerPath, outerSkipped];
  }
});

/** A test; Deno's checks of what is left open are off, since a device stays open. */
export const test: Definer = withSkip((isOff) => (name, body) => {
  registry()({
    name: [...path, name].join(" > "),
    ignore: isSkipped || isOff,
    sanitizeExit: false,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async () => void (await body()),
  });
});

/** After the last test of the file, also where a group asks for it. */
export const afterAll = (f: Body): void => registry().afterAll(f);
export const afterEach = (f: Body): void => registry().afterEach(f);
/** Deno's tests have no limit. */
export const setDefaultTimeout = (_milliseconds: number): void => {};
