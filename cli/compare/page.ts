/** report.html of a comparison: tables with spread, and loss against steps, gradients and seconds. */
import { showBytes } from "../../dist/plan_cost.ts";
import { type Curve, escapeHtml, type Part, plotsPage } from "../plots.ts";
import { secondsText } from "../progress_line.ts";
import type { CompareConfig } from "./config.ts";
import { type RunRecord, type Spread, spread, type TaskResult } from "./results.ts";
import type { Point } from "./run.ts";

/** Points of a curve. */
const RESOLUTION = 80;

/** The page. */
export function comparePage(
  config: CompareConfig,
  results: readonly TaskResult[],
  records: readonly RunRecord[],
): string {
  const title = `${config.optimizers.length} methods on ${config.tasks.join(", ")}`;
  return plotsPage(title, [
    { html: `<h1>${escapeHtml(title)}</h1>${introduction(config)}` },
    ...results.flatMap((result) => taskParts(result, records)),
  ]);
}

function introduction(config: CompareConfig): string {
  const { budget, seeds, grid, gridShare, stop, rate } = config;
  const amount =
    budget.unit === "wall" ? `${secondsText(budget.amount)} of time` : `${budget.amount} ${budget.unit}`;
  const search =
    rate !== undefined
      ? `Every method has the learning rate ${rate}.`
      : grid > 1
        ? `The learning rate of each method is the best of at least ${grid}, each tried for ${Math.round(100 * gridShare)}% of that with a seed that is not compared; what the search took is in the table.`
        : "Every method has its default learning rate.";
  return `<p>Each run has ${amount}${stop === "target" ? ", and ends at the target" : ""}; evaluations and compiling are not counted in it.
Numbers are medians over ${seeds} seeds, with the least and the most of them. A product with the Hessian counts as a gradient of its batch, and linearizing the gradient, once for all products at a point, as another. ${search}</p>`;
}

function taskParts(result: TaskResult, records: readonly RunRecord[]): Part[] {
  const { metric, value } = result.target;
  const runs = records.filter(
    (record) => record.task === result.task && record.kind === "seed" && record.points.length > 0,
  );
  const optimizers = result.rows.map(({ optimizer }) => optimizer);
  const hasAccuracy = runs.some(({ points }) => points[0]!.accuracy !== null);
  const isPositive = runs.every(({ points }) => points.every(({ loss }) => loss > 0));
  const plot = (
    title: string,
    xLabel: string,
    yLabel: string,
    logarithmic: boolean,
    x: (point: Point) => number,
    y: (point: Point) => number | null,
  ): Part => ({ plot: { title, xLabel, yLabel, logarithmic, ...curvesOf(optimizers, runs, x, y) } });
  const loss = (point: Point): number => point.loss;
  const about =
    result.parameters === 0
      ? "No run could be made."
      : `${result.parameters} parameters; the target is ${metric === "loss" ? "a loss of at most" : "an accuracy of at least"} ${value} on data that no step has seen.`;
  return [
    {
      html: `<h2>${escapeHtml(result.name)}</h2><p>${about}</p>${table(result)}${pairs(result)}`,
    },
    plot("Loss against time", "seconds", "loss", isPositive, (p) => p.seconds, loss),
    plot("Loss against gradients", "gradients", "loss", isPositive, (p) => p.gradients, loss),
    plot("Loss against steps", "steps", "loss", isPositive, (p) => p.step, loss),
    ...(hasAccuracy
      ? [
          plot(
            "Accuracy against time",
            "seconds",
            "fraction right",
            false,
            (p) => p.seconds,
            (p) => p.accuracy,
          ),
        ]
      : []),
  ];
}

/** Medians over the seeds with least and most, on common x. */
function curvesOf(
  optimizers: readonly string[],
  runs: readonly RunRecord[],
  x: (point: Point) => number,
  y: (point: Point) => number | null,
): { readonly x: readonly number[]; readonly curves: readonly Curve[] } {
  const end = Math.max(0, ...runs.map(({ points }) => x(points.at(-1)!)));
  const at = Array.from({ length: RESOLUTION + 1 }, (_, i) => (end * i) / RESOLUTION);
  const curves = optimizers.map((name): Curve => {
    const own = runs.filter(({ optimizer }) => optimizer === name);
    const spreads = at.map((position) => spread(own.flatMap((run) => valueAt(run.points, position, x, y))));
    return {
      name,
      y: spreads.map(({ median }) => median),
      low: spreads.map(({ least }) => least),
      high: spreads.map(({ most }) => most),
    };
  });
  return { x: at, curves };
}

/** The value of a run at a position: that of its last evaluation before; none after its end. */
function valueAt(
  points: readonly Point[],
  position: number,
  x: (point: Point) => number,
  y: (point: Point) => number | null,
): readonly number[] {
  if (position > x(points.at(-1)!)) return [];
  const before = points.findLast((point) => x(point) <= position);
  const value = before ? y(before) : null;
  return value === null || !Number.isFinite(value) ? [] : [value];
}

function table({ rows }: TaskResult): string {
  const range = (
    { median, least, most }: Spread,
    digits: (x: number) => string,
    [none, few] = ["none", "most none"],
  ): string =>
    least === null || most === null
      ? none!
      : `${median === null ? few : digits(median)} <small>[${digits(least)}, ${digits(most)}]</small>`;
  const fixed = (x: number): string => (x < 10 ? x.toFixed(2) : x < 100 ? x.toFixed(1) : x.toFixed(0));
  const missed: [none: string, few: string] = ["not reached", "most not"];
  const columns: readonly (readonly [string, (row: TaskResult["rows"][number]) => string])[] = [
    ["method", ({ optimizer }) => escapeHtml(optimizer)],
    [
      "learning rate",
      ({ learningRate, isAtEdge, triedRates }) =>
        `${learningRate}${isAtEdge ? " (at the end of what was tried)" : ""}${triedRates.length > 0 ? ` <small>of ${triedRates.join(", ")}</small>` : ""}`,
    ],
    ["reached", ({ reached, seeds }) => `${reached} of ${seeds}`],
    ["diverged", ({ diverged, seeds }) => (diverged > 0 ? `${diverged} of ${seeds}` : "")],
    ["seconds to target", ({ toTarget }) => range(toTarget.seconds, fixed, missed)],
    ["gradients to target", ({ toTarget }) => range(toTarget.gradients, (x) => x.toFixed(0), missed)],
    ["steps to target", ({ toTarget }) => range(toTarget.steps, (x) => x.toFixed(0), missed)],
    ["loss at the end", ({ finalLoss }) => range(finalLoss, (x) => x.toPrecision(4))],
    [
      "accuracy at the end",
      ({ finalAccuracy }) =>
        finalAccuracy.least === null ? "" : range(finalAccuracy, (x) => `${(100 * x).toFixed(2)}%`),
    ],
    ["steps per second", ({ stepsPerSecond }) => range(stepsPerSecond, fixed)],
    ["state", ({ stateBytes }) => showBytes(stateBytes)],
    ["peak memory", ({ peakBytes }) => showBytes(peakBytes)],
    [
      "peak memory of a worker",
      ({ workerPeakBytes }) => (workerPeakBytes > 0 ? showBytes(workerPeakBytes) : ""),
    ],
    ["sent", ({ bytesSent }) => (bytesSent > 0 ? showBytes(bytesSent) : "")],
    [
      "search for the rate",
      ({ tuning }) => `${secondsText(tuning.seconds)}, ${tuning.gradients.toFixed(0)} gradients`,
    ],
    ["compiling", ({ compileSeconds }) => `${compileSeconds.toFixed(2)} s`],
    ["failed", ({ failures }) => escapeHtml(failures.join("; "))],
  ];
  const shown = columns.filter(([, text]) => rows.some((row) => text(row) !== ""));
  const head = shown.map(([name]) => `<th>${name}</th>`).join("");
  const body = rows.map((row) => `<tr>${shown.map(([, text]) => `<td>${text(row)}</td>`).join("")}</tr>`);
  return `<div class="overflow"><table><tr>${head}</tr>${body.join("")}</table></div>`;
}

function pairs({ pairs }: TaskResult): string {
  if (pairs.length === 0) return "";
  const times = (x: number | null): string => (x === null ? "-" : x.toFixed(2));
  const range = ({ median, least, most }: Spread): string =>
    `${times(median)} <small>[${times(least)}, ${times(most)}]</small> times`;
  const lines = pairs.map(
    ({ method, base, speedup, fewer, toBest }) =>
      `<li>${escapeHtml(method)} reaches the target ${range(speedup)} as fast as ${escapeHtml(base)}, with ${range(fewer)} fewer gradients, and the best that ${escapeHtml(base)} reaches ${range(toBest)} as fast</li>`,
  );
  return `<ul>${lines.join("")}</ul>`;
}
