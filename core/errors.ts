/**
 * The errors a user can meet. One format everywhere:
 * `Cannot <verb> <object>: <what is>, <what is needed>`, and structured fields for programs and tests.
 */

/**
 * Shapes that do not fit the operation; `op` names it. See docs/errors.md#shape.
 *
 * @example Its field
 * ```ts
 * const error = assertThrows(() => ct.add(ct.ones([2]), ct.ones([3])), ct.ShapeError);
 * assert(error.op === "add");
 * ```
 * @since 0.1.0
 */
export class ShapeError extends RangeError {
  override readonly name = "ShapeError";
  readonly op: string;
  constructor(op: string, message: string) {
    super(`${message} (docs/errors.md#shape)`);
    this.op = op;
  }
}

/**
 * An element type that does not fit the operation. See docs/errors.md#dtype.
 *
 * @example No promotion in silence
 * ```ts
 * const counts = ct.tensor([1, 2], { dtype: "int32" });
 * assertThrows(() => ct.add(counts, ct.ones([2])), ct.DTypeError);
 * ```
 * @since 0.1.0
 */
export class DTypeError extends TypeError {
  override readonly name = "DTypeError";
  readonly op: string;
  constructor(op: string, message: string) {
    super(`${message} (docs/errors.md#dtype)`);
    this.op = op;
  }
}

/**
 * A value that is not a tree of tensors, or two trees that differ; `path` says where. See docs/errors.md#tree.
 *
 * @example Its field
 * ```ts
 * const error = assertThrows(() => ct.tree.map((x) => x, { w: "text" }), ct.TreeError);
 * assert(error.path.includes("w"));
 * ```
 * @since 0.1.0
 */
export class TreeError extends TypeError {
  override readonly name = "TreeError";
  readonly path: string;
  constructor(path: string, message: string) {
    super(`${message} (docs/errors.md#tree)`);
    this.path = path;
  }
}

/**
 * A traced value used where it has no meaning. See docs/errors.md#trace.
 *
 * @example Reading a traced value
 * ```ts
 * assertThrows(() => ct.grad((x: ct.Value) => x.mul(x.item()))(ct.tensor(2)), ct.TraceError);
 * ```
 * @since 0.1.0
 */
export class TraceError extends TypeError {
  override readonly name = "TraceError";
  constructor(message: string) {
    super(`${message} (docs/errors.md#trace)`);
  }
}

/**
 * A primitive lacks the rule that a transform needs. See docs/errors.md#rule.
 *
 * @example A name is taken
 * ```ts
 * const sine = ct.primitives().find(({ name }) => name === "sin")!;
 * const error = assertThrows(() => ct.definePrimitive(sine), ct.RuleError);
 * assert(error.primitive === "sin" && error.rule === "name");
 * ```
 * @since 0.1.0
 */
export class RuleError extends TypeError {
  override readonly name = "RuleError";
  readonly primitive: string;
  readonly rule: string;
  constructor(primitive: string, rule: string, message: string) {
    super(`${message} (docs/errors.md#rule)`);
    this.primitive = primitive;
    this.rule = rule;
  }
}

/**
 * A function that should be linear is not. See docs/errors.md#linearity.
 *
 * @example A square is not linear
 * ```ts
 * assertThrows(() => ct.linearTranspose((x: ct.Value) => x.mul(x), ct.ones([2]))(ct.ones([2])), ct.LinearityError);
 * ```
 * @since 0.1.0
 */
export class LinearityError extends TypeError {
  override readonly name = "LinearityError";
  constructor(message: string) {
    super(`${message} (docs/errors.md#linearity)`);
  }
}

/**
 * Bytes that are not what they should be. See docs/errors.md#format.
 *
 * @example A file that is cut off
 * ```ts
 * const bytes = ct.io.encode({ w: ct.ones([4]) });
 * assertThrows(() => ct.io.decode(bytes.slice(0, -1)), ct.FormatError);
 * ```
 * @since 0.1.0
 */
export class FormatError extends RangeError {
  override readonly name = "FormatError";
  constructor(message: string) {
    super(`${message} (docs/errors.md#format)`);
  }
}

/**
 * A plan that cannot be run; `problems` lists what is wrong, field by field. See docs/errors.md#plan.
 *
 * @example Every field that is wrong
 * ```ts
 * const input = { version: 1, workers: 0, parameters: 0, rounds: 1, localSteps: 1, seed: 0 } as const;
 * const rest = { update: { name: "sgd", learningRate: 0.1 }, sync: { k: "gradient" } } as const;
 * const error = assertThrows(() => ct.dist.makePlan({ ...input, ...rest }), ct.PlanError);
 * assert(error.problems.some((problem) => problem.startsWith("workers")));
 * ```
 * @since 0.1.0
 */
export class PlanError extends RangeError {
  override readonly name = "PlanError";
  readonly problems: readonly string[];
  constructor(message: string, problems: readonly string[]) {
    super(`${message} (docs/errors.md#plan)`);
    this.problems = problems;
  }
}

/**
 * A numerical check failed; fields hold the two numbers that should have agreed. See docs/errors.md#check.
 *
 * @example A derivative that is not there
 * ```ts
 * const kink = (x: ct.Value) => x.abs().sum();
 * const error = assertThrows(() => ct.checkGrads(kink, [ct.tensor([0])]), ct.CheckError);
 * assert(error.actual !== error.expected);
 * ```
 * @since 0.1.0
 */
export class CheckError extends RangeError {
  override readonly name = "CheckError";
  readonly actual: number;
  readonly expected: number;
  constructor(message: string, actual: number, expected: number) {
    super(`${message} (docs/errors.md#check)`);
    this.actual = actual;
    this.expected = expected;
  }
}

/**
 * What went wrong with a device: none was found, or it was given something it refuses, ran out of memory, or is gone.
 *
 * @since 0.3.0
 */
export type DeviceErrorReason = "absent" | "invalid" | "memory" | "lost";

/**
 * A device that is not there, refuses its work, or is gone; `label` names the work. See docs/errors.md#device.
 *
 * @example Its fields
 * ```ts
 * const error = new ct.DeviceError("lost", "mul.3", "Cannot read the device: it is gone, an open one is needed");
 * assert(error.reason === "lost" && error.label === "mul.3");
 * ```
 * @since 0.3.0
 */
export class DeviceError extends Error {
  override readonly name = "DeviceError";
  readonly reason: DeviceErrorReason;
  readonly label: string;
  constructor(reason: DeviceErrorReason, label: string, message: string) {
    super(`${message} (docs/errors.md#device)`);
    this.reason = reason;
    this.label = label;
  }
}

/**
 * Throws when a condition that the library itself guarantees does not hold.
 *
 * @throws {Error} if the condition is false
 * @example A condition that holds
 * ```ts
 * ct.invariant(1 + 1 === 2, "arithmetic");
 * assertThrows(() => ct.invariant(1 + 1 === 3, "arithmetic"), Error);
 * ```
 * @since 0.1.0
 */
export function invariant(condition: unknown, what: string): asserts condition {
  if (!condition) throw new Error(`Invariant broken: ${what}; please report this`);
}
