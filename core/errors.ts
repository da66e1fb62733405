/**
 * The errors a user can meet. One format everywhere:
 * `Cannot <verb> <object>: <what is>, <what is needed>`, and structured fields for programs and tests.
 */

/** Shapes that do not fit the operation; `op` names it. See docs/errors.md#shape. */
export class ShapeError extends RangeError {
  override readonly name = "ShapeError";
  readonly op: string;
  constructor(op: string, message: string) {
    super(`${message} (docs/errors.md#shape)`);
    this.op = op;
  }
}

/** An element type that does not fit the operation. See docs/errors.md#dtype. */
export class DTypeError extends TypeError {
  override readonly name = "DTypeError";
  readonly op: string;
  constructor(op: string, message: string) {
    super(`${message} (docs/errors.md#dtype)`);
    this.op = op;
  }
}

/** A value that is not a tree of tensors, or two trees that differ; `path` says where. See docs/errors.md#tree. */
export class TreeError extends TypeError {
  override readonly name = "TreeError";
  readonly path: string;
  constructor(path: string, message: string) {
    super(`${message} (docs/errors.md#tree)`);
    this.path = path;
  }
}

/** A traced value used where it has no meaning. See docs/errors.md#trace. */
export class TraceError extends TypeError {
  override readonly name = "TraceError";
  constructor(message: string) {
    super(`${message} (docs/errors.md#trace)`);
  }
}

/** A primitive lacks the rule that a transform needs. See docs/errors.md#rule. */
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

/** A function that should be linear is not. See docs/errors.md#linearity. */
export class LinearityError extends TypeError {
  override readonly name = "LinearityError";
  constructor(message: string) {
    super(`${message} (docs/errors.md#linearity)`);
  }
}

/** Bytes that are not what they should be. See docs/errors.md#format. */
export class FormatError extends RangeError {
  override readonly name = "FormatError";
  constructor(message: string) {
    super(`${message} (docs/errors.md#format)`);
  }
}

/** A plan that cannot be run; `problems` lists what is wrong, field by field. See docs/errors.md#plan. */
export class PlanError extends RangeError {
  override readonly name = "PlanError";
  readonly problems: readonly string[];
  constructor(message: string, problems: readonly string[]) {
    super(`${message} (docs/errors.md#plan)`);
    this.problems = problems;
  }
}

/** A numerical check failed; fields hold the two numbers that should have agreed. See docs/errors.md#check. */
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

/** Throws when a condition that the library itself guarantees does not hold. */
export function invariant(condition: unknown, what: string): asserts condition {
  if (!condition) throw new Error(`Invariant broken: ${what}; please report this`);
}
