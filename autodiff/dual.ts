/** Dual numbers: values that carry a tangent. Forward mode and linearize differ only in where the tangent's part runs. */
import type { AnyPrimitive } from "../core/primitive.ts";
import { bind, checkAlive, type Trace, withTrace } from "../core/trace.ts";
import { Tracer, type Value } from "../core/value.ts";

/** `primal + eps tangent`. A value that is not dual has the tangent zero. */
class DualTracer extends Tracer {
  readonly trace: DualTrace;
  readonly primal: Value;
  readonly tangent: Value;
  constructor(trace: DualTrace, primal: Value, tangent: Value) {
    super();
    this.trace = trace;
    this.primal = primal;
    this.tangent = tangent;
  }
  get aval(): Value["aval"] {
    return this.primal.aval;
  }
  override get behind(): Value {
    return this.primal;
  }
}

/**
 * Replaces every primitive by its jvp rule, which runs under the trace `rules`: the parent for forward mode, a recorder
 * of what is linear in the tangents for linearize.
 */
export class DualTrace implements Trace {
  readonly name: string;
  readonly #rules: Trace;

  constructor(name: string, rules: Trace) {
    this.name = name;
    this.#rules = rules;
  }

  lift(primal: Value, tangent: Value | null): Value {
    return tangent ? new DualTracer(this, primal, tangent) : primal;
  }

  /** The value itself; the duals of another trace are constants to this one. */
  primal(x: Value): Value {
    return x instanceof DualTracer && x.trace === this ? x.primal : x;
  }

  /** The primal of what the traced function returned; throws TraceError for a tracer of a transform that has ended. */
  result(x: Value): Value {
    const primal = this.primal(x);
    checkAlive(primal, "return");
    return primal;
  }

  /** `null` is a symbolic zero. */
  tangent(x: Value): Value | null {
    return x instanceof DualTracer && x.trace === this ? x.tangent : null;
  }

  process(prim: AnyPrimitive, args: readonly Value[], params: unknown): Value[] {
    const xs = args.map((x) => this.primal(x));
    const dxs = args.map((x) => this.tangent(x));
    return withTrace(this.#rules, () => {
      if (dxs.every((dx) => dx === null)) return bind(prim, xs, params);
      const [ys, dys] = prim.jvp(xs, dxs, params);
      return ys.map((y, i) => this.lift(y, dys[i]!));
    });
  }
}
