/** report.html: a page that needs nothing else, with the loss curves of one or more runs and their eigenvalues. */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { writeWhole } from "../core/io.ts";
import { showBytes } from "../dist/plan_cost.ts";
import { secondsText } from "./progress_line.ts";
import { type Metric, readMetrics, readSummary, type Summary } from "./run_directory.ts";

interface Run {
  readonly name: string;
  readonly summary: Summary;
  readonly metrics: readonly Metric[];
}

/** One plot: a list of x and, for every curve, its name and its values at those x, null where it has none. */
interface Plot {
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly logarithmic: boolean;
  readonly x: readonly number[];
  readonly curves: readonly { readonly name: string; readonly y: readonly (number | null)[] }[];
}

/**
 * Writes a report of runs, the first of them first.
 *
 * @throws {UsageError} if a directory is not that of a finished or stopped run
 */
export async function writeReport(path: string, directories: readonly string[]): Promise<void> {
  const runs = directories.map(
    (directory): Run => ({
      name: directory,
      summary: readSummary(directory),
      metrics: readMetrics(directory),
    }),
  );
  await writeWhole(path, page(runs, plotsOf(runs)));
}

function plotsOf(runs: readonly Run[]): Plot[] {
  const label = (run: Run): string =>
    runs.length === 1 ? run.summary.optimizer : `${run.summary.optimizer} (${run.name})`;
  const curve = (
    title: string,
    yLabel: string,
    logarithmic: boolean,
    pick: (metric: Metric) => number | undefined,
  ): Plot => {
    const series = runs.map((run) => ({
      name: label(run),
      points: smooth(
        run.metrics.flatMap((m) => (pick(m) === undefined ? [] : [[m.step, pick(m)!] as const])),
      ),
    }));
    return align({ title, xLabel: "step", yLabel, logarithmic }, series);
  };
  const plots = [
    curve("Training loss", "mean loss", true, (m) => m.loss),
    curve("Test loss", "mean loss", true, (m) => m.testLoss),
    curve("Test accuracy", "fraction right", false, (m) => m.testAccuracy),
  ];
  for (const run of runs) {
    const refreshes = run.metrics.filter((m) => m.eigenvalues !== undefined);
    if (refreshes.length === 0) continue;
    const count = Math.max(...refreshes.map((m) => m.eigenvalues!.length));
    const series = Array.from({ length: count }, (_, i) => ({
      name: `eigenvalue ${i + 1}`,
      points: refreshes.flatMap((m) =>
        m.eigenvalues!.length > i ? [[m.curvatureStep ?? m.step, m.eigenvalues!.at(-1 - i)!] as const] : [],
      ),
    }));
    const positive = series.every(({ points }) => points.every(([, value]) => value > 0));
    plots.push(
      align(
        {
          title: `Largest Hessian eigenvalues: ${label(run)}`,
          xLabel: "step",
          yLabel: "Ritz value",
          logarithmic: positive,
        },
        series,
      ),
    );
  }
  return plots.filter((plot) => plot.x.length > 0);
}

type Point = readonly [x: number, y: number];

/** At most about 500 points: means over equal stretches, so that a curve of many steps stays readable and small. */
function smooth(points: readonly Point[]): readonly Point[] {
  const width = Math.ceil(points.length / 500);
  if (width <= 1) return points;
  return Array.from({ length: Math.ceil(points.length / width) }, (_, i) => {
    const part = points.slice(i * width, (i + 1) * width);
    return [part.at(-1)![0], part.reduce((sum, [, y]) => sum + y, 0) / part.length] as const;
  });
}

/** Puts curves with their own x on one common list of x. */
function align(
  frame: Omit<Plot, "x" | "curves">,
  series: readonly { readonly name: string; readonly points: readonly Point[] }[],
): Plot {
  const x = [...new Set(series.flatMap(({ points }) => points.map(([at]) => at)))].sort((a, b) => a - b);
  const curves = series.map(({ name, points }) => {
    const values = new Map(points);
    return { name, y: x.map((at) => values.get(at) ?? null) };
  });
  return { ...frame, x, curves };
}

/** A file of the plotting library, uPlot. */
function libraryFile(name: string): string {
  const main = createRequire(import.meta.url).resolve("uplot");
  return readFileSync(join(dirname(main), name), "utf8");
}

const escapeHtml = (text: string): string => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

function page(runs: readonly Run[], plots: readonly Plot[]): string {
  const data = JSON.stringify(plots).replaceAll("<", "\\u003c");
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(runs.map((run) => run.name).join(", "))}</title>
<style>
${libraryFile("uPlot.min.css")}
body { font: 15px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .3rem; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .15rem 1rem .15rem 0; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
.overflow { overflow-x: auto; }
</style>
<h1>${escapeHtml(runs.length === 1 ? runs[0]!.name : `${runs.length} runs`)}</h1>
<div class="overflow">${table(runs)}</div>
<div id="plots"></div>
<script>${libraryFile("uPlot.iife.min.js")}</script>
<script>
const plots = ${data};
const colours = ["#1f6fb4", "#d1495b", "#2e8b57", "#8a5fb0", "#b8860b", "#3a9ea5", "#7f7f7f", "#c7588f"];
const host = document.getElementById("plots");
for (const plot of plots) {
  const heading = document.createElement("h2");
  heading.textContent = plot.title;
  const box = document.createElement("div");
  host.append(heading, box);
  const series = plot.curves.map((curve, i) => ({
    label: curve.name, stroke: colours[i % colours.length], width: 1.5, spanGaps: true,
    points: { show: plot.x.length < 40 },
    value: (_, v) => v == null ? "" : Number(v).toPrecision(5),
  }));
  new uPlot({
    width: Math.min(920, document.body.clientWidth), height: 320,
    scales: { x: { time: false }, y: plot.logarithmic ? { distr: 3 } : {} },
    axes: [{ label: plot.xLabel }, { label: plot.yLabel, size: 70 }],
    series: [{ label: plot.xLabel }, ...series],
  }, [plot.x, ...plot.curves.map((curve) => curve.y)], box);
}
</script>
</html>
`;
}

function table(runs: readonly Run[]): string {
  const rows: readonly (readonly [string, (summary: Summary) => string])[] = [
    ["task", (s) => s.task],
    ["model", (s) => s.model],
    ["optimizer", (s) => s.optimizer],
    ["workers", (s) => String(s.workers)],
    ["device", (s) => s.device],
    ["steps", (s) => `${s.steps}${s.complete ? "" : " (stopped)"}`],
    ["time", (s) => secondsText(s.seconds)],
    ["final training loss", (s) => s.finalLoss.toPrecision(5)],
    ["test accuracy", (s) => `${(100 * s.testAccuracy).toFixed(2)}%`],
    ["sent", (s) => showBytes(s.bytesSent)],
    ["peak memory", (s) => showBytes(s.peakMemoryBytes)],
    ["seed", (s) => String(s.seed)],
  ];
  const head =
    runs.length === 1
      ? ""
      : `<tr><th></th>${runs.map((run) => `<th>${escapeHtml(run.name)}</th>`).join("")}</tr>`;
  const body = rows.map(
    ([name, text]) =>
      `<tr><th>${name}</th>${runs.map((run) => `<td>${escapeHtml(text(run.summary))}</td>`).join("")}</tr>`,
  );
  return `<table>${head}${body.join("")}</table>`;
}
