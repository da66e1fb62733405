/**
 * Native matrix products: a BLAS that this machine has, called on the heap's own bytes.
 *
 * Every call computes one block on one thread, and the kernels' threads take blocks: a library's own threads cut the
 * work, and so round, differently for each number of threads (OpenBLAS 0.3.21: 7 to 55 % of random products differ
 * between one and two), and they spin where ours are needed. Blocks of fixed sizes give the same bits for any number,
 * and are as fast: 1.4 of OpenBLAS's own two threads at 128 x 128 x 128, 1.0 at 256, 0.92 at 1024.
 */
import { invariant } from "../../errors.ts";
import {
  type Address,
  bytesOf,
  type ForeignHost,
  type ForeignLibrary,
  foreignHost,
  isGranted,
  type Signature,
} from "./foreign.ts";
import { PRODUCT_WORDS, type ProductWord } from "./product_words.ts";
import { environment } from "./threads.ts";

/** An opened library, as another thread of this process can open it too. */
export interface NativeLibrary {
  readonly path: string;
  /** Where the heap begins. */
  readonly base: Address;
}

/** Computes units [begin, end) of the product that is described at `args`; see product_words.ts. */
export type NativeProduct = (begin: number, end: number, args: number, scratch: number) => void;

export type NativeProductName = "sgemm" | "dgemm";

/** A library that was found and prepared. */
export interface Blas {
  readonly path: string;
  /** What it is, as text. */
  readonly name: string;
  /** It for operands that are in these bytes. */
  on(heap: { readonly u8: Uint8Array }): NativeLibrary;
}

// cblas_?gemm(order, transA, transB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)
const gemm = (type: "f32" | "f64"): Signature => ({
  args: [
    ...(["i32", "i32", "i32", "i32", "i32", "i32", type, "address", "i32"] as const),
    ...(["address", "i32", type, "address", "i32"] as const),
  ],
  result: "void",
});
const GEMM: Readonly<Record<"cblas_sgemm" | "cblas_dgemm", Signature>> = {
  cblas_sgemm: gemm("f32"),
  cblas_dgemm: gemm("f64"),
};
const ROW_MAJOR = 101;
const PLAIN = 111;
const TRANSPOSED = 112;

/** Where libraries usually are. Plain libblas and libcblas are left out: they often are the slow reference. */
const FILES: readonly string[] = [
  "libopenblas.so.0",
  "libopenblas.so",
  "libopenblas.dylib",
  "/opt/homebrew/opt/openblas/lib/libopenblas.dylib",
  "libopenblas.dll",
  "libmkl_rt.so.2",
  "libmkl_rt.so",
  "mkl_rt.2.dll",
  "libblis.so.4",
  "libblis.so",
  "libblis.dylib",
  "/System/Library/Frameworks/Accelerate.framework/Accelerate",
];
const endings: Readonly<Record<string, RegExp>> = {
  linux: /\.so(?:\.\d+)?$/,
  darwin: /\.dylib$|\/Accelerate$/,
  win32: /\.dll$/,
};

/** What sets the number of threads of one library or another; each has one of them, or none. */
const THREAD_SETTERS: Readonly<Record<string, Signature>> = {
  openblas_set_num_threads: { args: ["i32"], result: "void" },
  MKL_Set_Num_Threads: { args: ["i32"], result: "void" },
  bli_thread_set_num_threads: { args: ["address"], result: "void" },
};
/** One thread from the start: otherwise a library makes one for each core when it is loaded. */
const ONE_THREAD: readonly string[] = ["OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"];
const C_LIBRARIES: Readonly<Record<string, string>> = {
  linux: "libc.so.6",
  darwin: "/usr/lib/libSystem.B.dylib",
};

/** The C environment, which `process.env` may not reach. */
interface Variables {
  set(name: string, value: string): void;
  /** Removes what was set: it is for this library, not for what this process starts later. */
  restore(): void;
}

let found: Blas | string | undefined;

/**
 * The library that is used, or why there is none; the search, a few milliseconds, is done once.
 *
 * @throws {Error} if `COTANGENT_BLAS` names a library that cannot be used
 */
export function findBlas(): Blas | string {
  found ??= search(environment("COTANGENT_BLAS") ?? "");
  return found;
}

function search(asked: string): Blas | string {
  if (asked === "none") return "COTANGENT_BLAS is none";
  const host = foreignHost();
  if (typeof host === "string") {
    if (asked !== "") throw refusal(asked, host);
    return host;
  }
  const platform = globalThis.process.platform;
  const variables = variablesOf(host, platform);
  for (const name of ONE_THREAD) if (environment(name) === undefined) variables.set(name, "1");
  const core = environment("OPENBLAS_CORETYPE");
  if (core !== undefined) variables.set("OPENBLAS_CORETYPE", core);
  const redirect = core === undefined ? variables : null;
  try {
    if (asked !== "") return prepare(host, asked, redirect);
    for (const path of FILES.filter((file) => endings[platform]?.test(file))) {
      try {
        return prepare(host, path, redirect);
      } catch {
        // This one is not here; the next may be.
      }
    }
  } catch (error) {
    throw refusal(asked, error instanceof Error ? error.message : String(error));
  } finally {
    variables.restore();
  }
  return "no BLAS library was found";
}

function refusal(asked: string, why: string): Error {
  return new Error(
    `Cannot use COTANGENT_BLAS=${JSON.stringify(asked)}: ${why}, a library with cblas_sgemm and cblas_dgemm is needed`,
  );
}

/** Loads a library and sets it to one thread. */
function prepare(host: ForeignHost, path: string, redirect: Variables | null): Blas {
  const name = openblasName(host, path, redirect);
  host.open(path, GEMM);
  for (const [setter, signature] of Object.entries(THREAD_SETTERS))
    tryOpen(host, path, { [setter]: signature })?.functions[setter]?.(1);
  return { path, name: name ?? path, on: ({ u8 }) => ({ path, base: host.addressOf(u8) }) };
}

const CORE: Readonly<Record<"openblas_get_corename" | "openblas_get_config", Signature>> = {
  openblas_get_corename: { args: [], result: "text" },
  openblas_get_config: { args: [], result: "text" },
};
/** Kernels of 256 bits or less. */
const OLD_CORES: ReadonlySet<string> = new Set(
  "Prescott Core2 Penryn Dunnington Nehalem Sandybridge Haswell Atom Nano Opteron Barcelona Bobcat Bulldozer Piledriver Steamroller Excavator Zen".split(
    " ",
  ),
);

/**
 * What an OpenBLAS is, after loading it again with AVX-512 kernels if it did not see that the processor has AVX-512:
 * 0.3.21 knows no Zen 5 and runs its Haswell kernels there, at half the speed for all sizes. On a Zen 4, kernels for
 * SkylakeX against Haswell: 2.1 at 8 x 8 x 8, 1.9 at 16, 1.4 at 32, 1.2 at 64, 0.95 to 0.98 from 128 to 2048.
 */
function openblasName(host: ForeignHost, path: string, redirect: Variables | null): string | null {
  const read = (library: ForeignLibrary<keyof typeof CORE>): { core: string; version: string } => {
    const { openblas_get_corename, openblas_get_config } = library.functions;
    const version = String(openblas_get_config()).split(" ").slice(0, 2).join(" ");
    return { core: String(openblas_get_corename()), version };
  };
  const library = tryOpen(host, path, CORE);
  if (library === null) return null;
  let { core, version } = read(library);
  if (redirect !== null && OLD_CORES.has(core) && hasAvx512()) {
    library.close();
    redirect.set("OPENBLAS_CORETYPE", "SkylakeX");
    ({ core, version } = read(host.open(path, CORE)));
  }
  return `${version}, kernels for ${core} (${path})`;
}

/** Whether the processor has what AVX-512 kernels use, as far as Linux says. */
function hasAvx512(): boolean {
  const path = "/proc/cpuinfo";
  const fs = globalThis.process?.getBuiltinModule?.("node:fs");
  if (fs === undefined || !isGranted({ name: "read", path })) return false;
  try {
    const file = fs.openSync(path, "r");
    // The first processor is enough; a large machine has a megabyte of them.
    const start = new Uint8Array(8192);
    const length = fs.readSync(file, start, 0, start.length, 0);
    fs.closeSync(file);
    const flags = new Set(new TextDecoder().decode(start.subarray(0, length)).split(/\s+/));
    return ["avx512f", "avx512dq", "avx512bw", "avx512vl"].every((flag) => flags.has(flag));
  } catch {
    return false;
  }
}

function variablesOf(host: ForeignHost, platform: string): Variables {
  const path = C_LIBRARIES[platform];
  const library = path
    ? tryOpen(host, path, {
        setenv: { args: ["text", "text", "i32"], result: "i32" },
        unsetenv: { args: ["text"], result: "i32" },
      })
    : null;
  const names = new Set<string>();
  return {
    set(name, value) {
      library?.functions.setenv(bytesOf(name), bytesOf(value), 1);
      names.add(name);
    },
    restore() {
      for (const name of names) library?.functions.unsetenv(bytesOf(name));
    },
  };
}

/** A library's functions; null where one is missing. */
export function tryOpen<N extends string>(
  host: ForeignHost,
  path: string,
  signatures: Readonly<Record<N, Signature>>,
): ForeignLibrary<N> | null {
  try {
    return host.open(path, signatures);
  } catch {
    return null;
  }
}

// --- products ----------------------------------------------------------------------------------------------------

const at = (word: ProductWord): number => PRODUCT_WORDS.indexOf(word);
const A = at("a");
const A_ROW = at("aRow");
const A_COLUMN = at("aColumn");
const A_BATCH = at("aBatch");
const B = at("b");
const B_ROW = at("bRow");
const B_COLUMN = at("bColumn");
const B_BATCH = at("bBatch");
const C = at("c");
const C_ROW = at("cRow");
const C_BATCH = at("cBatch");
const M = at("m");
const N = at("n");
const K = at("k");
const TALL = at("tall");
const WIDE = at("wide");
const PANELS = at("panels");
const UNITS = at("units");
const MORE = at("more");

/**
 * The library's products as kernels of this thread. One of the two strides of A is the size of an element, and so for
 * B; the other is no shorter than what it spans.
 */
export function bindBlas(
  { path, base }: NativeLibrary,
  memory: WebAssembly.Memory,
): Readonly<Record<NativeProductName, NativeProduct>> {
  const host = foreignHost();
  invariant(typeof host !== "string", "a thread can call what its process can");
  const { cblas_sgemm, cblas_dgemm } = host.open(path, GEMM).functions;
  let words = new Int32Array(memory.buffer);
  // Addresses stay below 2^53, so that numbers hold them.
  const start = Number(base);
  const product =
    (call: typeof cblas_sgemm, bytes: number): NativeProduct =>
    (begin, end, args) => {
      const first = args >>> 2;
      // Memory grows; what was seen of it stays where it is.
      if (first + PRODUCT_WORDS.length > words.length) words = new Int32Array(memory.buffer);
      const word = (offset: number): number => words[first + offset]!;
      const [tall, wide, panels, units] = [word(TALL), word(WIDE), word(PANELS), word(UNITS)];
      const isPlainA = word(A_COLUMN) === bytes;
      const isPlainB = word(B_COLUMN) === bytes;
      const k = word(K);
      for (let unit = begin; unit < end; unit++) {
        const batch = Math.floor(unit / units);
        const rest = unit - batch * units;
        const block = Math.floor(rest / panels);
        const i = (rest - block * panels) * tall;
        const j = block * wide;
        const m = Math.min(tall, word(M) - i);
        const n = Math.min(wide, word(N) - j);
        call(
          ROW_MAJOR,
          isPlainA ? PLAIN : TRANSPOSED,
          isPlainB ? PLAIN : TRANSPOSED,
          m,
          n,
          k,
          1,
          start + (word(A) >>> 0) + batch * word(A_BATCH) + i * word(A_ROW),
          // Where there is one line only, its distance to the next may be too short for the library.
          isPlainA ? Math.max(word(A_ROW) / bytes, k) : Math.max(word(A_COLUMN) / bytes, m),
          start + (word(B) >>> 0) + batch * word(B_BATCH) + j * word(B_COLUMN),
          isPlainB ? Math.max(word(B_ROW) / bytes, n) : Math.max(word(B_COLUMN) / bytes, k),
          word(MORE) === 0 ? 0 : 1,
          start + (word(C) >>> 0) + batch * word(C_BATCH) + i * word(C_ROW) + j * bytes,
          Math.max(word(C_ROW) / bytes, n),
        );
      }
    };
  return { sgemm: product(cblas_sgemm, 4), dgemm: product(cblas_dgemm, 8) };
}
