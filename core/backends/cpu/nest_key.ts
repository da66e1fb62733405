/**
 * What a nest depends on, as text: steps with the same text become the same function and the same argument block, only
 * with other buffers. The loops of a long chain, the layers of a network and the updates of its parameters have few texts.
 */
import type { Expr, ScalarFunction } from "../../expr.ts";
import type { LoopStep, Slot } from "../../passes/fuse.ts";
import { type Access, accessesOf } from "./nest_shapes.ts";

/** The buffers of a step, each once: a nest knows them by their numbers. */
export function buffersOf(step: LoopStep): readonly Slot[] {
  return [...new Set(accessesOf(step).map(({ slot }) => slot))];
}

/** The text of a step; functions of the host have a number each. */
export function keyOf(step: LoopStep, identity: (scalar: ScalarFunction) => number): string {
  const { shape, reduced, loads, stores, reductions, values } = step;
  const buffers = new Map(buffersOf(step).map((slot, i) => [slot, i]));
  const graph = new Graph(identity);
  const access = ({ expr, level, slot, layout }: Access): string =>
    `${level} ${graph.number(expr)} ${buffers.get(slot)} ${slot.aval.dtype} ${layout.offset} ${layout.strides}`;
  const lists = [
    loads.map(access),
    stores.map(access),
    reductions.map(({ join, arg, result }) => `${join} ${graph.number(arg)} ${graph.number(result)}`),
    values.map(({ expr, level }) => `${level} ${graph.number(expr)}`),
  ];
  return `${shape};${reduced};${lists.map((list) => list.join(",")).join(";")};${graph.text()}`;
}

/** Operations and types as bytes, in the order in which they are first met. */
const codes = new Map<string, number>();

function codeOf(word: string): number {
  const known = codes.get(word) ?? codes.size;
  codes.set(word, known);
  return known;
}

const latin = new TextDecoder("latin1");
const float = new Float64Array(1);
const floatBytes = new Uint8Array(float.buffer);
/** Bytes that a node takes at most, beside its arguments. */
const LARGEST = 16;

/** Expressions with their nodes numbered in the order in which they are left, and written in this order. */
class Graph {
  readonly #identity: (scalar: ScalarFunction) => number;
  readonly #numbers = new Map<Expr, number>();
  /** Inputs are the same wherever they have the same number. */
  readonly #inputs = new Map<number, number>();
  // Bytes, not text: a loop may have ten thousands of nodes.
  #bytes = new Uint8Array(1024);
  #length = 0;

  constructor(identity: (scalar: ScalarFunction) => number) {
    this.#identity = identity;
  }

  /** The nodes: those of one text are equal, number by number. */
  text(): string {
    return latin.decode(this.#bytes.subarray(0, this.#length));
  }

  number(e: Expr): number {
    const known = this.#numbers.get(e) ?? (e.op === "input" ? this.#inputs.get(e.value) : undefined);
    if (known !== undefined) return known;
    for (const arg of e.args) this.number(arg);
    const number = this.#numbers.size;
    this.#numbers.set(e, number);
    if (e.op === "input") this.#inputs.set(e.value, number);
    this.#write(e, number);
    return number;
  }

  #write({ op, type, args, value, scalar }: Expr, number: number): void {
    const needed = this.#length + LARGEST + 5 * args.length;
    if (needed > this.#bytes.length) {
      const longer = new Uint8Array(2 * needed);
      longer.set(this.#bytes);
      this.#bytes = longer;
    }
    this.#bytes[this.#length++] = codeOf(op);
    this.#bytes[this.#length++] = codeOf(type);
    for (const arg of args) this.#integer(number - this.number(arg));
    if (scalar !== null) this.#integer(this.#identity(scalar));
    if (op === "const" || op === "shl" || op === "shr") {
      float[0] = value;
      this.#bytes.set(floatBytes, this.#length);
      this.#length += 8;
    }
  }

  /** Seven bits to a byte: most arguments are near. */
  #integer(value: number): void {
    for (; value > 127; value >>>= 7) this.#bytes[this.#length++] = 128 | (value & 127);
    this.#bytes[this.#length++] = value;
  }
}
