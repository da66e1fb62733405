/** Markdown of a run on a GPU: one table, a row for each work. */
import type { MemoryResult } from "./gpu_memory_child.ts";
import type { GpuWork } from "./gpu_works.ts";
import { figures, head, type Run, row, short } from "./table.ts";
import { isTime } from "./works.ts";

export interface GpuRun extends Run {
  readonly works: readonly GpuWork[];
  /** Engines that did not start, and why. */
  readonly missing: readonly string[];
  readonly memory?: MemoryResult;
  /** Why there is no memory result. */
  readonly noMemory?: string;
}

interface Figure {
  readonly engine: string;
  readonly family: string;
  readonly value: number;
}

export function gpuMarkdown(run: GpuRun): string {
  const notes: string[] = [];
  const noteOf = (text: string): string => {
    if (!notes.includes(text)) notes.push(text);
    return `[${notes.indexOf(text) + 1}]`;
  };
  const cellOf = (work: GpuWork, engine: string): Run["cells"][number] | undefined =>
    run.cells.find((cell) => cell.work === work.id && cell.engine === engine);
  /** Far more arithmetic than the device does in registers; units for products may do a few times as much. */
  const isImpossible = (work: GpuWork, value: number): boolean =>
    work.bound === "arithmetic" && !work.isPeak && value > 10 * peakOf("arithmetic");
  /** The medians of a work, the best first. */
  const figuresOf = (work: GpuWork): Figure[] =>
    run.engines
      .flatMap(({ id, family }) => {
        const cell = cellOf(work, id);
        const found = cell && cell.why === undefined ? figures(work, cell) : null;
        return found && !isImpossible(work, found.median)
          ? [{ engine: id, family, value: found.median }]
          : [];
      })
      .toSorted((a, b) => (isTime(work) ? a.value - b.value : b.value - a.value));
  /** Infinite where it was not measured. */
  const peakOf = (bound: GpuWork["bound"]): number => {
    const values = run.works
      .filter((work) => work.isPeak && work.bound === bound)
      .flatMap((work) => figuresOf(work).map(({ value }) => value));
    return values.length === 0 ? Number.POSITIVE_INFINITY : Math.max(...values);
  };
  const shown = (work: GpuWork, engine: string): string => {
    const cell = cellOf(work, engine);
    if (!cell) return "";
    if (cell.why !== undefined) return cell.why === "" ? "" : `– ${noteOf(cell.why)}`;
    const found = figures(work, cell);
    if (!found) return "–";
    if (isImpossible(work, found.median))
      return `– ${noteOf("faster than the device: not all of it was done")}`;
    const mark = cell.mode === "jit" ? "" : cell.mode === "eager" && !work.isPeak ? " e" : "";
    const noise = found.isNoisy ? "~" : "";
    return `**${short(found.median)}** (${short(found.low)}–${short(found.high)})${noise}${mark}`;
  };
  const isOurs = ({ family }: Figure): boolean => family === "cotangent";
  const shareOf = (work: GpuWork, ours: Figure | undefined): string => {
    const peak = peakOf(work.bound);
    if (work.bound === undefined || work.isPeak || ours === undefined || !Number.isFinite(peak)) return "";
    return `${((100 * ours.value) / peak).toFixed(0)}%`;
  };
  const ratioOf = (work: GpuWork, ours: Figure | undefined): string => {
    const other = run.works.find(({ id }) => id === work.otherWay);
    const best = figuresOf(work).find((one) => !isOurs(one));
    const theirs = best ?? (other && figuresOf(other).find((one) => !isOurs(one)));
    if (ours === undefined || theirs === undefined || work.isPeak) return "";
    const times = isTime(work) ? theirs.value / ours.value : ours.value / theirs.value;
    return `**${times.toPrecision(3)}** (${theirs.family})`;
  };

  const present = run.works.filter(({ id }) => run.cells.some((cell) => cell.work === id));
  const lines = [
    `${run.machine}; ${run.rounds} interleaved rounds; **median** (min–max).`,
    "",
    ...head([
      "",
      "unit",
      ...run.engines.map(({ label }) => label),
      "share of the device",
      "times the best peer",
      "on the same Dawn",
    ]),
  ];
  for (const work of present) {
    const ours = figuresOf(work).find(isOurs);
    const beside = figuresOf(work).find(({ engine }) => engine === "cotangent-dawn");
    lines.push(
      row([
        work.title,
        work.unit,
        ...run.engines.map(({ id }) => shown(work, id)),
        shareOf(work, ours),
        ratioOf(work, ours),
        ratioOf(work, beside),
      ]),
    );
  }

  // A product needs 2 to 3 gradients of arithmetic.
  const gradients = run.works.find(({ id }) => id === "gradient");
  const products = run.works.find(({ id }) => id === "hvp");
  if (gradients && products) {
    const ratios = run.engines.map(({ id }) => {
      const [g, h] = [gradients, products].map((work) => figuresOf(work).find(({ engine }) => engine === id));
      return g && h ? `**${(g.value / h.value).toPrecision(3)}**` : "";
    });
    if (ratios.some((ratio) => ratio !== "")) {
      lines.push(row(["Hessian-vector product", "gradients", ...ratios, "", "", ""]));
    }
  }
  const { memory, noMemory } = run;
  const own = (text: string): string[] => run.engines.map(({ id }) => (id === "cotangent" ? text : ""));
  if (memory) {
    const { steps, atTenth, atEnd, seconds } = memory;
    const mega = (bytes: number): string => (bytes / 1e6).toFixed(0);
    const pair = (of: (usage: MemoryResult["atEnd"]) => number): string =>
      `${mega(of(atTenth))} → ${mega(of(atEnd))}`;
    const line = (title: string, text: string): void => {
      lines.push(row([title, "MB", ...own(text), "", "", ""]));
    };
    const title = `${steps} training steps in ${seconds.toFixed(0)} s, at 10% → 100%`;
    line(
      `${title}: resident`,
      pair(({ residentBytes }) => residentBytes),
    );
    line(
      "the same: on the device, in use",
      pair(({ liveBytes }) => liveBytes),
    );
    line(
      "the same: on the device, pooled",
      pair(({ pooledBytes }) => pooledBytes),
    );
    if (atTenth.cardBytes !== null && atEnd.cardBytes !== null) {
      line(
        "the same: of the card, by everybody",
        pair(({ cardBytes }) => cardBytes ?? 0),
      );
    }
  } else if (noMemory !== undefined) {
    lines.push(row(["training steps: memory", "MB", ...own(`– ${noteOf(noMemory)}`), "", "", ""]));
  }

  lines.push("", "`~`: others used the processor during every sample. `e`: eager, not compiled.");
  notes.forEach((note, i) => {
    lines.push(`[${i + 1}] ${note}`);
  });
  lines.push(...run.missing);
  return lines.join("\n");
}
