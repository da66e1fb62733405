/**
 * Scalar expressions to WGSL. Every node is a `let` of its own: what is needed twice is computed once, and chains of any
 * length are lists of statements. WGSL leaves open what becomes of NaN and of numbers out of range; here it does not.
 */
import { DeviceError, invariant } from "../../errors.ts";
import type { Expr, ExprType } from "../../expr.ts";
import { constantOf, SPECIALS } from "./wgsl.ts";

/** Functions of WGSL that expressions call; a module declares those that it uses. */
const helpers = {
  // A driver may take x / 0 and -2^31 / -1 for errors, and so it never meets them.
  quotientOfI32: `fn quotientOfI32(x: i32, y: i32) -> i32 {
  let isSpecial = y == 0i || y == -1i;
  let whole = x / select(y, 1i, isSpecial);
  return select(whole, select(-x, 0i, y == 0i), isSpecial);
}`,
  quotientOfU32: `fn quotientOfU32(x: u32, y: u32) -> u32 {
  return select(x / select(y, 1u, y == 0u), 0u, y == 0u);
}`,
  // The largest float32 below 2^31 and 2^32 are converted at most.
  i32OfF32: `fn i32OfF32(x: f32) -> i32 {
  let whole = i32(clamp(x, -2147483648.0f, 2147483520.0f));
  return select(select(whole, 2147483647i, x >= 2147483648.0f), 0i, isNan(x));
}`,
  u32OfF32: `fn u32OfF32(x: f32) -> u32 {
  let whole = u32(clamp(x, 0.0f, 4294967040.0f));
  return select(select(whole, 0xffffffffu, x >= 4294967296.0f), 0u, isNan(x));
}`,
  minOfF32: `fn minOfF32(x: f32, y: f32) -> f32 {
  return select(min(x, y), bitcast<f32>(nanBits), isNan(x) || isNan(y));
}`,
  maxOfF32: `fn maxOfF32(x: f32, y: f32) -> f32 {
  return select(max(x, y), bitcast<f32>(nanBits), isNan(x) || isNan(y));
}`,
} as const;

type Helper = keyof typeof helpers;

/** What the expressions of one WGSL module share: names, and the functions they need. */
export class Scope {
  /** Names the primitives in errors. */
  readonly label: string;
  readonly #prefix: string;
  #names = 0;
  #hasSpecials = false;
  readonly #helpers = new Set<Helper>();
  readonly #narrow = new Map<Expr, Expr>();

  constructor(label: string, prefix: string = "v") {
    this.label = label;
    this.#prefix = prefix;
  }

  newName(): string {
    return `${this.#prefix}${this.#names++}`;
  }

  /** A function by its name, which the module then declares. */
  helper(name: Helper): string {
    this.#helpers.add(name);
    return name;
  }

  /** `isNan`, which the module then declares. */
  isNan(x: string): string {
    this.#hasSpecials = true;
    return `isNan(${x})`;
  }

  /** A constant as an operand, without a name. */
  literal(value: number, type: ExprType): string {
    if (type === "bool") return value === 0 ? "false" : "true";
    this.checkType(type);
    if (type === "f32" && !Number.isFinite(Math.fround(value))) this.#hasSpecials = true;
    const text = constantOf(value, type as "f32" | "i32" | "u32");
    return text.startsWith("-") ? `(${text})` : text;
  }

  /** The node that stands for this one where there is no float64. */
  narrow(e: Expr): Expr {
    if (e.narrow === null) return e;
    let found = this.#narrow.get(e);
    if (found === undefined) {
      found = e.narrow();
      this.#narrow.set(e, found);
    }
    return found;
  }

  checkType(type: ExprType): void {
    if (type !== "f64") return;
    throw new DeviceError(
      "invalid",
      this.label,
      `Cannot compute ${this.label} on webgpu: it needs float64, which shaders do not have, float32 is needed`,
    );
  }

  /** What the module declares for its expressions. */
  declarations(): string {
    const used = [...this.#helpers].sort();
    const specials = this.#hasSpecials || used.some((name) => /nanBits|isNan/.test(helpers[name]));
    return [...(specials ? [SPECIALS] : []), ...used.map((name) => helpers[name])].join("\n");
  }
}

const isConstant = (e: Expr): boolean => e.op === "const";
/** Whether adding the constant rounds to an integer: see functions.ts. */
const isRounder = ({ op, type, value }: Expr): boolean =>
  op === "const" && type === "f32" && value >= 2 ** 23 && value < 2 ** 24;

/** Leaves are the same wherever they occur; other nodes are known by identity. */
function keyOf(e: Expr): Expr | string {
  return e.op === "input" ? `input ${e.value}` : e.op === "iota" ? "iota" : e;
}

const binary: Readonly<Record<"add" | "sub" | "mul" | "and" | "or" | "xor" | "le" | "lt", string>> = {
  add: "+",
  sub: "-",
  mul: "*",
  and: "&",
  or: "|",
  xor: "^",
  lt: "<",
  le: "<=",
};

/** How many operations the expressions are together, each counted once. */
export function operations(scope: Scope, roots: readonly Expr[]): number {
  const seen = new Set<Expr>();
  const waiting = [...roots];
  let count = 0;
  for (let e = waiting.pop(); e !== undefined; e = waiting.pop()) {
    const node = scope.narrow(e);
    if (seen.has(node)) continue;
    seen.add(node);
    if (node.args.length > 0) count++;
    waiting.push(...node.args);
  }
  return count;
}

/** Statements in braces, or of a function: what is computed here and in the blocks around it is known. */
export class Block {
  readonly scope: Scope;
  readonly lines: string[];
  readonly #parent: Block | null;
  readonly #indent: string;
  readonly #names = new Map<Expr | string, string | (() => string)>();
  /** The name of each right side that was written: expressions made twice are computed once. */
  readonly #texts: Map<string, string>;
  /** Names of floats to which a large constant was added, with the constant, and the rounded numbers themselves. */
  readonly #rounded = new Map<string, string>();

  constructor(scope: Scope, indent: string = "  ", parent: Block | null = null, isBranch: boolean = false) {
    this.scope = scope;
    this.#parent = parent;
    this.#indent = indent;
    this.lines = isBranch ? parent!.lines : [];
    this.#texts = isBranch ? parent!.#texts : new Map();
  }

  /** Says what an expression is called here; a function is asked where the expression is needed. */
  bind(e: Expr, name: string | (() => string)): void {
    this.#names.set(keyOf(e), name);
  }

  /** Statements that follow in the same braces, for other elements: what is bound there is not bound here. */
  branch(): Block {
    return new Block(this.scope, this.#indent, this, true);
  }

  write(...lines: readonly string[]): void {
    for (const line of lines) this.lines.push(this.#indent + line);
  }

  /** Statements in braces after `head`; what they compute is unknown outside. */
  nest(head: string, body: (block: Block) => void): void {
    const inner = new Block(this.scope, `${this.#indent}  `, this);
    body(inner);
    this.write(`${head} {`);
    for (const line of inner.lines) this.lines.push(line);
    this.write("}");
  }

  /** A new name for the text's value, or the one that it has. */
  let(text: string): string {
    const known = this.#find((block) => block.#texts.get(text));
    if (known !== undefined) return known;
    const name = this.fresh(text);
    this.#texts.set(text, name);
    return name;
  }

  /** A new name for a value that may be another one by now. */
  fresh(text: string): string {
    const name = this.scope.newName();
    this.write(`let ${name} = ${text};`);
    return name;
  }

  /** Writes what of the expression is not known yet; its value is the name or the literal returned. */
  emit(root: Expr): string {
    if (isConstant(root)) return this.scope.literal(root.value, root.type);
    const waiting: Expr[] = [root];
    for (let e = waiting.at(-1); e !== undefined; e = waiting.at(-1)) {
      const narrow = this.scope.narrow(e);
      const needed = narrow !== e ? [narrow] : e.op === "rare" ? [e.args[0]!, e.args[2]!] : e.args;
      const missing = this.#isKnown(e) ? [] : needed.filter((x) => !isConstant(x) && !this.#isKnown(x));
      for (let i = missing.length - 1; i >= 0; i--) waiting.push(missing[i]!);
      if (missing.length > 0) continue;
      waiting.pop();
      if (this.#isKnown(e)) continue;
      this.#names.set(keyOf(e), narrow === e ? this.#compute(e) : this.#of(narrow));
    }
    return this.#of(root);
  }

  #find<T>(get: (block: Block) => T | undefined): T | undefined {
    for (let block: Block | null = this; block !== null; block = block.#parent) {
      const found = get(block);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  #isKnown(e: Expr): boolean {
    const key = keyOf(e);
    return this.#find((block) => block.#names.get(key)) !== undefined;
  }

  #of(e: Expr): string {
    if (isConstant(e)) return this.scope.literal(e.value, e.type);
    const key = keyOf(e);
    const name = this.#find((block) => block.#names.get(key));
    invariant(name !== undefined, `the kernel expression ${e.op} ${e.value} is bound before it is used`);
    return typeof name === "string" ? name : name();
  }

  /** The arguments as operands. An operation on literals alone would be refused where it overflows: one gets a name. */
  #operands({ args }: Expr): string[] {
    const texts = args.map((x) => this.#of(x));
    if (args.length > 0 && args.every(isConstant)) texts[0] = this.let(texts[0]!);
    return texts;
  }

  #compute(e: Expr): string {
    const { scope } = this;
    const { op, type } = e;
    scope.checkType(type);
    if (op === "rare") return this.#rare(e);
    const xs = this.#operands(e);
    const [x, y, z] = xs as [string, string, string];
    const from = e.args[0]?.type ?? type;
    scope.checkType(from);
    const isFloat = from === "f32";
    switch (op) {
      case "input":
      case "iota":
      case "const":
        return this.#of(e);
      case "add":
      case "mul":
        return this.let(`${x} ${binary[op]} ${y}`);
      case "sub": {
        const rounded = this.#find((block) => block.#rounded.get(`${x} - ${y}`));
        return rounded ?? this.let(`${x} - ${y}`);
      }
      case "div":
        if (isFloat) return this.let(`${x} / ${y}`);
        return this.let(`${scope.helper(type === "i32" ? "quotientOfI32" : "quotientOfU32")}(${x}, ${y})`);
      case "neg":
        return this.let(type === "u32" ? `0u - ${x}` : `-${x}`);
      case "abs":
        return type === "u32" ? x : this.let(`abs(${x})`);
      case "sqrt":
        return this.let(`sqrt(${x})`);
      case "floor":
      case "ceil":
      case "trunc":
        return isFloat ? this.let(`${op}(${x})`) : x;
      case "nearest":
        return isFloat ? this.let(`round(${x})`) : x;
      case "min":
      case "max":
        if (type === "bool") return this.let(`${x} ${op === "min" ? "&" : "|"} ${y}`);
        return this.let(isFloat ? this.#extremum(op, e.args, x, y) : `${op}(${x}, ${y})`);
      case "fma":
        if (isFloat && isRounder(e.args[2]!)) return this.#round(x, y, z);
        return this.let(isFloat ? `fma(${x}, ${y}, ${z})` : `${x} * ${y} + ${z}`);
      case "eq":
      case "ne":
      case "lt":
      case "le":
        return this.let(this.#compare(op, x, y, from));
      case "select":
        return this.let(`select(${z}, ${y}, ${x})`);
      case "and":
      case "or":
        return this.let(`${x} ${binary[op]} ${y}`);
      case "xor":
        return this.let(type === "bool" ? `${x} != ${y}` : `${x} ^ ${y}`);
      case "not":
        return this.let(type === "bool" ? `!${x}` : `~${x}`);
      case "shl":
        return this.let(`${x} << ${e.value}u`);
      case "shr":
        return this.let(`${x} >> ${e.value}u`);
      case "convert":
        return this.#convert(x, from, type);
      case "bitcast":
        return from === type ? x : this.let(`bitcast<${type}>(${x})`);
      case "call":
        throw new DeviceError(
          "invalid",
          scope.label,
          `Cannot compute ${scope.label} on webgpu: its function runs on the host, a kernel expression is needed`,
        );
    }
    return op satisfies never;
  }

  /** The second value, and in a branch that is taken where the condition holds the first. */
  #rare({ args }: Expr): string {
    const [condition, x, y] = args as [Expr, Expr, Expr];
    const name = this.scope.newName();
    this.write(`var ${name} = ${this.#of(y)};`);
    this.nest(`if (${this.#of(condition)})`, (block) => block.write(`${name} = ${block.emit(x)};`));
    return name;
  }

  /** x y + rounder by way of the integer: a driver that reassociates takes adding and subtracting for nothing. */
  #round(x: string, y: string, rounder: string): string {
    const rounded = this.let(`round(${x} * ${y})`);
    const name = this.let(`${rounded} + ${rounder}`);
    this.#rounded.set(`${name} - ${rounder}`, rounded);
    return name;
  }

  /** NaN where an operand is, which of the built-in functions is not said. */
  #extremum(op: "min" | "max", args: readonly Expr[], x: string, y: string): string {
    const open = [x, y].filter((_, i) => !isConstant(args[i]!) || Number.isNaN(args[i]!.value));
    if (open.length !== 1) {
      return `${this.scope.helper(op === "min" ? "minOfF32" : "maxOfF32")}(${x}, ${y})`;
    }
    return `select(${op}(${x}, ${y}), ${open[0]}, ${this.scope.isNan(open[0]!)})`;
  }

  /** Of NaN false, and `ne` true. What a driver might fold without looking, x = x, looks at the bits. */
  #compare(op: "eq" | "ne" | "lt" | "le", x: string, y: string, from: ExprType): string {
    if (from === "bool" && (op === "lt" || op === "le")) return `!${x} ${op === "lt" ? "&" : "|"} ${y}`;
    if (op === "lt" || op === "le") return `${x} ${binary[op]} ${y}`;
    if (from !== "f32") return `${x} ${op === "eq" ? "==" : "!="} ${y}`;
    if (x === y) return op === "eq" ? `!${this.scope.isNan(x)}` : this.scope.isNan(x);
    return op === "eq" ? `${x} == ${y}` : `!(${x} == ${y})`;
  }

  #convert(x: string, from: ExprType, to: ExprType): string {
    const { scope } = this;
    if (from === to) return x;
    if (to === "bool") return this.let(this.#compare("ne", x, scope.literal(0, from), from));
    if (from === "bool") return this.let(`select(${scope.literal(0, to)}, ${scope.literal(1, to)}, ${x})`);
    if (to === "f32") return this.let(`f32(${x})`);
    if (from === "f32") return this.let(`${scope.helper(to === "i32" ? "i32OfF32" : "u32OfF32")}(${x})`);
    // Between the integers the nearest value.
    return this.let(to === "u32" ? `u32(max(${x}, 0i))` : `i32(min(${x}, 0x7fffffffu))`);
  }
}

/** Whether a shader can compute an expression: without functions of the host, and without float64. */
export function isComputable(e: Expr): boolean {
  const seen = new Set<Expr>();
  const open = [e];
  for (let next = open.pop(); next; next = open.pop()) {
    const node = next.narrow?.() ?? next;
    if (node.op === "call" || node.type === "f64") return false;
    for (const arg of node.args) {
      if (seen.has(arg)) continue;
      seen.add(arg);
      open.push(arg);
    }
  }
  return true;
}
