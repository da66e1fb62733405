/** Sums of many terms, one after the other: partial sums of partial sums, so that what float32 loses stays small. */

/** A partial sum has so many terms, or partial sums. */
const BLOCK = 64;

type Word = "f32" | "i32" | "u32";

/** Names of the partial sums, innermost first: those of integers are exact, and one is enough. */
function namesOf(type: Word, most: number): string[] {
  const names = ["sum0"];
  for (let terms = BLOCK; type === "f32" && terms < most; terms *= BLOCK) names.push(`sum${names.length}`);
  return names;
}

export interface LongSum {
  readonly text: string;
  /** What was added so far, as an expression: also within the loop. */
  readonly total: string;
}

/**
 * A loop of `k` from `first` to before `end`, `step` at a time and `most` times at most, all expressions without side
 * effects. `body` is given the name of the sum to add to, and the expression of the total.
 */
export function longSum(
  type: Word,
  range: { readonly first: string; readonly end: string; readonly step: number; readonly most: number },
  body: (sum: string, total: string) => string,
): LongSum {
  const { first, end, step, most } = range;
  const names = namesOf(type, most);
  // The smallest are added first.
  const total = names.reduceRight((outer, name) => (outer === "" ? name : `(${outer} + ${name})`), "");
  const levels = names.length - 1;
  const loop = (level: number, from: string, to: string): string => {
    if (level === 0) return `for (var k = ${from}; k < ${to}; k += ${step}u) {\n${body("sum0", total)}\n}`;
    const words = step * BLOCK ** level;
    const inner = loop(level - 1, `start${level}`, `end${level}`);
    return `for (var start${level} = ${from}; start${level} < ${to}; start${level} += ${words}u) {
let end${level} = min(${to}, start${level} + ${words}u);
${inner}
sum${level} += sum${level - 1};
sum${level - 1} = ${type}();
}`;
  };
  const declarations = names.map((name) => `var ${name} = ${type}();`).join("\n");
  return { text: `${declarations}\n${loop(levels, first, end)}`, total };
}
