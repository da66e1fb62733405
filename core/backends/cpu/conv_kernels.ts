/**
 * Convolution and its transposes of two-dimensional images as WebAssembly: matrix products with
 * `columns [channel ky kx, oy ox]`, the input elements that meet each kernel element for each output, made for a part
 * of one image at a time in the thread's scratch buffer, so that they never leave its cache.
 */
import { FunctionBuilder, type Local, type ModuleBuilder } from "./assembler.ts";
import type { NativeProductName } from "./blas.ts";
import {
  addProduct,
  type GemmType,
  type Lanes,
  lanesOf,
  PRODUCT_SCRATCH_BYTES,
  ROWS,
  storeSome,
  ZERO,
} from "./gemm_kernels.ts";
import { addInnerProduct, INNER_ROWS } from "./inner_kernels.ts";
import { PRODUCT_WORDS, type ProductWord } from "./product_words.ts";
import { type Term, termsOf } from "./terms.ts";
import { SCRATCH_BYTES } from "./threads.ts";

/**
 * Words of the argument block: where the three arrays are, and a block of a product with what all parts share; sizes,
 * per group, in elements; the parts of the work: `part` channels and `band` rows of the output at once, and `share`
 * images summed for one partial kernel. `isPointwise`: the columns are the image itself.
 */
export const CONV_WORDS = [
  "input",
  "kernel",
  "output",
  "template",
  "images",
  "groups",
  "channels",
  "outs",
  "height",
  "width",
  "kernelHeight",
  "kernelWidth",
  "outHeight",
  "outWidth",
  "strideY",
  "strideX",
  "dilationY",
  "dilationX",
  "inputDilationY",
  "inputDilationX",
  "lowY",
  "lowX",
  "part",
  "parts",
  "band",
  "bands",
  "share",
  "isPointwise",
] as const;
export type ConvWord = (typeof CONV_WORDS)[number];

/** Of the columns of one part; scratch also has what a product needs, its arguments, and room for what is written too much. */
export const COLUMN_BYTES: number = SCRATCH_BYTES - PRODUCT_SCRATCH_BYTES - 512;
const BLOCK: number = PRODUCT_SCRATCH_BYTES;
const COLUMNS: number = BLOCK + 256;

export type ConvRole = "input" | "kernel" | "output";

// The parameters of a kernel.
const BEGIN: Local = 0;
const END: Local = 1;
const ARGS: Local = 2;
const SCRATCH: Local = 3;

/** Words by name, loaded when they are used. */
const wordsAt =
  (f: FunctionBuilder, args: Local) =>
  (name: ConvWord): Term =>
    termsOf(f).load(args, 4 * CONV_WORDS.indexOf(name));

// --- columns -----------------------------------------------------------------------------------------------------

/**
 * Between the columns and an image: (args, image, columns, channels, first, rows) for output rows
 * [first, first + rows). Fills the columns, or adds them to the image. May write up to 64 bytes after the columns.
 */
function moveColumns(t: Lanes, fills: boolean): FunctionBuilder {
  const f = new FunctionBuilder(["i32", "i32", "i32", "i32", "i32", "i32"]);
  const [args, image, columns, channels, first, rows] = [0, 1, 2, 3, 4, 5];
  const { push, set, advance, plus, minus, times, over, smaller, larger, less, equal, both } = termsOf(f);
  const { constant, when, each, locals } = termsOf(f);
  const word = wordsAt(f, args);
  const { c, ky, kx, row, ox, x, y, left, right, top, bottom, line, step, p, q } = locals(
    ...(["c", "ky", "kx", "row", "ox", "x", "y", "left", "right", "top", "bottom"] as const),
    ...(["line", "step", "p", "q"] as const),
  );
  const { width, outWidth, stride, dilation, outLine, last } = locals(
    ...(["width", "outWidth", "stride", "dilation", "outLine", "last"] as const),
  );
  const scaled = (n: Term): Term => times(n, constant(t.bytes));
  const one = constant(1);
  const zero = constant(0);
  /** Zeros from one column to another, and perhaps beyond: what comes after is written later. */
  const clear = (from: Term, to: Term): void =>
    each(ox, from, to, t.lanes, () => {
      push(plus(columns, scaled(ox)))
        .v128(ZERO)
        .simdMemory("v128.store");
    });
  /** One element, of the columns at p and of the image at q. */
  const moveOne = (): void => {
    if (fills) f.get(p).get(q).memory(t.load).memory(t.store);
    else f.get(q).get(p).memory(t.load).get(q).memory(t.load).op(t.addOne).memory(t.store);
  };
  const moveVectors = (n: number): void => {
    for (let v = 0; v < 16 * n; v += 16) {
      if (fills) f.get(p).get(q).simdMemory("v128.load", v);
      else f.get(q).get(p).simdMemory("v128.load", v).get(q).simdMemory("v128.load", v).simd(t.add);
      f.simdMemory("v128.store", v);
    }
    advance(p, constant(16 * n));
    advance(q, constant(16 * n));
  };
  /** Columns [left, right) of one row; `line` is the image's row, from which column x meets column 0. */
  const moveLine = (): void => {
    set(p, plus(columns, scaled(left)));
    set(q, plus(line, scaled(plus(times(left, stride), x))));
    set(ox, left);
    when(equal(stride, one), () => {
      // Four vectors at a time when there is no harm in too much; else what there is.
      if (fills) each(ox, ox, right, 4 * t.lanes, () => moveVectors(4));
      else each(ox, ox, minus(right, constant(t.lanes - 1)), t.lanes, () => moveVectors(1));
    });
    each(ox, ox, right, 1, () => {
      moveOne();
      advance(p, constant(t.bytes));
      advance(q, scaled(stride));
    });
  };
  /** The same where input elements are apart: most columns meet a zero between two of them. */
  const moveSparseLine = (): void => {
    if (fills) clear(zero, outWidth);
    each(ox, zero, outWidth, 1, () => {
      set(q, plus(times(ox, stride), x));
      set(p, over(q, dilation));
      push(p).get(width).op("i32.lt_u");
      push(equal(times(p, dilation), q))
        .op("i32.and")
        .when(() => {
          set(q, plus(line, scaled(p)));
          set(p, plus(columns, scaled(ox)));
          moveOne();
        });
    });
  };
  /**
   * The outputs [from, to) that meet an input inside: position + output * stride in [0, size), where input elements
   * are neighbours; all of them where they are apart.
   */
  const range = (
    from: Local,
    to: Local,
    position: Local,
    by: Term,
    size: Term,
    outs: Term,
    apart: Term,
  ): void => {
    set(from, zero);
    set(to, outs);
    when(equal(apart, one), () => {
      when(less(position, zero), () => set(from, smaller(outs, over(minus(minus(by, one), position), by))));
      set(to, zero);
      when(less(position, size), () =>
        set(to, smaller(outs, plus(over(minus(minus(size, one), position), by), one))),
      );
      set(to, larger(from, to));
    });
  };
  set(width, word("width"));
  set(outWidth, word("outWidth"));
  set(outLine, scaled(outWidth));
  set(stride, word("strideX"));
  set(dilation, word("inputDilationX"));
  set(last, plus(first, rows));
  const isDense = both(equal(dilation, one), equal(word("inputDilationY"), one));
  each(c, zero, channels, 1, () => {
    each(ky, zero, word("kernelHeight"), 1, () => {
      set(y, minus(times(ky, word("dilationY")), word("lowY")));
      range(top, bottom, y, word("strideY"), word("height"), word("outHeight"), word("inputDilationY"));
      set(top, smaller(larger(top, first), last));
      set(bottom, larger(smaller(bottom, last), top));
      each(kx, zero, word("kernelWidth"), 1, () => {
        set(x, minus(times(kx, word("dilationX")), word("lowX")));
        range(left, right, x, stride, width, outWidth, dilation);
        const clearRows = (from: Term, to: Term): void => {
          if (fills) clear(zero, times(minus(to, from), outWidth));
          advance(columns, times(minus(to, from), outLine));
        };
        clearRows(first, top);
        when(
          isDense,
          () => {
            set(step, scaled(times(word("strideY"), width)));
            set(line, plus(image, scaled(times(plus(y, times(top, word("strideY"))), width))));
            each(row, top, bottom, 1, () => {
              if (fills) clear(zero, left);
              moveLine();
              if (fills) clear(right, outWidth);
              advance(columns, outLine);
              advance(line, step);
            });
          },
          () =>
            each(row, top, bottom, 1, () => {
              // An input row between two elements is as if outside.
              set(p, plus(y, times(row, word("strideY"))));
              set(line, over(p, word("inputDilationY")));
              push(line);
              push(word("height")).op("i32.lt_u");
              push(equal(times(line, word("inputDilationY")), p))
                .op("i32.and")
                .when(
                  () => {
                    set(line, plus(image, scaled(times(line, width))));
                    moveSparseLine();
                  },
                  fills ? () => clear(zero, outWidth) : undefined,
                );
              advance(columns, outLine);
            }),
        );
        clearRows(bottom, last);
      });
    });
    advance(image, scaled(times(width, word("height"))));
  });
  return f;
}

// --- the three members -------------------------------------------------------------------------------------------

/** What multiplies: the kernels of gemm_kernels.ts or inner_kernels.ts, or a library. */
export type Multiplier = "packed" | "inner" | NativeProductName;

/** Adds the kernel that returns a role to a module, under a name. */
export function addConv(
  module: ModuleBuilder,
  name: string,
  role: ConvRole,
  dtype: GemmType,
  fused: boolean,
  multiplier: Multiplier,
): void {
  const t = lanesOf[dtype];
  const isNative = multiplier === "sgemm" || multiplier === "dgemm";
  const own = multiplier === "inner" ? addInnerProduct : addProduct;
  const product = isNative
    ? module.importFunction(multiplier, ["i32", "i32", "i32", "i32"], [])
    : own(module, "product", dtype, fused);
  const tall = isNative ? null : multiplier === "inner" ? INNER_ROWS : ROWS;
  const move = module.add("moveColumns", moveColumns(t, role !== "input"));
  module.add(name, members[role](t, { product, move, tall }));
}

interface Parts {
  readonly product: number;
  readonly move: number;
  /** Rows of a panel of the product; null = all of them. */
  readonly tall: number | null;
}

/** What the three members share: positions of an image and group, columns, and products with them. */
function memberOf(f: FunctionBuilder, t: Lanes, { product, move, tall }: Parts) {
  const terms = termsOf(f);
  const { push, set, plus, minus, times, over, smaller, constant, locals } = terms;
  const word = wordsAt(f, ARGS);
  const { block, columns, rest, place, chunk, c0, some, first, rows, cells, taps, units, m, n } = locals(
    ...(["block", "columns", "rest", "place", "chunk", "c0", "some", "first"] as const),
    ...(["rows", "cells", "taps", "units", "m", "n"] as const),
  );
  const put = (name: ProductWord, value: Term): void => {
    f.get(block);
    push(value).memory("i32.store", 4 * PRODUCT_WORDS.indexOf(name));
  };
  const bytes = (elements: Term): Term => times(elements, constant(t.bytes));
  const area = (): Term => times(word("height"), word("width"));
  const outArea = (): Term => times(word("outHeight"), word("outWidth"));
  return {
    ...terms,
    word,
    put,
    bytes,
    area,
    outArea,
    ...{ columns, rest, place, chunk, c0, some, first, rows, cells, taps },
    begin(): void {
      set(block, plus(SCRATCH, constant(BLOCK)));
      set(columns, plus(SCRATCH, constant(COLUMNS)));
      set(taps, times(word("kernelHeight"), word("kernelWidth")));
      f.get(block);
      push(word("template"))
        .i32(4 * PRODUCT_WORDS.length)
        .memoryCopy();
    },
    /** Channels [c0, c0 + some) of part `chunk`. */
    takePart(): void {
      set(c0, times(chunk, word("part")));
      set(some, smaller(word("part"), minus(word("channels"), c0)));
    },
    /** Output rows [first, first + rows) of a band. */
    takeBand(band: Term): void {
      set(first, times(band, word("band")));
      set(rows, smaller(word("band"), minus(word("outHeight"), first)));
      set(cells, times(rows, word("outWidth")));
    },
    /** The first channel of the part, of image and group number `place`. */
    imageAt: (): Term => plus(word("input"), bytes(times(plus(times(place, word("channels")), c0), area()))),
    /** The first output of the band, of image and group number `place`. */
    outputAt: (): Term =>
      plus(
        word("output"),
        bytes(plus(times(times(place, word("outs")), outArea()), times(first, word("outWidth")))),
      ),
    /** The first kernel element of the part, of group `group`. */
    kernelAt: (group: Term): Term =>
      plus(word("kernel"), bytes(times(plus(times(times(group, word("outs")), word("channels")), c0), taps))),
    moveColumns(image: Term): void {
      for (const x of [ARGS, image, columns, some, first, rows]) push(x);
      f.call(move);
    },
    multiply(rowsOfC: Term, columnsOfC: Term, k: Term): void {
      set(m, rowsOfC);
      set(n, columnsOfC);
      put("m", m);
      put("n", n);
      put("k", k);
      const up = (a: Term, b: Term): Term => over(minus(plus(a, b), constant(1)), b);
      const wide = terms.load(block, 4 * PRODUCT_WORDS.indexOf("wide"));
      set(units, tall === null ? constant(1) : up(m, constant(tall)));
      if (tall === null) put("tall", m);
      put("panels", units);
      set(units, times(units, up(n, wide)));
      put("units", units);
      f.i32(0).get(units);
      f.get(block).get(SCRATCH).call(product);
    },
  };
}

type Member = (t: Lanes, parts: Parts) => FunctionBuilder;

/** output [out, t] = kernel [out, in k] columns; a unit is a band of an image and group. */
const outputMember: Member = (t, parts) => {
  const f = new FunctionBuilder(["i32", "i32", "i32", "i32"]);
  const x = memberOf(f, t, parts);
  const { word, put, bytes, set, constant, plus, minus, times, over, less, when, each } = x;
  const { unit, group } = x.locals("unit", "group");
  x.begin();
  each(unit, BEGIN, END, 1, () => {
    set(x.place, over(unit, word("bands")));
    set(group, minus(x.place, times(over(x.place, word("groups")), word("groups"))));
    x.takeBand(minus(unit, times(x.place, word("bands"))));
    put("c", x.outputAt());
    each(x.chunk, constant(0), word("parts"), 1, () => {
      x.takePart();
      put("a", x.kernelAt(group));
      put("more", less(constant(0), x.chunk));
      when(
        word("isPointwise"),
        () => {
          put("b", plus(x.imageAt(), bytes(times(x.first, word("width")))));
          put("bRow", bytes(x.area()));
        },
        () => {
          x.moveColumns(x.imageAt());
          put("b", x.columns);
          put("bRow", bytes(x.cells));
        },
      );
      x.multiply(word("outs"), x.cells, times(x.some, x.taps));
    });
  });
  return f;
};

/** columns = kernel^T output, then input += columns at their places; a unit is a part of an image and group. */
const inputMember: Member = (t, parts) => {
  const f = new FunctionBuilder(["i32", "i32", "i32", "i32"]);
  const x = memberOf(f, t, parts);
  const { word, put, bytes, push, set, constant, plus, minus, times, over, when, each } = x;
  const { unit, group, band } = x.locals("unit", "group", "band");
  x.begin();
  each(unit, BEGIN, END, 1, () => {
    set(x.place, over(unit, word("parts")));
    set(x.chunk, minus(unit, times(x.place, word("parts"))));
    set(group, minus(x.place, times(over(x.place, word("groups")), word("groups"))));
    x.takePart();
    put("a", x.kernelAt(group));
    when(minus(constant(1), word("isPointwise")), () => {
      push(x.imageAt()).i32(0);
      push(bytes(times(x.some, x.area()))).memoryFill();
    });
    each(band, constant(0), word("bands"), 1, () => {
      x.takeBand(band);
      put("b", x.outputAt());
      when(
        word("isPointwise"),
        () => {
          put("c", plus(x.imageAt(), bytes(times(x.first, word("width")))));
          put("cRow", bytes(x.area()));
        },
        () => {
          put("c", x.columns);
          put("cRow", bytes(x.cells));
        },
      );
      x.multiply(times(x.some, x.taps), x.cells, word("outs"));
      when(minus(constant(1), word("isPointwise")), () => x.moveColumns(x.imageAt()));
    });
  });
  return f;
};

/** kernel [out, in k] += output [out, t] columns^T; a unit is a part of a group, summed over a share of the images. */
const kernelMember: Member = (t, parts) => {
  const f = new FunctionBuilder(["i32", "i32", "i32", "i32"]);
  const x = memberOf(f, t, parts);
  const { word, put, bytes, set, constant, plus, minus, times, over, smaller, when, each } = x;
  const { unit, slot, group, band, image, last, more } = x.locals(
    ...(["unit", "slot", "group", "band", "image", "last", "more"] as const),
  );
  x.begin();
  each(unit, BEGIN, END, 1, () => {
    // unit = (share, group, part); partial kernels follow each other.
    set(slot, over(unit, word("parts")));
    set(x.chunk, minus(unit, times(slot, word("parts"))));
    set(image, over(slot, word("groups")));
    set(group, minus(slot, times(image, word("groups"))));
    x.takePart();
    put("c", x.kernelAt(slot));
    set(image, times(image, word("share")));
    set(last, smaller(word("images"), plus(image, word("share"))));
    set(more, constant(0));
    each(image, image, last, 1, () => {
      set(x.place, plus(times(image, word("groups")), group));
      each(band, constant(0), word("bands"), 1, () => {
        x.takeBand(band);
        put("a", x.outputAt());
        when(
          word("isPointwise"),
          () => {
            put("b", plus(x.imageAt(), bytes(times(x.first, word("width")))));
            put("bColumn", bytes(x.area()));
          },
          () => {
            x.moveColumns(x.imageAt());
            put("b", x.columns);
            put("bColumn", bytes(x.cells));
          },
        );
        put("more", more);
        x.multiply(word("outs"), times(x.some, x.taps), x.cells);
        set(more, constant(1));
      });
    });
  });
  return f;
};

const members: Readonly<Record<ConvRole, Member>> = {
  output: outputMember,
  input: inputMember,
  kernel: kernelMember,
};

// --- partial sums ------------------------------------------------------------------------------------------------

/** Words of `sumOfParts`: to[i] = sum over p of from[p size + i]. */
export const SUM_WORDS = ["from", "to", "size", "count"] as const;

/** Sums partial results in their order; a unit is one vector. */
export function sumOfParts(dtype: GemmType): FunctionBuilder {
  const t = lanesOf[dtype];
  const f = new FunctionBuilder(["i32", "i32", "i32", "i32"]);
  const { set, advance, plus, minus, times, less, constant, when, each, load, locals } = termsOf(f);
  const { unit, i, p, q, left } = locals("unit", "i", "p", "q", "left");
  const sum = f.local("v128");
  const [from, to, size, parts] = SUM_WORDS.map((_, w) => load(ARGS, 4 * w)) as [Term, Term, Term, Term];
  each(unit, BEGIN, END, 1, () => {
    set(p, plus(from, times(unit, constant(16))));
    set(q, plus(to, times(unit, constant(16))));
    f.get(p).simdMemory("v128.load").set(sum);
    each(i, constant(1), parts, 1, () => {
      advance(p, times(size, constant(t.bytes)));
      f.get(sum).get(p).simdMemory("v128.load").simd(t.add).set(sum);
    });
    set(left, minus(size, times(unit, constant(t.lanes))));
    when(
      less(left, constant(t.lanes)),
      () => storeSome(f, t, q, 0, left, sum),
      () => f.get(q).get(sum).simdMemory("v128.store"),
    );
  });
  return f;
}
