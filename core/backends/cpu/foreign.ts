/** Functions of native libraries, where the host can call them and this process may: in Bun, and in Deno if granted. */

/** Types of arguments and results; `text` is a C string: bytes with a final 0 as an argument, a string as a result. */
export type ForeignType = "i32" | "f32" | "f64" | "address" | "text" | "void";

export interface Signature {
  readonly args: readonly ForeignType[];
  readonly result: ForeignType;
}

/** An address as the host has it: numbers in Bun, numbers or bigints in Deno. */
export type Address = number | bigint;

export interface ForeignLibrary<N extends string> {
  readonly functions: Readonly<Record<N, (...args: readonly (Address | Uint8Array)[]) => unknown>>;
  close(): void;
}

/** What this process can do with native libraries. */
export interface ForeignHost {
  /** @throws {Error} if there is no such library, or it lacks one of the functions */
  open<N extends string>(path: string, signatures: Readonly<Record<N, Signature>>): ForeignLibrary<N>;
  /** The address of the first byte. */
  addressOf(bytes: Uint8Array): Address;
}

type Opened = { readonly symbols: Record<string, unknown>; close(): void };

// What is used of the two hosts; each has it or does not.
interface BunForeign {
  dlopen(path: string, symbols: object): Opened;
  ptr(bytes: Uint8Array): number;
}
interface DenoForeign {
  dlopen(path: string, symbols: object): Opened;
  readonly UnsafePointer: { of(bytes: Uint8Array): object | null; value(pointer: object | null): Address };
  readonly UnsafePointerView: new (pointer: object) => { getCString(): string };
  readonly permissions: { querySync(what: Permission): { readonly state: string } };
}

interface Permission {
  readonly name: string;
  readonly path?: string;
}

/** Whether this process may do it without asking the user. */
export function isGranted(what: Permission): boolean {
  const deno: unknown = Reflect.get(globalThis, "Deno");
  return !isDeno(deno) || deno.permissions.querySync(what).state === "granted";
}

/** The host's functions, or why it has none. */
export function foreignHost(): ForeignHost | string {
  if (!isGranted({ name: "ffi" })) return "this process has no permission for native libraries (--allow-ffi)";
  const deno: unknown = Reflect.get(globalThis, "Deno");
  if (isDeno(deno)) return denoHost(deno);
  const bun: unknown = globalThis.process?.getBuiltinModule?.("bun:ffi");
  return isBun(bun) ? bunHost(bun) : "the host calls no native libraries";
}

const isBun = (x: unknown): x is BunForeign => typeof x === "object" && x !== null && "dlopen" in x;
const isDeno = (x: unknown): x is DenoForeign => isBun(x) && "UnsafePointer" in x && "permissions" in x;

const bunTypes: Readonly<Record<ForeignType, string>> = {
  i32: "i32",
  f32: "f32",
  f64: "f64",
  address: "u64",
  text: "ptr",
  void: "void",
};

function bunHost({ dlopen, ptr }: BunForeign): ForeignHost {
  return {
    open(path, signatures) {
      const entries = Object.entries<Signature>(signatures).map(([name, { args, result }]) => [
        name,
        {
          args: args.map((type) => bunTypes[type]),
          returns: result === "text" ? "cstring" : bunTypes[result],
        },
      ]);
      const { symbols, close } = dlopen(path, Object.fromEntries(entries));
      // A bound function for each signature.
      return {
        functions: symbols as ForeignLibrary<keyof typeof signatures>["functions"],
        close: () => close(),
      };
    },
    addressOf: (bytes) => ptr(bytes),
  };
}

const denoTypes: Readonly<Record<ForeignType, string>> = {
  i32: "i32",
  f32: "f32",
  f64: "f64",
  address: "usize",
  text: "buffer",
  void: "void",
};

function denoHost(deno: DenoForeign): ForeignHost {
  return {
    open(path, signatures) {
      const list = Object.entries<Signature>(signatures);
      const entries = list.map(([name, { args, result }]) => [
        name,
        {
          parameters: args.map((type) => denoTypes[type]),
          result: result === "text" ? "pointer" : denoTypes[result],
        },
      ]);
      const library = deno.dlopen(path, Object.fromEntries(entries));
      const functions = { ...library.symbols };
      for (const [name, { result }] of list) {
        const symbol = functions[name] as (...args: readonly unknown[]) => object;
        if (result === "text")
          functions[name] = (...args: readonly unknown[]) =>
            new deno.UnsafePointerView(symbol(...args)).getCString();
      }
      return {
        functions: functions as ForeignLibrary<keyof typeof signatures>["functions"],
        close: () => library.close(),
      };
    },
    addressOf: (bytes) => deno.UnsafePointer.value(deno.UnsafePointer.of(bytes)),
  };
}

/** A C string. */
export function bytesOf(text: string): Uint8Array {
  return new TextEncoder().encode(`${text}\0`);
}
