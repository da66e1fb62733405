/** Walks over expressions, which end at values that are known already. */
import type { Expr } from "../../expr.ts";
import { neededBy } from "./vector.ts";

export type Known = (e: Expr) => boolean;

/** How much work expressions are, in additions, without what is known. */
export function operations(roots: readonly Expr[], isKnown: Known): number {
  let count = 0;
  for (const e of reachable(roots, isKnown)) if (!isKnown(e)) count += costOf(e);
  return count;
}

function costOf({ op }: Expr): number {
  if (op === "input" || op === "const") return 0;
  if (op === "call") return 40;
  return op === "div" || op === "sqrt" ? 4 : 1;
}

/** Vector registers of a machine with sixteen: compilers keep one. */
const REGISTERS = 15;
/** So many values too many wait in memory without anyone waiting for them. */
const EXCESS = 2;
/** A body that is alone has at least so many constants in registers. */
const FEWEST_CONSTANTS = 5;

/** How many registers a body needs. */
export interface Pressure {
  /** For what differs from place to place, at most at a time; each copy of the body needs as many. */
  readonly moving: number;
  /** For what all copies read. */
  readonly fixed: number;
}

/** The pressure of a body that loads some inputs and then computes the roots one after the other. */
export function pressureOf(loads: readonly Expr[], roots: readonly Expr[]): Pressure {
  const order = inOrder(roots);
  const always = new Set(order);
  const moving = new Set(loads);
  const fixed = new Set<Expr>();
  const lastUse = new Map<Expr, number>();
  const valuesOf = order.map((e, at) => {
    // A rare branch is left out, but what it reads is held for it.
    const used =
      e.op === "rare" ? [...reachable(e.args, (x) => always.has(x))].filter((x) => always.has(x)) : e.args;
    const values = used.map(held).filter(({ op }) => op !== "const");
    if (e.op === "iota" || values.some((x) => moving.has(x))) moving.add(e);
    if (moving.has(e)) for (const x of values) if (!moving.has(x)) fixed.add(x);
    for (const x of [e, ...values]) lastUse.set(held(x), at);
    return values;
  });
  const live = new Set(loads.filter((load) => lastUse.has(load)));
  let now = sizeOf(live);
  let most = now;
  order.forEach((e, at) => {
    // What the last one computed may be for nothing but a store.
    const candidates = at === 0 ? valuesOf[at]! : [held(order[at - 1]!), ...valuesOf[at]!];
    for (const x of candidates) if (lastUse.get(x)! <= at && x !== e && live.delete(x)) now -= widthOf(x);
    const own = held(e);
    if (moving.has(e) && !live.has(own)) {
      live.add(own);
      now += widthOf(own);
    }
    most = Math.max(most, now);
  });
  return { moving: most, fixed: sizeOf(fixed) };
}

/** Whose register a value is in: the same bits are not copied. */
function held(e: Expr): Expr {
  return e.op === "bitcast" ? held(e.args[0]!) : e;
}

const widthOf = ({ type }: Expr): number => (type === "f64" ? 2 : 1);

function sizeOf(values: Iterable<Expr>): number {
  return [...values].reduce((total, x) => total + widthOf(x), 0);
}

/** What the roots need always, arguments first. */
function inOrder(roots: readonly Expr[]): readonly Expr[] {
  const found = new Set<Expr>();
  const visit = (e: Expr): void => {
    if (found.has(e)) return;
    for (const arg of neededBy(e)) visit(arg);
    found.add(e);
  };
  roots.forEach(visit);
  return [...found];
}

/** How many copies of a body are written together, and how many constants are in registers beside them. */
export interface Division {
  readonly copies: number;
  readonly constants: number;
}

/** The largest of these numbers of copies for which there are registers. */
export function divisionOf({ moving, fixed }: Pressure, numbers: readonly number[]): Division {
  const left = (copies: number): number => REGISTERS - copies * moving - fixed;
  const copies = numbers.find((n) => left(n) >= -EXCESS) ?? 1;
  return { copies, constants: Math.max(copies === 1 ? FEWEST_CONSTANTS : 0, left(copies)) };
}

/** Every node that the roots need, without what is below known ones; known ones are included. */
export function reachable(roots: readonly Expr[], isKnown: Known): Set<Expr> {
  const found = new Set<Expr>();
  const visit = (e: Expr): void => {
    if (found.has(e)) return;
    found.add(e);
    if (!isKnown(e)) e.args.forEach(visit);
  };
  roots.forEach(visit);
  return found;
}
