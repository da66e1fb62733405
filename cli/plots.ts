/** Pages of text and curves that need nothing else: the plotting library is in them. */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

/** A curve: its values at the x of the plot, null where it has none, and how far they spread if that is known. */
export interface Curve {
  readonly name: string;
  readonly y: readonly (number | null)[];
  readonly low?: readonly (number | null)[];
  readonly high?: readonly (number | null)[];
}

/** One plot: a list of x, and curves. */
export interface Plot {
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly logarithmic: boolean;
  readonly x: readonly number[];
  readonly curves: readonly Curve[];
}

export type Point = readonly [x: number, y: number];

/** A part of a page: text as HTML, or a plot. */
export type Part = { readonly html: string } | { readonly plot: Plot };

/** Puts curves with their own x on one common list of x. */
export function align(
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

export const escapeHtml = (text: string): string => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

/** A file of the plotting library, uPlot. */
function libraryFile(name: string): string {
  const main = createRequire(import.meta.url).resolve("uplot");
  return readFileSync(join(dirname(main), name), "utf8");
}

/** A page of parts, in their order. */
export function plotsPage(title: string, parts: readonly Part[]): string {
  const plots = parts.flatMap((part) => ("plot" in part ? [part.plot] : []));
  let index = 0;
  const body = parts.map((part) =>
    "html" in part
      ? part.html
      : `<h3>${escapeHtml(part.plot.title)}</h3><div class="plot" data-plot="${index++}"></div>`,
  );
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}</title>
<style>
${libraryFile("uPlot.min.css")}
body { font: 15px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .3rem; } h3 { font-size: 1.05rem; margin: 2rem 0 .3rem; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .15rem 1rem .15rem 0; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; white-space: nowrap; }
.overflow { overflow-x: auto; }
</style>
${body.join("\n")}
<script>${libraryFile("uPlot.iife.min.js")}</script>
<script>
const plots = ${JSON.stringify(plots).replaceAll("<", "\\u003c")};
const colours = ["#1f6fb4", "#d1495b", "#2e8b57", "#8a5fb0", "#b8860b", "#3a9ea5", "#7f7f7f", "#c7588f", "#5b6abf", "#a0522d"];
for (const box of document.querySelectorAll(".plot")) {
  const plot = plots[box.dataset.plot];
  const series = [{ label: plot.xLabel }], data = [plot.x], bands = [];
  const show = (_, v) => v == null ? "" : Number(v).toPrecision(5);
  plot.curves.forEach((curve, i) => {
    const stroke = colours[i % colours.length];
    series.push({ label: curve.name, stroke, width: 1.5, spanGaps: true, points: { show: plot.x.length < 40 }, value: show });
    data.push(curve.y);
    if (!curve.low) return;
    const edge = (name) => ({ label: curve.name + " " + name, stroke: "transparent", width: 0, spanGaps: true, points: { show: false }, value: show });
    series.push(edge("most"), edge("least"));
    data.push(curve.high, curve.low);
    bands.push({ series: [series.length - 2, series.length - 1], fill: stroke + "22" });
  });
  new uPlot({
    width: Math.min(920, document.body.clientWidth), height: 320, bands,
    scales: { x: { time: false }, y: plot.logarithmic ? { distr: 3 } : {} },
    axes: [{ label: plot.xLabel }, { label: plot.yLabel, size: 70 }],
    series,
  }, data, box);
}
</script>
</html>
`;
}
