/**
 * Native factorizations: the LAPACK that a BLAS library brings along, called on copies of the operands.
 *
 * The library runs one thread (see blas.ts), so results do not depend on the number of threads. With two threads of
 * OpenBLAS 0.3.21 eigh takes 0.9 to 1.6 times as long from 64 to 1024, on two cores with other work.
 */
import type { NativeFactors } from "../../factor.ts";
import { findBlas, tryOpen } from "./blas.ts";
import { type ForeignHost, type ForeignLibrary, foreignHost, type Signature } from "./foreign.ts";

/**
 * Fortran: every argument is an address, and after them come, by value, the lengths of those that are text. Libraries
 * that were not compiled from Fortran do not look at the lengths.
 */
const routine = (args: number, texts: number): Signature => ({
  args: new Array<"address">(args + texts).fill("address"),
  result: "void",
});

const ROUTINES = {
  dsyevd_: routine(11, 2), // eigenvalues and vectors, divide and conquer
  dpotrf_: routine(5, 1), // Cholesky
  dgetrf_: routine(6, 0), // L U with pivots
  dgetrs_: routine(9, 1), // what is solved with them
  dtrtrs_: routine(10, 3), // triangular systems
  dgeqrf_: routine(8, 0), // Q R, Q as reflections
  dorgqr_: routine(9, 0), // the columns of that Q
} as const satisfies Readonly<Record<string, Signature>>;
type Routine = keyof typeof ROUTINES;

let found: NativeFactors | null | undefined;

/**
 * The factorizations of the library that products use; null where there is none, or it has products only (BLIS).
 *
 * @throws {Error} if `COTANGENT_BLAS` names a library that cannot be used
 */
export function findLapack(): NativeFactors | null {
  if (found !== undefined) return found;
  const blas = findBlas();
  const host = foreignHost();
  const library =
    typeof blas === "string" || typeof host === "string" ? null : tryOpen(host, blas.path, ROUTINES);
  found = library === null ? null : factorsOf(host as ForeignHost, library);
  return found;
}

// --- calls -------------------------------------------------------------------------------------------------------

/** Elements of 8 bytes where the library can reach them. */
interface Block {
  readonly f64: Float64Array;
  /** The same bytes: LAPACK's integers have 4 or 8 bytes, and the first 4 of 8 hold a small one. */
  readonly i32: Int32Array;
  readonly address: number;
}

const ALIGNMENT = 64;

/**
 * So many elements each. They are parts of a buffer, which does not move as a small array's own memory may; and they
 * begin where cache lines do: kernels that treat the elements before such a place apart (of OpenBLAS 0.3.21 those for
 * Prescott, Core2 and Sandybridge) give other bits for other addresses.
 */
function blocks(host: ForeignHost, ...lengths: readonly number[]): Block[] {
  const sizes = lengths.map((length) => Math.ceil((Math.max(1, length) * 8) / ALIGNMENT) * ALIGNMENT);
  const buffer = new ArrayBuffer(sizes.reduce((sum, size) => sum + size, ALIGNMENT));
  // Addresses stay below 2^53, so that numbers hold them.
  const base = Number(host.addressOf(new Uint8Array(buffer)));
  let at = (ALIGNMENT - (base % ALIGNMENT)) % ALIGNMENT;
  return lengths.map((length, i) => {
    const start = at;
    at += sizes[i]!;
    return {
      f64: new Float64Array(buffer, start, length),
      i32: new Int32Array(buffer, start, 2 * length),
      address: base + start,
    };
  });
}

/** Calls a routine with its letters, integers and blocks, in its order; whether it succeeded, as its last argument says. */
type Call = (name: Routine, letters: string, ...args: readonly (number | Block)[]) => boolean;

function callsOf(host: ForeignHost, { functions }: ForeignLibrary<Routine>): Call {
  return (name, letters, ...args) => {
    const [words] = blocks(host, letters.length + args.length + 1) as [Block];
    const word = (i: number): number => words.address + 8 * i;
    const addresses = args.map((arg, i) => {
      if (typeof arg !== "number") return arg.address;
      const at = letters.length + i;
      words.i32[2 * at] = arg;
      words.i32[2 * at + 1] = arg < 0 ? -1 : 0;
      return word(at);
    });
    const texts = Array.from(letters, (letter, i) => {
      words.i32[2 * i] = letter.charCodeAt(0);
      return word(i);
    });
    const info = letters.length + args.length;
    functions[name](...texts, ...addresses, word(info), ...texts.map(() => 1));
    return words.i32[2 * info] === 0;
  };
}

// --- factorizations ----------------------------------------------------------------------------------------------

/** LAPACK may never end on what is not finite. */
function areFinite(x: Float64Array): boolean {
  for (let i = 0; i < x.length; i++) if (!Number.isFinite(x[i]!)) return false;
  return true;
}

/**
 * LAPACK's matrices are stored by columns: it sees the transpose of ours, whose lower triangle is its upper one. Rows of
 * right sides and of eigenvectors are its columns.
 */
function factorsOf(host: ForeignHost, library: ForeignLibrary<Routine>): NativeFactors {
  const call = callsOf(host, library);

  /** The call with the work space that the routine asks for: `before`, the space, its length, and the same for integers. */
  function withSpace(
    name: Routine,
    letters: string,
    before: readonly (number | Block)[],
    kinds: 1 | 2,
  ): boolean {
    const [probe, integers] = blocks(host, 1, 1) as [Block, Block];
    if (!call(name, letters, ...before, ...[probe, -1, integers, -1].slice(0, 2 * kinds))) return false;
    const [length, count] = [probe.f64[0]!, integers.i32[0]!];
    const [space, others] = blocks(host, length, count) as [Block, Block];
    return call(name, letters, ...before, ...[space, length, others, count].slice(0, 2 * kinds));
  }

  return {
    eigen(a, n, values, rows) {
      const [matrix, w] = blocks(host, n * n, n) as [Block, Block];
      matrix.f64.set(a);
      if (!withSpace("dsyevd_", "VU", [n, matrix, n, w], 2) || !areFinite(w.f64)) return false;
      values.set(w.f64);
      rows.set(matrix.f64);
      return true;
    },

    cholesky(a, n) {
      const [matrix] = blocks(host, n * n) as [Block];
      matrix.f64.set(a);
      if (!areFinite(a) || !call("dpotrf_", "U", n, matrix, n)) return false;
      a.set(matrix.f64);
      return true;
    },

    solve(a, n, x, transpose) {
      const count = x.length / n;
      const [matrix, pivots, sides] = blocks(host, n * n, n, x.length) as [Block, Block, Block];
      matrix.f64.set(a);
      sides.f64.set(x);
      if (!areFinite(a) || !areFinite(x) || !call("dgetrf_", "", n, n, matrix, n, pivots)) return false;
      if (!call("dgetrs_", transpose ? "N" : "T", n, count, matrix, n, pivots, sides, n)) return false;
      x.set(sides.f64);
      return true;
    },

    triangle(t, n, x, { lower, transpose, unitDiagonal }) {
      const [matrix, sides] = blocks(host, n * n, x.length) as [Block, Block];
      matrix.f64.set(t);
      sides.f64.set(x);
      const letters = `${lower ? "U" : "L"}${transpose ? "N" : "T"}${unitDiagonal ? "U" : "N"}`;
      if (!areFinite(t) || !areFinite(x)) return false;
      if (!call("dtrtrs_", letters, n, x.length / n, matrix, n, sides, n)) return false;
      x.set(sides.f64);
      return true;
    },

    qr(columns, m, n, q, r) {
      const [matrix, scales] = blocks(host, m * n, n) as [Block, Block];
      matrix.f64.set(columns);
      if (!areFinite(columns) || !withSpace("dgeqrf_", "", [m, n, matrix, m, scales], 1)) return false;
      const upper = matrix.f64.slice();
      if (!withSpace("dorgqr_", "", [m, n, n, matrix, m, scales], 1)) return false;
      for (let j = 0; j < n; j++) for (let i = 0; i <= j; i++) r[i * n + j] = upper[j * m + i]!;
      q.set(matrix.f64);
      return true;
    },
  };
}
