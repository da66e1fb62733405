/**
 * How places of one array meet places of another along a spatial axis of a convolution. Result place u, kernel element
 * k and source place v belong together where
 *
 *   denominator v = numerator u + tap k + offset
 *
 * With a denominator of d only every so many kernel elements meet a u, and the same ones for every u that is a period
 * apart. Such phases are computed one by one, or together where they are alike: zeros between elements are never met.
 */

export interface Relation {
  readonly denominator: number;
  readonly numerator: number;
  readonly tap: number;
  readonly offset: number;
}

/** A number that grows with the phase i, the position q in a phase and the tap j. */
export interface Affine {
  readonly first: number;
  readonly phase: number;
  readonly step: number;
  readonly tap: number;
}

/** Phases that are alike: all that is in one of them is in the next, a constant further. */
export interface Run {
  readonly phases: number;
  /** Result places of a phase. */
  readonly count: number;
  /** Kernel elements that each of them meets; 0 = their sums are empty. */
  readonly taps: number;
  /** The result place u, the kernel element k and the source place v. */
  readonly place: Affine;
  readonly element: Affine;
  readonly source: Affine;
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

/** All result places below `size`, for kernel elements below `elements`. */
export function runsOf(relation: Relation, size: number, elements: number): Run[] {
  const { denominator, numerator, tap, offset } = relation;
  const period = denominator / gcd(numerator, denominator);
  const apart = denominator / gcd(Math.abs(tap), denominator);
  const runs: Run[] = [];
  for (let u = 0; u < Math.min(period, size); u++) {
    let first = 0;
    const far = numerator * u + offset;
    while (first < Math.min(apart, elements) && (far + tap * first) % denominator !== 0) first++;
    const isMet = first < Math.min(apart, elements);
    const phase: Run = {
      phases: 1,
      count: Math.ceil((size - u) / period),
      taps: isMet ? Math.ceil((elements - first) / apart) : 0,
      place: { first: u, phase: 0, step: period, tap: 0 },
      element: { first: isMet ? first : 0, phase: 0, step: 0, tap: apart },
      source: {
        first: isMet ? (far + tap * first) / denominator : 0,
        phase: 0,
        step: (numerator * period) / denominator,
        tap: (tap * apart) / denominator,
      },
    };
    const longer = runs.length > 0 ? joined(runs.at(-1)!, phase) : null;
    if (longer) runs[runs.length - 1] = longer;
    else runs.push(phase);
  }
  return runs;
}

/** A run with one phase more; null where that one is not like the others. */
function joined(run: Run, next: Run): Run | null {
  if (run.count !== next.count || run.taps !== next.taps) return null;
  const steps = (["place", "element", "source"] as const).map((name) => {
    const step = (next[name].first - run[name].first) / run.phases;
    return run.phases === 1 || step === run[name].phase ? step : null;
  });
  const [place, element, source] = steps;
  if (place == null || element == null || source == null) return null;
  return {
    ...run,
    phases: run.phases + 1,
    place: { ...run.place, phase: place },
    element: { ...run.element, phase: element },
    source: { ...run.source, phase: source },
  };
}

/** The first and the last source place that any run reaches; null where none does. */
export function reachOf(runs: readonly Run[]): readonly [first: number, last: number] | null {
  const ends = runs
    .filter(({ taps }) => taps > 0)
    .flatMap(({ phases, count, taps, source }) =>
      [0, phases - 1].flatMap((i) =>
        [0, count - 1].flatMap((q) =>
          [0, taps - 1].map((j) => source.first + i * source.phase + q * source.step + j * source.tap),
        ),
      ),
    );
  return ends.length === 0 ? null : [Math.min(...ends), Math.max(...ends)];
}

/** Every choice of one from each list, the last changing fastest. */
export function choices<T>(lists: readonly (readonly T[])[]): T[][] {
  return lists.reduce<T[][]>((all, list) => all.flatMap((some) => list.map((one) => [...some, one])), [[]]);
}
