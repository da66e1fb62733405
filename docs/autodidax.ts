/**
 * Automatic differentiation from nothing, in eight chapters.
 *
 * This file imports nothing: it is the library in miniature, in the order in which its ideas need each other. Each
 * chapter ends with claims that are checked when the file runs (`bun docs/autodidax.ts`). The names and the structure
 * are those of `core/` and `autodiff/`; where the library handles trees, element types, devices and errors, this file
 * handles one array.
 */

// Claims are collected while the file is read from top to bottom, and checked by `tour`.
interface Chapter {
  readonly title: string;
  /** Checks its claims with `claim`, and returns a line or more to show. */
  readonly show: () => string;
}
const chapters: Chapter[] = [];
const chapter = (title: string, show: () => string): void => void chapters.push({ title, show });

let claims = 0;
function claim(condition: boolean, what: string): void {
  claims++;
  if (!condition) throw new Error(`Cannot accept the claim "${what}": it is false, true is needed`);
}
const near = (x: number, y: number): boolean => Math.abs(x - y) <= 1e-9 * (1 + Math.abs(y));

// ------------------------------------------------------------------------------------------------------------------
// 1. Dual numbers
//
// To differentiate a program, compute with pairs (x, dx): a value and how fast it moves. Every operation knows the
// pair of its result from the pairs of its arguments:
//
//     (x, dx) + (y, dy) = (x + y, dx + dy)          (x, dx) (y, dy) = (x y, dx y + x dy)
//
// Nothing is approximated, no formula is manipulated: the program runs once, on more information.

interface Dual {
  readonly x: Plain;
  readonly dx: Plain;
}
type Plain = number | Dual;
const isDual = (a: Plain): a is Dual => typeof a !== "number";
const primalOf = (a: Plain): Plain => (isDual(a) ? a.x : a);
const tangentOf = (a: Plain): Plain => (isDual(a) ? a.dx : 0);

function plainAdd(a: Plain, b: Plain): Plain {
  if (!isDual(a) && !isDual(b)) return a + b;
  return { x: plainAdd(primalOf(a), primalOf(b)), dx: plainAdd(tangentOf(a), tangentOf(b)) };
}

function plainMul(a: Plain, b: Plain): Plain {
  if (!isDual(a) && !isDual(b)) return a * b;
  const [x, y] = [primalOf(a), primalOf(b)];
  return { x: plainMul(x, y), dx: plainAdd(plainMul(tangentOf(a), y), plainMul(x, tangentOf(b))) };
}

/** The derivative of a function of one number: move the input at speed 1, look how fast the output moves. */
const plainDerivative =
  (f: (x: Plain) => Plain) =>
  (x: Plain): Plain =>
    tangentOf(f({ x, dx: 1 }));

chapter("Dual numbers", () => {
  const cube = (x: Plain): Plain => plainMul(x, plainMul(x, x));
  claim(plainDerivative(cube)(2) === 12, "d x³ = 3 x² is 12 at 2");
  return "d/dx x³ at 2 = 12";
});

// ------------------------------------------------------------------------------------------------------------------
// 2. Perturbation confusion, and tags
//
// The pairs above have a flaw that hides until derivatives are nested. In
//
//     d/dx [ x · d/dy (x + y) ]
//
// the inner derivative is 1, so the whole is 1. But while the inner derivative runs, x is a pair as well: it moves at
// speed 1 too, though for another reason. Adding the speeds answers a question that nobody asked.

chapter("Perturbation confusion", () => {
  const confused = plainDerivative((x) => plainMul(x, plainDerivative((y) => plainAdd(x, y))(1)))(1);
  claim(confused === 2, "pairs without tags give 2 where the answer is 1");

  // The cure: a pair says which derivative it belongs to. An operation looks at the innermost tag among its arguments;
  // everything with another tag stands still, as far as this derivative is concerned.
  interface Tagged {
    readonly tag: number;
    readonly x: Num;
    readonly dx: Num;
  }
  type Num = number | Tagged;
  const tagOf = (a: Num): number => (typeof a === "number" ? 0 : a.tag);
  const split = (a: Num, tag: number): readonly [Num, Num] =>
    typeof a !== "number" && a.tag === tag ? [a.x, a.dx] : [a, 0];
  const add = (a: Num, b: Num): Num => {
    if (typeof a === "number" && typeof b === "number") return a + b;
    const tag = Math.max(tagOf(a), tagOf(b));
    const [[x, dx], [y, dy]] = [split(a, tag), split(b, tag)];
    return { tag, x: add(x, y), dx: add(dx, dy) };
  };
  const mul = (a: Num, b: Num): Num => {
    if (typeof a === "number" && typeof b === "number") return a * b;
    const tag = Math.max(tagOf(a), tagOf(b));
    const [[x, dx], [y, dy]] = [split(a, tag), split(b, tag)];
    return { tag, x: mul(x, y), dx: add(mul(dx, y), mul(x, dy)) };
  };
  let tags = 0;
  const derivative =
    (f: (x: Num) => Num) =>
    (x: Num): Num => {
      const tag = ++tags;
      return split(f({ tag, x, dx: 1 }), tag)[1];
    };
  const right = derivative((x) => mul(x, derivative((y) => add(x, y))(1)))(1);
  claim(right === 1, "pairs with tags give 1");
  return "d/dx [x · d/dy (x + y)] at 1 = 2 without tags (wrong), 1 with tags";
});

// ------------------------------------------------------------------------------------------------------------------
// 3. Context dispatch
//
// Differentiation will not be the only thing to do with a program. So operations do not look into their arguments any
// more; they ask whoever is in charge. A *primitive* is a record of rules, a *trace* says what an application of a
// primitive means, and one trace is current. What a transform makes are *tracers*, each of which belongs to one trace:
// that is the tag, and its identity is enough, there is no need to count.
//
// Values are numbers and nested lists of them, outermost axis first.

export type Numbers = number | readonly Numbers[];
export type Value = Numbers | Tracer;
type Shape = readonly number[];

/** Stands for a value while a transform runs. */
abstract class Tracer {
  abstract readonly trace: Trace;
  abstract readonly shape: Shape;
}

interface Trace {
  process(primitive: Primitive, xs: readonly Value[], axis: Axis): Value;
}

/** The one kind of parameter here: an axis to add or remove, and its size. */
interface Axis {
  readonly axis: number;
  readonly size: number;
}
const noAxis: Axis = { axis: 0, size: 0 };

interface Primitive {
  readonly name: string;
  readonly shape: (shape: Shape, axis: Axis) => Shape;
  /** What it computes. */
  readonly apply: (xs: readonly Numbers[], axis: Axis) => Numbers;
  /** How fast the result moves when argument i moves at dx. One for each argument: the chapter on linearity needs them apart. */
  readonly terms: readonly ((dx: Value, xs: readonly Value[], y: Value, axis: Axis) => Value)[];
  /** The parameter to use when every argument has one more axis, in front. */
  readonly batch: (axis: Axis) => Axis;
  /** For linear primitives, see chapter 6. */
  readonly transpose?: (
    ct: Value,
    xs: readonly (Value | Variable)[],
    axis: Axis,
  ) => readonly (Value | null)[];
}

/** The trace at the bottom: arithmetic. */
const evaluation: Trace = {
  process(primitive, xs, axis) {
    if (xs.some((x) => x instanceof Tracer))
      throw new Error(`Cannot ${primitive.name}: a tracer has outlived its transform, a number is needed`);
    return primitive.apply(xs as readonly Numbers[], axis);
  },
};

let current: Trace = evaluation;

/** Runs `f` with another trace in charge. */
function under<T>(trace: Trace, f: () => T): T {
  const previous = current;
  current = trace;
  try {
    return f();
  } finally {
    current = previous;
  }
}

const bind = (primitive: Primitive, xs: readonly Value[], axis: Axis = noAxis): Value =>
  current.process(primitive, xs, axis);

function shapeOf(x: Value): Shape {
  if (x instanceof Tracer) return x.shape;
  return typeof x === "number" ? [] : [x.length, ...shapeOf(x[0]!)];
}

// Primitives that work element by element are alike but for a function of numbers and its derivative.

function elementwise(record: {
  readonly name: string;
  readonly scalar: (x: number, y: number) => number;
  readonly terms: Primitive["terms"];
  readonly transpose?: NonNullable<Primitive["transpose"]>;
}): Primitive {
  const zip = (x: Numbers, y: Numbers): Numbers =>
    typeof x === "number"
      ? record.scalar(x, y as number)
      : x.map((part, i) => zip(part, typeof y === "number" ? y : y[i]!));
  return { ...record, shape: (shape) => shape, apply: ([x, y]) => zip(x!, y ?? 0), batch: (axis) => axis };
}

const addP: Primitive = elementwise({
  name: "add",
  scalar: (x, y) => x + y,
  terms: [(dx) => dx, (dy) => dy],
  transpose: (ct, xs) => {
    if (!xs.every((x) => x instanceof Variable))
      throw new Error("Cannot transpose add: a constant is added, a linear function is needed");
    return [ct, ct];
  },
});
const mulP: Primitive = elementwise({
  name: "mul",
  scalar: (x, y) => x * y,
  terms: [(dx, [, y]) => mul(dx, y!), (dy, [x]) => mul(x!, dy)],
  transpose: (ct, [x, y]) => {
    if (x instanceof Variable && y instanceof Variable)
      throw new Error("Cannot transpose mul: both factors depend on the input, a linear function is needed");
    return x instanceof Variable ? [mul(ct, y as Value), null] : [null, mul(x!, ct)];
  },
});
const negP: Primitive = elementwise({
  name: "neg",
  scalar: (x) => -x,
  terms: [(dx) => neg(dx)],
  transpose: (ct) => [neg(ct)],
});
// d sin = cos x dx, d cos = -sin x dx, d e^x = e^x dx, d 1/x = -y² dx
const sinP: Primitive = elementwise({
  name: "sin",
  scalar: Math.sin,
  terms: [(dx, [x]) => mul(dx, cos(x!))],
});
const cosP: Primitive = elementwise({
  name: "cos",
  scalar: Math.cos,
  terms: [(dx, [x]) => neg(mul(dx, sin(x!)))],
});
const expP: Primitive = elementwise({ name: "exp", scalar: Math.exp, terms: [(dx, _xs, y) => mul(dx, y)] });
const reciprocalP: Primitive = elementwise({
  name: "reciprocal",
  scalar: (x) => 1 / x,
  terms: [(dx, _xs, y) => neg(mul(dx, mul(y, y)))],
});

// Two more that change shapes: repetition along a new axis, and the sum along an axis. Each undoes the shape of the
// other, and each is the transpose of the other.

const withAxis = (shape: Shape, { axis, size }: Axis): Shape => shape.toSpliced(axis, 0, size);
const withoutAxis = (shape: Shape, { axis }: Axis): Shape => shape.toSpliced(axis, 1);
const deeper = ({ axis, size }: Axis): Axis => ({ axis: axis + 1, size });

const repeatP: Primitive = {
  name: "repeat",
  shape: withAxis,
  apply: ([x], { axis, size }) => {
    const go = (part: Numbers, depth: number): Numbers =>
      depth === 0
        ? Array.from({ length: size }, () => part)
        : (part as readonly Numbers[]).map((inner) => go(inner, depth - 1));
    return go(x!, axis);
  },
  terms: [(dx, _xs, _y, axis) => bind(repeatP, [dx], axis)],
  batch: deeper,
  transpose: (ct, _xs, axis) => [bind(totalP, [ct], axis)],
};
const totalP: Primitive = {
  name: "total",
  shape: withoutAxis,
  apply: ([x], { axis }) => {
    const go = (part: Numbers, depth: number): Numbers =>
      depth === 0
        ? (part as readonly Numbers[]).reduce((a, b) => addP.apply([a, b], noAxis))
        : (part as readonly Numbers[]).map((inner) => go(inner, depth - 1));
    return go(x!, axis);
  },
  terms: [(dx, _xs, _y, axis) => bind(totalP, [dx], axis)],
  batch: deeper,
  transpose: (ct, _xs, axis) => [bind(repeatP, [ct], axis)],
};

// What a user calls. A number meets an array by being repeated: one place does that, no rule ever has to.

function fitted(x: Value, y: Value): readonly [Value, Value] {
  const [s, t] = [shapeOf(x), shapeOf(y)];
  const grow = (z: Value, shape: Shape): Value =>
    shape.reduceRight<Value>((part, size) => bind(repeatP, [part], { axis: 0, size }), z);
  if (s.length === 0 && t.length > 0) return [grow(x, t), y];
  if (t.length === 0 && s.length > 0) return [x, grow(y, s)];
  return [x, y];
}
export const add = (x: Value, y: Value): Value => bind(addP, fitted(x, y));
export const mul = (x: Value, y: Value): Value => bind(mulP, fitted(x, y));
export const neg = (x: Value): Value => bind(negP, [x]);
export const sub = (x: Value, y: Value): Value => add(x, neg(y));
export const sin = (x: Value): Value => bind(sinP, [x]);
export const cos = (x: Value): Value => bind(cosP, [x]);
export const exp = (x: Value): Value => bind(expP, [x]);
export const reciprocal = (x: Value): Value => bind(reciprocalP, [x]);
export const div = (x: Value, y: Value): Value => mul(x, reciprocal(y));
/** The sum of all elements. */
export function sum(x: Value): Value {
  return shapeOf(x).reduce<Value>((rest, size) => bind(totalP, [rest], { axis: 0, size }), x);
}

// Forward mode again, as a trace. A value that is no tracer of *this* trace stands still; that covers numbers and the
// tracers of every other derivative. A rule runs with the trace outside in charge, which may be a derivative as well.

class JvpTracer extends Tracer {
  readonly trace: JvpTrace;
  readonly x: Value;
  readonly dx: Value;
  constructor(trace: JvpTrace, x: Value, dx: Value) {
    super();
    this.trace = trace;
    this.x = x;
    this.dx = dx;
  }
  get shape(): Shape {
    return shapeOf(this.x);
  }
}

class JvpTrace implements Trace {
  readonly parent: Trace = current;

  /** A value and its tangent; `null` is a zero that nobody has to compute with. */
  split(x: Value): readonly [Value, Value | null] {
    return x instanceof JvpTracer && x.trace === this ? [x.x, x.dx] : [x, null];
  }

  process(primitive: Primitive, args: readonly Value[], axis: Axis): Value {
    const pairs = args.map((x) => this.split(x));
    const xs = pairs.map(([x]) => x);
    return under(this.parent, () => {
      const y = bind(primitive, xs, axis);
      // dy = Σ_i (∂y / ∂x_i) dx_i, over the arguments that move
      let dy: Value | null = null;
      pairs.forEach(([, dx], i) => {
        if (dx === null) return;
        const term = primitive.terms[i]!(dx, xs, y, axis);
        dy = dy === null ? term : add(dy, term);
      });
      return dy === null ? y : new JvpTracer(this, y, dy);
    });
  }
}

/** The value of `f` at `x`, and its derivative in direction `dx`; `null` if it does not depend on `x`. */
function jvpOrNull(f: (x: Value) => Value, x: Value, dx: Value): readonly [Value, Value | null] {
  const trace = new JvpTrace();
  return trace.split(under(trace, () => f(new JvpTracer(trace, x, dx))));
}
const zerosLike = (x: Value): Value => fitted(0, x)[0];

/** The value of `f` at `x`, and its derivative in direction `dx`. */
export function jvp(f: (x: Value) => Value, x: Value, dx: Value): readonly [Value, Value] {
  const [y, dy] = jvpOrNull(f, x, dx);
  return [y, dy ?? zerosLike(y)];
}
const derivative =
  (f: (x: Value) => Value) =>
  (x: Value): Value =>
    jvp(f, x, 1)[1];

chapter("Context dispatch", () => {
  const nested = derivative((x) => mul(x, derivative((y) => add(x, y))(1)))(1);
  claim(nested === 1, "the identity of a trace is a tag");
  const third = derivative(derivative(derivative(sin)))(0.5) as number;
  claim(near(third, -Math.cos(0.5)), "three derivatives of a sine give minus a cosine");
  return `sin'''(0.5) = ${third.toFixed(6)}`;
});

// ------------------------------------------------------------------------------------------------------------------
// 4. Staging
//
// Another trace does not compute: it writes down what would have been computed. The result is a *program*, a list of
// equations that can be printed, run, and taken apart. What does not depend on the inputs is not written down but
// computed at once, by whoever is in charge outside; that half of a line is what chapter 5 lives on.

/** The name of an input or of a result. */
class Variable {
  readonly shape: Shape;
  constructor(shape: Shape) {
    this.shape = shape;
  }
}

interface Equation {
  readonly primitive: Primitive;
  readonly axis: Axis;
  readonly ins: readonly (Value | Variable)[];
  readonly out: Variable;
}

interface Program {
  readonly input: Variable;
  readonly equations: readonly Equation[];
  readonly output: Value | Variable;
}

class StageTracer extends Tracer {
  readonly trace: StageTrace;
  readonly variable: Variable;
  constructor(trace: StageTrace, variable: Variable) {
    super();
    this.trace = trace;
    this.variable = variable;
  }
  get shape(): Shape {
    return this.variable.shape;
  }
}

class StageTrace implements Trace {
  readonly parent: Trace = current;
  readonly equations: Equation[] = [];

  atom(x: Value): Value | Variable {
    return x instanceof StageTracer && x.trace === this ? x.variable : x;
  }

  process(primitive: Primitive, xs: readonly Value[], axis: Axis): Value {
    const ins = xs.map((x) => this.atom(x));
    if (!ins.some((atom) => atom instanceof Variable))
      return under(this.parent, () => bind(primitive, xs, axis));
    const out = new Variable(primitive.shape(shapeOf(xs[0]!), axis));
    this.equations.push({ primitive, axis, ins, out });
    return new StageTracer(this, out);
  }
}

/** Records a function of an array of the given shape. */
export function stage(f: (x: Value) => Value, shape: Shape): Program {
  const trace = new StageTrace();
  const input = new Variable(shape);
  const output = under(trace, () => f(new StageTracer(trace, input)));
  return { input, equations: trace.equations, output: trace.atom(output) };
}

/** Runs a program: the same operations, under whatever trace is current. */
function run({ input, equations, output }: Program, x: Value): Value {
  const values = new Map<Variable, Value>([[input, x]]);
  const read = (atom: Value | Variable): Value => (atom instanceof Variable ? values.get(atom)! : atom);
  for (const { primitive, axis, ins, out } of equations)
    values.set(out, bind(primitive, ins.map(read), axis));
  return read(output);
}

/** A program as text, one equation to a line. */
function text({ input, equations, output }: Program): string {
  const names = new Map<Variable, string>();
  const name = (v: Variable): string => {
    if (!names.has(v)) names.set(v, String.fromCharCode(97 + names.size));
    return names.get(v)!;
  };
  const atom = (x: Value | Variable): string =>
    x instanceof Variable ? name(x) : x instanceof Tracer ? "(traced)" : JSON.stringify(x);
  return [
    `${name(input)} ->`,
    ...equations.map(({ primitive, ins, out }) => {
      const list = ins.map(atom).join(" ");
      return `  ${name(out)} = ${primitive.name} ${list}`;
    }),
    `  in ${atom(output)}`,
  ].join("\n");
}

chapter("Staging", () => {
  const program = stage((x) => mul(sin(x), add(x, sin(2))), []);
  claim(program.equations.length === 3, "sin 2 is computed at once, three equations remain");
  const value = run(program, 1) as number;
  claim(near(value, Math.sin(1) * (1 + Math.sin(2))), "a program computes what the function computes");
  const slope = derivative((x) => run(program, x))(1) as number;
  claim(near(slope, Math.cos(1) * (1 + Math.sin(2)) + Math.sin(1)), "programs can be differentiated");
  return text(program);
});

// ------------------------------------------------------------------------------------------------------------------
// 5. Linearize
//
// In a jvp the value does not depend on the direction, and the tangent depends on it linearly. Stage the function
//
//     dx -> jvp(f, x, dx)
//
// and the two fall apart by themselves: everything about x is computed at once, and what is written down is the
// derivative at x, a program of linear equations with numbers in it.

function linearize(f: (x: Value) => Value, x: Value): readonly [Value, Program] {
  let value: Value | undefined;
  const program = stage((dx) => {
    const [y, dy] = jvpOrNull(f, x, dx);
    value = y;
    return dy ?? zerosLike(y);
  }, shapeOf(x));
  return [value!, program];
}

chapter("Linearize", () => {
  const f = (x: Value): Value => sin(mul(x, x));
  const [y, program] = linearize(f, 3);
  claim(near(y as number, Math.sin(9)), "the value comes out on the way");
  claim(!program.equations.some(({ primitive }) => primitive === sinP), "no sine is left to do");
  claim(near(run(program, 2) as number, 2 * (derivative(f)(3) as number)), "the program is the derivative");
  return text(program);
});

// ------------------------------------------------------------------------------------------------------------------
// 6. Transpose
//
// A gradient of f at x asks for n directions at once, and the linear program answers for one. But a linear program is
// a product of matrices that nobody wrote down, and its transpose is the product of their transposes in reverse order.
// So walk the equations backwards and carry *cotangents*: how much the answer cares about each variable. A variable
// used twice collects a sum. That is reverse mode: linearize, then transpose. There are no other rules.

function transpose({ input, equations, output }: Program, ct: Value): Value {
  const cts = new Map<Variable, Value>();
  const give = (atom: Value | Variable, part: Value | null): void => {
    if (!(atom instanceof Variable) || part === null) return;
    const before = cts.get(atom);
    cts.set(atom, before === undefined ? part : add(before, part));
  };
  give(output, ct);
  for (const { primitive, axis, ins, out } of equations.toReversed()) {
    const part = cts.get(out);
    if (part === undefined) continue;
    if (primitive.transpose === undefined)
      throw new Error(`Cannot transpose ${primitive.name}: it is not linear, a linear function is needed`);
    primitive.transpose(part, ins, axis).forEach((p, i) => {
      give(ins[i]!, p);
    });
  }
  // An input that nothing depends on has cotangent zero.
  return (
    cts.get(input) ?? input.shape.reduceRight<Value>((z, size) => bind(repeatP, [z], { axis: 0, size }), 0)
  );
}

/** The gradient of a scalar function of one array. */
export const grad =
  (f: (x: Value) => Value) =>
  (x: Value): Value =>
    transpose(linearize(f, x)[1], 1);

chapter("Transpose", () => {
  const f = (x: Value): Value => sum(mul(x, sin(x)));
  const slope = grad(f)([1, 2]) as readonly number[];
  const expected = [1, 2].map((x) => Math.sin(x) + x * Math.cos(x));
  claim(
    slope.every((s, i) => near(s, expected[i]!)),
    "the gradient of Σ x sin x is sin x + x cos x",
  );
  const along = jvp(f, [1, 2], [3, 4])[1] as number;
  claim(near(along, 3 * slope[0]! + 4 * slope[1]!), "<grad f, v> is the derivative along v");
  let refused = false;
  try {
    transpose(
      stage((x) => mul(x, x), []),
      1,
    );
  } catch {
    refused = true;
  }
  claim(refused, "a square has no transpose");
  return `grad Σ x sin x at [1, 2] = [${slope.map((s) => s.toFixed(4)).join(", ")}]`;
});

// ------------------------------------------------------------------------------------------------------------------
// 7. Vmap
//
// A third kind of trace pretends that values have one axis less than they have. The function sees one example; the
// primitives see all of them, along axis 0. A value that all examples share is repeated where it meets the others.

class BatchTracer extends Tracer {
  readonly trace: BatchTrace;
  readonly x: Value;
  constructor(trace: BatchTrace, x: Value) {
    super();
    this.trace = trace;
    this.x = x;
  }
  get shape(): Shape {
    return shapeOf(this.x).slice(1);
  }
}

class BatchTrace implements Trace {
  readonly parent: Trace = current;
  readonly size: number;
  constructor(size: number) {
    this.size = size;
  }

  owns(x: Value): x is BatchTracer {
    return x instanceof BatchTracer && x.trace === this;
  }

  full(x: Value): Value {
    return this.owns(x) ? x.x : bind(repeatP, [x], { axis: 0, size: this.size });
  }

  process(primitive: Primitive, xs: readonly Value[], axis: Axis): Value {
    return under(this.parent, () =>
      xs.some((x) => this.owns(x))
        ? new BatchTracer(
            this,
            bind(
              primitive,
              xs.map((x) => this.full(x)),
              primitive.batch(axis),
            ),
          )
        : bind(primitive, xs, axis),
    );
  }
}

/** `f` for every example along axis 0, without a loop over examples. */
export const vmap =
  (f: (x: Value) => Value) =>
  (xs: Value): Value => {
    const trace = new BatchTrace(shapeOf(xs)[0]!);
    const y = under(trace, () => f(new BatchTracer(trace, xs)));
    return trace.full(y);
  };

chapter("Vmap", () => {
  const slopes = vmap(grad((x) => mul(sin(x), x)))([1, 2, 3]) as readonly number[];
  claim(
    slopes.every((s, i) => near(s, Math.cos(i + 1) * (i + 1) + Math.sin(i + 1))),
    "one gradient for each example",
  );
  const table = vmap((x) => vmap((y) => mul(x, y))([1, 2, 3]))([1, 2]) as readonly (readonly number[])[];
  claim(JSON.stringify(table) === "[[1,2,3],[2,4,6]]", "two of them make a multiplication table");
  return `vmap of vmap of a product = ${JSON.stringify(table)}`;
});

// ------------------------------------------------------------------------------------------------------------------
// 8. Curvature
//
// All transforms are functions of functions, and all of them go through one `bind`, so they compose. The gradient is a
// function like any other; its derivative along v is the Hessian times v, at the price of about two gradients. The
// Hessian itself, n² numbers, is never needed. Power iteration on products finds its largest eigenvalue; what the
// library does with curvature (Lanczos, FOSI) starts here.

/** The Hessian of `f` at `x`, times `v`: forward over reverse. */
export const hvp =
  (f: (x: Value) => Value) =>
  (x: Value, v: Value): Value =>
    jvp(grad(f), x, v)[1];

/** The Hessian, a row for each unit vector: for small examples. */
export const hessian =
  (f: (x: Value) => Value) =>
  (x: readonly number[]): Value =>
    vmap((v) => hvp(f)(x, v))(x.map((_, i) => x.map((_, j) => Number(i === j))));

chapter("Curvature", () => {
  // Σ w x² + e^(Σ x): the Hessian is diag(2 w) + e^(Σ x) 1 1ᵀ
  const f = (x: Value): Value => add(sum(mul([1, 2, 4], mul(x, x))), exp(sum(x)));
  const H = hessian(f)([0, 0, 0]);
  claim(JSON.stringify(H) === "[[3,1,1],[1,5,1],[1,1,9]]", "the Hessian of a quadratic and an exponential");
  const overReverse = grad((x) => sum(mul(grad(f)(x), [1, 0, 0])))([0, 0, 0]);
  claim(JSON.stringify(overReverse) === "[3,1,1]", "reverse over reverse gives the same row");
  let v: readonly number[] = [1, 1, 1];
  let largest = 0;
  for (let i = 0; i < 100; i++) {
    const product = hvp(f)([0, 0, 0], v) as readonly number[];
    largest = Math.hypot(...product);
    v = product.map((x) => x / largest);
  }
  // The characteristic polynomial of the matrix above vanishes at its eigenvalue.
  const [a, b, c] = [3 - largest, 5 - largest, 9 - largest];
  claim(
    Math.abs(a * b * c + 2 - a - b - c) < 1e-8,
    "power iteration finds an eigenvalue from products alone",
  );
  return `Hessian ${JSON.stringify(H)}, largest eigenvalue ${largest.toFixed(6)}`;
});

/** Checks every claim and returns what the chapters show. */
export function tour(): string {
  claims = 0;
  const shown = chapters.map(({ title, show }, i) => `${i + 1}. ${title}\n${show()}\n`);
  return `${shown.join("\n")}\n${claims} claims hold`;
}

if (import.meta.main) console.log(tour());
