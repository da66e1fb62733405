/** report.html: a page that needs nothing else, with the loss curves of one or more runs and their eigenvalues. */
import { writeWhole } from "../core/io.ts";
import { showBytes, showRatios } from "../dist/plan_cost.ts";
import { align, escapeHtml, type Plot, type Point, plotsPage } from "./plots.ts";
import { secondsText } from "./progress_line.ts";
import { type Metric, readMetrics, readSummary, type Summary } from "./run_directory.ts";

interface Run {
  readonly name: string;
  readonly summary: Summary;
  readonly metrics: readonly Metric[];
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
  const title = runs.map((run) => run.name).join(", ");
  const heading = runs.length === 1 ? runs[0]!.name : `${runs.length} runs`;
  await writeWhole(
    path,
    plotsPage(title, [
      { html: `<h1>${escapeHtml(heading)}</h1>${table(runs)}` },
      ...plotsOf(runs).map((plot) => ({ plot })),
    ]),
  );
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

/** At most about 500 points: means over equal stretches, so that a curve of many steps stays readable and small. */
function smooth(points: readonly Point[]): readonly Point[] {
  const width = Math.ceil(points.length / 500);
  if (width <= 1) return points;
  return Array.from({ length: Math.ceil(points.length / width) }, (_, i) => {
    const part = points.slice(i * width, (i + 1) * width);
    return [part.at(-1)![0], part.reduce((sum, [, y]) => sum + y, 0) / part.length] as const;
  });
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
    ["sent", (s) => showBytes(s.bytesSent - (s.backgroundBytes ?? 0))],
    ["sent in the background", (s) => showBytes(s.backgroundBytes ?? 0)],
    ["achieved ratio", (s) => (s.achievedRatio === undefined ? "" : showRatios(s.achievedRatio))],
    ["waited for messages", (s) => (s.exposedSeconds === undefined ? "" : secondsText(s.exposedSeconds))],
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
  return `<div class="overflow"><table>${head}${body.join("")}</table></div>`;
}
