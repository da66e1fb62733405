/**
 * Pooling: every element of a result looks for what it is made of, in row-major order, so that the first of equal
 * elements is found and sums are the same every time.
 */
import type { Layout } from "../../kernel.ts";
import type { CallStep } from "../../passes/fuse.ts";
import { type Shape, sizeOf, stridesOf } from "../../shape.ts";
import { type BufferRef, type Capabilities, type Dispatch, type NamedKernel, Workspace } from "./kernel.ts";
import { longSum } from "./long_sums.ts";
import { Buffers } from "./loops_access.ts";
import {
  binding,
  elementIndex,
  groupsFor,
  lineSize,
  mainHead,
  numberType,
  SPECIALS,
  stridedIndex,
  WORD_BYTES,
  word,
} from "./wgsl.ts";

/** The parameters of the records: windows over the last axes. */
interface PoolParams {
  readonly window: readonly number[];
  readonly strides: readonly number[];
  readonly padding: readonly (readonly [lo: number, hi: number])[];
}

type Word = "f32" | "i32" | "u32";

/** The axes before the pooled ones, and these. */
function split({ shape, offset, strides }: Layout, pooled: number): { lead: Layout; block: Layout } {
  const at = shape.length - pooled;
  return {
    lead: { shape: shape.slice(0, at), offset, strides: strides.slice(0, at) },
    block: { shape: shape.slice(at), offset: 0, strides: strides.slice(at) },
  };
}

/** A shader with one invocation for each of `units`, which is `unit`. */
function dispatchOf(
  { prim }: CallStep,
  units: number,
  gpu: Capabilities,
  {
    head,
    body,
    buffers,
  }: { readonly head: string; readonly body: string; readonly buffers: readonly BufferRef[] },
): Dispatch {
  const size = lineSize(gpu);
  const groups = groupsFor(units, size, gpu);
  const code = `${head}
${mainHead(units, size, groups)}
${body}
}
`;
  return { label: prim.name, code, buffers, groups, operations: 0 };
}

/** Names the indices `u0`, `u1` ... of element `unit` along axes of the given sizes, and `lead`, that of those before. */
function indicesText(sizes: Shape): string {
  const lines = sizes.map((size, a) => {
    const below = sizeOf(sizes.slice(a + 1));
    return `let u${a} = unit / ${word(below)} % ${word(size)};`;
  });
  return [...lines, `let lead = unit / ${word(sizeOf(sizes))};`].join("\n");
}

// --- windows -----------------------------------------------------------------------------------------------------

/** Along an axis: places from the expression `begin` to before `end`, at most `most` of them. */
interface Range {
  readonly begin: string;
  readonly end: string;
  readonly most: number;
}

/** How windows lie along an axis of `size` elements. */
interface Axis {
  readonly size: number;
  readonly count: number;
  readonly window: number;
  readonly stride: number;
  readonly low: number;
}

function axesOf({ window, strides, padding }: PoolParams, sizes: Shape, counts: Shape): Axis[] {
  return window.map((length, a): Axis => {
    return {
      ...{ size: sizes[a]!, count: counts[a]!, window: length },
      ...{ stride: strides[a]!, low: padding[a]![0] },
    };
  });
}

/** The elements of window u: from u stride - low on, as far as they are not padding. */
function elementsOf({ size, count, window, stride, low }: Axis, u: string): Range {
  const start = `${u} * ${word(stride)}`;
  const after = (n: number): string => (n === 0 ? start : `${start} + ${word(n)}`);
  const end = window >= low ? after(window - low) : `max(${after(window)}, ${word(low)}) - ${word(low)}`;
  const isInside = (count - 1) * stride + window - low <= size;
  return {
    begin: low === 0 ? start : `max(${start}, ${word(low)}) - ${word(low)}`,
    end: isInside ? end : `min(${end}, ${word(size)})`,
    most: window,
  };
}

/** The windows t that hold element u: 0 <= u + low - t stride < window. */
function windowsOf({ count, window, stride, low }: Axis, u: string): Range {
  const place = `(${u} + ${word(low)})`;
  const missing = word(window - 1);
  return {
    begin: `(max(${place}, ${missing}) - ${missing} + ${word(stride - 1)}) / ${word(stride)}`,
    end: `min(${place} / ${word(stride)} + 1u, ${word(count)})`,
    most: Math.ceil(window / stride),
  };
}

/** Loops over the places `p0`, `p1` ... of all ranges but the last, with `inner` within them. */
function nested(
  ranges: readonly Range[],
  inner: string,
  around: (body: string, axis: number) => string = (body) => body,
): string {
  return ranges.slice(0, -1).reduceRight((body, { begin, end }, a) => {
    return `let end${a} = ${end};
for (var p${a} = ${begin}; p${a} < end${a}; p${a}++) {
${around(body, a)}
}`;
  }, inner);
}

/** The sum of what is at all places, in `all0`: a sum of planes, which are sums of rows, which are long sums. */
function sumText(type: Word, ranges: readonly Range[], element: string): string {
  const last = ranges.length - 1;
  const { begin, end, most } = ranges[last]!;
  const row = longSum(
    type,
    { first: "first", end: "end", step: 1, most },
    (sum) => `let p${last} = k;\n${sum} += ${element};`,
  );
  const inner = `let first = ${begin};
let end = ${end};
${row.text}
all${last} += ${row.total};`;
  const body = nested(
    ranges,
    inner,
    (text, a) => `var all${a + 1} = ${type}();\n${text}\nall${a} += all${a + 1};`,
  );
  return `var all0 = ${type}();\n${body}`;
}

/** The largest element in `best`, its place in `place`: the first of equals, NaN above all. */
function maxText(type: Word, ranges: readonly Range[], element: string, sizes: Shape): string {
  const last = ranges.length - 1;
  const at = stridedIndex(
    ranges.map((_, a) => `p${a}`),
    stridesOf(sizes),
  );
  const isMore = type === "f32" ? "!isNan(best) && (isNan(value) || value > best)" : "value > best";
  const { begin, end } = ranges[last]!;
  const inner = `let end${last} = ${end};
for (var p${last} = ${begin}; p${last} < end${last}; p${last}++) {
let value = ${element};
if (isFirst || (${isMore})) { best = value; place = ${at}; isFirst = false; }
}`;
  return `var best = ${type}();
var place = 0u;
var isFirst = true;
${nested(ranges, inner)}`;
}

type Pooling = "max" | "index" | "sum" | "transposed sum";

function pooling(kind: Pooling): NamedKernel {
  return {
    prepare([x]) {
      const { dtype } = x!.aval;
      return dtype === "float32" || dtype === "int32" || dtype === "uint32" ? [false] : null;
    },
    dispatches(step, gpu) {
      const { args, outs, params } = step;
      const [{ slot, layout }] = args as [CallStep["args"][0]];
      const [out] = outs;
      if (out!.aval.size === 0) return [];
      const pool = params as PoolParams; // The record's own.
      const { lead, block } = split(layout, pool.window.length);
      const places = out!.aval.shape.slice(-pool.window.length);
      const isTransposed = kind === "transposed sum";
      const axes = isTransposed ? axesOf(pool, places, block.shape) : axesOf(pool, block.shape, places);
      const ranges = axes.map((axis, a) => (isTransposed ? windowsOf : elementsOf)(axis, `u${a}`));
      const type = numberType(slot.aval.dtype);
      const at = stridedIndex(
        ranges.map((_, a) => `p${a}`),
        block.strides,
      );
      const element = `x[base + ${at}]`;
      const isSum = kind === "sum" || isTransposed;
      const text = isSum ? sumText(type, ranges, element) : maxText(type, ranges, element, block.shape);
      const result = isSum ? "all0" : kind === "max" ? "best" : "bitcast<i32>(place)";
      return [
        dispatchOf(step, out!.aval.size, gpu, {
          head: `${binding(0, "x", type)}
${binding(1, "result", kind === "index" ? "i32" : type, "read_write")}
${!isSum && type === "f32" ? SPECIALS : ""}`,
          body: `${indicesText(places)}
let base = ${elementIndex(lead, "lead")};
${text}
result[unit] = ${result};`,
          buffers: [slot, out!],
        }),
      ];
    },
  };
}

/** A result of sums of nothing. */
function zeros(step: CallStep, gpu: Capabilities): Dispatch {
  const [out] = step.outs;
  return dispatchOf(step, out!.aval.size, gpu, {
    head: binding(0, "result", "u32", "read_write"),
    body: "result[unit] = 0u;",
    buffers: [out!],
  });
}

// --- elements at the places of maxima ----------------------------------------------------------------------------

const poolGather: NamedKernel = {
  prepare: ([x]) => (x!.aval.dtype === "float64" ? null : [false, false]),
  dispatches(step, gpu) {
    const { args, outs, params } = step;
    const [x, index] = args as [CallStep["args"][0], CallStep["args"][0]];
    const [out] = outs;
    if (out!.aval.size === 0) return [];
    const { axes } = params as { readonly axes: number }; // The record's own.
    const { lead, block } = split(x.layout, axes);
    const cells = sizeOf(block.shape);
    if (cells === 0) return [zeros(step, gpu)];
    const run = sizeOf(index.layout.shape.slice(-axes));
    const buffers = new Buffers(new Set(), "b", 1);
    const from = buffers.word(index.slot, elementIndex(index.layout, "unit"));
    const value = buffers.word(x.slot, `(${elementIndex(lead, "lead")} + ${elementIndex(block, "place")})`);
    // A negative index wraps around and is beyond the last.
    return [
      dispatchOf(step, out!.aval.size, gpu, {
        head: `${binding(0, "result", "u32", "read_write")}
${buffers.declarations()}`,
        body: `let lead = unit / ${word(run)};
let place = ${from};
var value = 0u;
if (place < ${word(cells)}) { value = ${value}; }
result[unit] = value;`,
        buffers: [out!, ...buffers.refs],
      }),
    ];
  },
};

/** Elements of a chain up to here are put in order by looking for the next one again and again. */
const SHORT_CHAIN = 32;

/**
 * The elements that go to one place are a chain: the place knows the last that joined, and each the one before it. In
 * what order they joined is chance, so they are added by position. Numbers begin at 1; 0 ends a chain.
 */
const poolScatter: NamedKernel = {
  prepare([y]) {
    const { dtype } = y!.aval;
    return dtype === "float32" || dtype === "int32" || dtype === "uint32" ? [false, false] : null;
  },
  dispatches(step, gpu) {
    const { args, outs, params } = step;
    const [y, index] = args as [CallStep["args"][0], CallStep["args"][0]];
    const [out] = outs;
    const { size } = out!.aval;
    if (size === 0) return [];
    const cells = sizeOf((params as { readonly sizes: Shape }).sizes); // The record's own.
    const joining = sizeOf(y.layout.shape);
    if (joining === 0) return [zeros(step, gpu)];
    const run = joining / (size / cells);
    const type = numberType(out!.aval.dtype);
    const heads = new Workspace(size * WORD_BYTES);
    const chain = new Workspace(joining * WORD_BYTES);

    const clear = dispatchOf(step, size, gpu, {
      head: binding(0, "heads", "u32", "read_write"),
      body: "heads[unit] = 0u;",
      buffers: [heads],
    });
    const indices = new Buffers(new Set(), "b", 2);
    const place = indices.word(index.slot, elementIndex(index.layout, "unit"));
    const join = dispatchOf(step, joining, gpu, {
      head: `${binding(0, "heads", "atomic<u32>", "read_write")}
${binding(1, "chain", "u32", "read_write")}
${indices.declarations()}`,
      body: `let place = ${place};
if (place < ${word(cells)}) {
chain[unit] = atomicExchange(&heads[unit / ${word(run)} * ${word(cells)} + place], unit + 1u);
}`,
      buffers: [heads, chain, ...indices.refs],
    });

    const buffers = new Buffers(new Set(), "b", 3);
    const value = buffers.word(y.slot, elementIndex(y.layout, "position"));
    const other = buffers.word(index.slot, elementIndex(index.layout, "position"));
    const all = longSum(
      type,
      { first: "first", end: `(first + ${word(run)})`, step: 1, most: run },
      (sum) => `if (placeAt(k) == place) { ${sum} += valueAt(k); }`,
    );
    const add = dispatchOf(step, size, gpu, {
      head: `${binding(0, "result", type, "read_write")}
${binding(1, "heads", "u32")}
${binding(2, "chain", "u32")}
${buffers.declarations()}
fn valueAt(position: u32) -> ${type} { return bitcast<${type}>(${value}); }
fn placeAt(position: u32) -> u32 { return ${other}; }`,
      body: `let head = heads[unit];
var length = 0u;
for (var at = head; at != 0u && length <= ${word(SHORT_CHAIN)}; at = chain[at - 1u]) { length++; }
var sum = ${type}();
if (length <= ${word(SHORT_CHAIN)}) {
var last = 0u;
for (var i = 0u; i < length; i++) {
var next = 0xffffffffu;
for (var at = head; at != 0u; at = chain[at - 1u]) { if (at > last) { next = min(next, at); } }
sum += valueAt(next - 1u);
last = next;
}
} else {
let place = unit % ${word(cells)};
let first = unit / ${word(cells)} * ${word(run)};
${all.text}
sum = ${all.total};
}
result[unit] = sum;`,
      buffers: [out!, heads, chain, ...buffers.refs],
    });
    return [clear, join, add];
  },
};

export const poolingKernels: ReadonlyMap<string, NamedKernel> = new Map([
  ["maxPool", pooling("max")],
  ["maxPoolIndex", pooling("index")],
  ["sumPool", pooling("sum")],
  ["sumPoolTranspose", pooling("transposed sum")],
  ["poolGather", poolGather],
  ["poolScatter", poolScatter],
]);
