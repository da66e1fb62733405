/**
 * Matrix products by onnxruntime-node in two ways: through the package's own interface, and through the C interface of
 * the library that the package carries, called by FFI on operands where they are.
 */
import { CFunction, dlopen, type FFITypeOrString, type Pointer, ptr, read } from "bun:ffi";
import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { loadPeer, type Onnx } from "./peers.ts";

// --- the model: one node, written as protocol buffers with the field numbers of onnx.proto

type Bytes = readonly number[];
const varint = (n: number): Bytes => (n < 128 ? [n] : [(n % 128) + 128, ...varint(Math.floor(n / 128))]);
const integer = (field: number, n: number): Bytes => [...varint(8 * field), ...varint(n)];
const message = (field: number, ...parts: readonly Bytes[]): Bytes => {
  const content = parts.flat();
  return [...varint(8 * field + 2), ...varint(content.length), ...content];
};
const text = (field: number, s: string): Bytes => message(field, [...new TextEncoder().encode(s)]);

/** A name with a type: float32, two sizes that are names too. */
const matrix = (field: number, name: string, rows: string, columns: string): Bytes => {
  const shape = message(2, message(1, text(2, rows)), message(1, text(2, columns)));
  return message(field, text(1, name), message(2, message(1, integer(1, 1), shape)));
};

/** `c = a b` for matrices of any size. */
export function productModel(): Uint8Array<ArrayBuffer> {
  const node = message(1, text(1, "a"), text(1, "b"), text(2, "c"), text(4, "MatMul"));
  const inputs = [...matrix(11, "a", "m", "k"), ...matrix(11, "b", "k", "n")];
  const graph = message(7, node, text(2, "product"), inputs, matrix(12, "c", "m", "n"));
  return Uint8Array.from([...integer(1, 8), ...graph, ...message(8, text(1, ""), integer(2, 13))]);
}

// --- the package's interface

/** Square products through the package; the result is its own memory. */
export async function packageProduct(
  threads: number,
): Promise<(a: Float32Array, b: Float32Array, n: number) => Promise<Float32Array>> {
  const { InferenceSession, Tensor } = await loadPeer<Onnx>("onnxruntime-node");
  const session = await InferenceSession.create(productModel(), {
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
  });
  return async (a, b, n) => {
    const tensor = (x: Float32Array): object => new Tensor("float32", x, [n, n]);
    return (await session.run({ a: tensor(a), b: tensor(b) })).c.data;
  };
}

// --- the C interface

/** The library that the package carries for this machine. */
export function libraryFile(): string {
  const folder = new URL(
    `./node_modules/onnxruntime-node/bin/napi-v6/${process.platform}/${process.arch}/`,
    import.meta.url,
  );
  const file = readdirSync(folder).find((name) => /^(?:lib)?onnxruntime\.(?:so\.1|1\.dylib|dll)$/.test(name));
  if (!file) throw new Error(`Cannot open onnxruntime: ${folder.pathname} has no library, one is needed`);
  return fileURLToPath(new URL(file, folder));
}

/** Positions in the table of functions, which only ever grows at its end. */
const FUNCTIONS = {
  GetErrorMessage: { at: 2, args: ["u64"], returns: "cstring" },
  CreateEnv: { at: 3, args: ["i32", "ptr", "ptr"], returns: "ptr" },
  CreateSessionFromArray: { at: 8, args: ["u64", "ptr", "u64", "u64", "ptr"], returns: "ptr" },
  Run: { at: 9, args: ["u64", "u64", "ptr", "ptr", "u64", "ptr", "u64", "ptr"], returns: "ptr" },
  CreateSessionOptions: { at: 10, args: ["ptr"], returns: "ptr" },
  SetIntraOpNumThreads: { at: 24, args: ["u64", "i32"], returns: "ptr" },
  CreateTensorWithDataAsOrtValue: {
    at: 49,
    args: ["u64", "u64", "u64", "ptr", "u64", "i32", "ptr"],
    returns: "ptr",
  },
  CreateCpuMemoryInfo: { at: 69, args: ["i32", "i32", "ptr"], returns: "ptr" },
  ReleaseValue: { at: 96, args: ["u64"], returns: "void" },
} as const satisfies Readonly<
  Record<string, { at: number; args: readonly FFITypeOrString[]; returns: FFITypeOrString }>
>;
type Native = (...args: readonly (number | Pointer)[]) => unknown;

/** The newest version of the table is asked for the functions of the first. */
const API_VERSION = 1;
const WARNING = 2;
const DEVICE_ALLOCATOR = 0;
const DEFAULT_MEMORY = 0;
const FLOAT = 1;

/** What the library reads and writes at a later call. */
const kept: ArrayBufferLike[] = [];
/**
 * An address that stays. JavaScriptCore moves the elements of a small array when the array is first asked for its buffer,
 * which its optimizing compiler does too: here the DFG did after some hundred calls, and sizes went to the old place.
 */
function addressOf({ buffer, byteOffset }: Uint8Array | BigInt64Array | BigUint64Array): Pointer {
  kept.push(buffer);
  return (ptr(buffer) + byteOffset) as Pointer;
}

/** C [m, n] = A [m, k] B [k, n], row after row, at these addresses. */
export type AddressedProduct = (
  a: number,
  b: number,
  c: number,
  sizes: { readonly m: number; readonly n: number; readonly k: number },
) => void;

/** Synchronous products that read and write memory where it is. */
export function libraryProduct(threads: number): AddressedProduct {
  const { OrtGetApiBase } = dlopen(libraryFile(), { OrtGetApiBase: { args: [], returns: "ptr" } }).symbols;
  const functionAt = (at: number, args: readonly FFITypeOrString[], returns: FFITypeOrString): Native =>
    CFunction({ ptr: at as Pointer, args: [...args], returns }) as unknown as Native;
  const table = functionAt(read.ptr(OrtGetApiBase()!, 0), ["u32"], "ptr")(API_VERSION) as Pointer;
  const api = Object.fromEntries(
    Object.entries(FUNCTIONS).map(([name, { at, args, returns }]) => [
      name,
      functionAt(read.ptr(table, 8 * at), args, returns),
    ]),
  ) as Record<keyof typeof FUNCTIONS, Native>;
  const check = (status: unknown): void => {
    if (status) throw new Error(`Cannot run onnxruntime: ${api.GetErrorMessage(Number(status))}`);
  };

  const cString = (s: string): Pointer => addressOf(new TextEncoder().encode(`${s}\0`));
  const made = new BigUint64Array(1);
  const madeAt = addressOf(made);
  const make = (create: Native, ...args: readonly (number | Pointer)[]): number => {
    check(create(...args, madeAt));
    return Number(made[0]);
  };
  const env = make(api.CreateEnv, WARNING, cString("compare"));
  const options = make(api.CreateSessionOptions);
  check(api.SetIntraOpNumThreads(options, threads));
  const model = productModel();
  const session = make(api.CreateSessionFromArray, env, addressOf(model), model.length, options);
  const memory = make(api.CreateCpuMemoryInfo, DEVICE_ALLOCATOR, DEFAULT_MEMORY);

  const names = (list: readonly string[]): Pointer =>
    addressOf(BigUint64Array.from(list, (name) => BigInt(cString(name))));
  const [inputs, outputs] = [names(["a", "b"]), names(["c"])];
  const shape = new BigInt64Array(2);
  const shapeAt = addressOf(shape);
  const values = new BigUint64Array(3);
  const valuesAt = addressOf(values);
  const wrap = (slot: number, data: number, rows: number, columns: number): void => {
    shape[0] = BigInt(rows);
    shape[1] = BigInt(columns);
    const at = (valuesAt + 8 * slot) as Pointer;
    check(
      api.CreateTensorWithDataAsOrtValue(memory, data, 4 * rows * columns, shapeAt, shape.length, FLOAT, at),
    );
  };
  return (a, b, c, { m, n, k }) => {
    wrap(0, a, m, k);
    wrap(1, b, k, n);
    wrap(2, c, m, n);
    const status = api.Run(session, 0, inputs, valuesAt, 2, outputs, 1, (valuesAt + 16) as Pointer);
    for (const value of values) api.ReleaseValue(Number(value));
    check(status);
  };
}
