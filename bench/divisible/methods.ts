/** The methods that bench/divisible.ts compares, as data. */
import { blockCompressor } from "../../dist/compress/block.ts";
import { decoupledMomentum } from "../../dist/compress/decoupled_momentum.ts";
import { type DivAdamOptions, divAdam } from "../../dist/compress/div_adam.ts";
import {
  detachedErrorFeedback,
  errorFeedback,
  stepAheadErrorFeedback,
} from "../../dist/compress/error_feedback.ts";
import { gradientFeedbackAdam } from "../../dist/compress/gradient_feedback.ts";
import { diLoCo, localAdam } from "../../dist/compress/local_adam.ts";
import type { CommunicatingMethod } from "../../dist/compress/method.ts";
import { oneBitAdam } from "../../dist/compress/one_bit_adam.ts";
import { topKCompressor } from "../../dist/compress/top_k.ts";
import { zeroOneAdam } from "../../dist/compress/zero_one_adam.ts";
import { dividedGradients, lateAdam, ownSquares } from "./controls.ts";

/** Whether workers draw from all classes alike, or have most of few classes. */
export type Spread = "iid" | "dirichlet";

/** What the methods of a run are made of. */
export interface Setting {
  readonly shapes: readonly (readonly number[])[];
  readonly steps: number;
  readonly seed: number;
  readonly learningRate: (step: number) => number;
}

/** A method with its settings. */
export interface Design {
  readonly name: string;
  /** The learning rate at the beginning. */
  readonly rate: Readonly<Record<Spread, number>>;
  /** Rates among which `rate` was chosen; none: it is Adam's. */
  readonly grid: readonly number[];
  /** Where it is compared. */
  readonly spreads: readonly Spread[];
  /** How long its steps take in one process, about, with a step of Adam as 1. */
  readonly work: number;
  /** At most so many seeds: for those whose steps take long. */
  readonly mostSeeds: number;
  make(setting: Setting): CommunicatingMethod<unknown>;
}

const both: readonly Spread[] = ["iid", "dirichlet"];

const design = (
  name: string,
  make: Design["make"],
  options: Partial<Omit<Design, "name" | "make">> = {},
): Design => ({
  name,
  make,
  rate: { iid: 1e-3, dirichlet: 1e-3 },
  grid: [],
  spreads: both,
  work: 1,
  mostSeeds: Infinity,
  ...options,
});

const divided = (name: string, options: Partial<DivAdamOptions>, spreads = both): Design =>
  design(name, (setting) => divAdam({ ...setting, ...options }), { spreads });

/** Both ratios at their periods; where workers differ also with less of what they keep back. */
const divisible: readonly Design[] = (
  [
    [1024, 2],
    [1024, 4],
    [1024, 8],
    [128, 4],
    [128, 8],
  ] as const
).flatMap(([ratio, period]) => {
  const name = `div-adam R=${ratio} H=${period}`;
  return [
    divided(name, { ratio, period }),
    divided(`${name} λ=0.3`, { ratio, period, residualWeight: 0.3 }, ["dirichlet"]),
  ];
});

/** Half the bytes in the background. */
const INTEGERS = { ratio: 1024, period: 8, precision: "int16" } as const;

/** One number of so many is sent by methods that have no background. */
const RATIO = 128;
/** Steps from one mean to the next of methods that are alone in between. */
const PERIOD = 8;
/** Without a step ahead gradients do not see what was kept back for a hundred steps. */
const LATE_GRID: readonly number[] = [3e-4, 1e-3, 3e-3, 1e-2];
const MOMENTUM_GRID: readonly number[] = [0.003, 0.01, 0.03, 0.1];
const SIGN_GRID: readonly number[] = [3e-4, 1e-3, 3e-3];

/** All of the table, Adam first. */
export const designs: readonly Design[] = [
  divided("Adam", { ratio: 1 }),
  ...divisible,
  divided("div-adam R=1024 H=8 int16", INTEGERS, ["iid"]),
  divided("div-adam R=1024 H=8 λ=0.3 int16", { ...INTEGERS, residualWeight: 0.3 }, ["dirichlet"]),
  ...[2, 4].map((period) =>
    divided(`div-adam R=1024 H=${period}, momenta averaged`, { ratio: 1024, period, averageMomentum: true }, [
      "dirichlet",
    ]),
  ),
  divided("foreground only R=1024", { ratio: 1024, period: Infinity }),
  divided("foreground only R=128", { ratio: 128, period: Infinity }),
  ...[RATIO, 1024].flatMap((ratio) => [
    design(`gradient-EF Adam, block R=${ratio}`, (setting) =>
      gradientFeedbackAdam({ ...setting, compressor: blockCompressor({ ...setting, ratio }) }),
    ),
    design(
      `gradient-EF Adam, top-k R=${ratio}`,
      (setting) => gradientFeedbackAdam({ ...setting, compressor: topKCompressor({ ...setting, ratio }) }),
      { work: 3, mostSeeds: 1 },
    ),
  ]),
  design(
    `EF momentum R=${RATIO}`,
    (setting) => errorFeedback({ ...setting, compressor: blockCompressor({ ...setting, ratio: RATIO }) }),
    { grid: LATE_GRID, rate: { iid: 1e-3, dirichlet: 1e-3 }, mostSeeds: 2 },
  ),
  design(
    `SAEF momentum R=${RATIO}`,
    (setting) =>
      stepAheadErrorFeedback({ ...setting, compressor: blockCompressor({ ...setting, ratio: RATIO }) }),
    { grid: MOMENTUM_GRID, rate: { iid: 0.03, dirichlet: 0.03 }, mostSeeds: 2 },
  ),
  design(
    `DEF momentum R=${RATIO}`,
    (setting) =>
      detachedErrorFeedback({ ...setting, compressor: blockCompressor({ ...setting, ratio: RATIO }) }),
    { grid: MOMENTUM_GRID, rate: { iid: 0.03, dirichlet: 0.03 }, mostSeeds: 2 },
  ),
  design(
    "1-bit Adam, frozen at 20%",
    (setting) => oneBitAdam({ ...setting, freezeStep: Math.ceil(setting.steps / 5) }),
    { work: 3, mostSeeds: 1 },
  ),
  design(
    "0/1 Adam, frozen at 20%",
    (setting) =>
      zeroOneAdam({
        ...setting,
        varianceFreezeStep: Math.ceil(setting.steps / 5),
        localScale: Math.ceil(setting.steps / 5),
        localClip: PERIOD,
      }),
    { work: 2, mostSeeds: 1 },
  ),
  design(`local Adam H=${PERIOD}`, (setting) => localAdam({ ...setting, period: PERIOD }), { work: 0.5 }),
  design(`DiLoCo H=${PERIOD}`, (setting) => diLoCo({ ...setting, period: PERIOD }), { work: 0.5 }),
  design("DeMo, chunks of 64, top 32", (setting) => decoupledMomentum(setting), {
    grid: SIGN_GRID,
    work: 4,
    mostSeeds: 1,
  }),
];

/** A background as that of divAdam with R=1024 H=8, which is among them to be compared with. */
const DIVISION = { ratio: 1024, period: PERIOD } as const;

/** Methods that lack a part of divAdam. */
export const controls: readonly Design[] = [
  divided("Adam", { ratio: 1 }),
  divided(`div-adam R=1024 H=${PERIOD}`, DIVISION),
  design(`Adam, all gradients ${PERIOD} steps late`, (setting) => lateAdam(setting, PERIOD)),
  ...[RATIO, 1024].map((ratio) =>
    design(`gradients divided R=${ratio} H=${PERIOD}`, (setting) =>
      dividedGradients(setting, { ratio, period: PERIOD }),
    ),
  ),
  design(`own v R=1024 H=${PERIOD}, nothing averaged, no dense steps`, (setting) =>
    ownSquares(setting, { ...DIVISION, averages: "nothing", warmup: 0 }),
  ),
  ...(["nothing", "residual", "residual and moments"] as const).map((averages) =>
    design(`own v R=1024 H=${PERIOD}, ${averages} averaged`, (setting) =>
      ownSquares(setting, { ...DIVISION, averages }),
    ),
  ),
];
