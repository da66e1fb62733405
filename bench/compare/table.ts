/** Markdown of a run: one table a group of works, then how this library compares. */
import { groups, isTime, type Work } from "./works.ts";

export interface Sample {
  readonly seconds: number;
  /** Cores that other processes used meanwhile; null where that is not known. */
  readonly others: number | null;
}

/** One engine on one work. */
export interface Cell {
  readonly work: string;
  readonly engine: string;
  readonly mode: string;
  readonly samples: readonly Sample[];
  /** Largest relative error of what it showed, if that is too much. */
  readonly error?: number;
  /** Why there are no samples. */
  readonly why?: string;
}

export interface Run {
  readonly machine: string;
  readonly rounds: number;
  readonly engines: readonly { readonly id: string; readonly family: string; readonly label: string }[];
  readonly cells: readonly Cell[];
}

/** Others may use so much of one core while a sample counts as clean. */
const QUIET_CORES = 0.15;
export const isClean = (sample: Sample | undefined): boolean =>
  sample !== undefined && (sample.others === null || sample.others <= QUIET_CORES);

export interface Figures {
  readonly median: number;
  readonly low: number;
  readonly high: number;
  /** No sample was clean, so all are used. */
  readonly isNoisy: boolean;
}

export function figures(work: Work, { samples }: Cell): Figures | null {
  const clean = samples.filter(isClean);
  const used = clean.length > 0 ? clean : samples;
  const values = used
    .map(({ seconds }) => (isTime(work) ? work.amount * seconds : work.amount / seconds))
    .toSorted((a, b) => a - b);
  if (values.length === 0) return null;
  const half = values.length / 2;
  const median = (values[Math.floor(half)]! + values[Math.ceil(half) - 1]!) / 2;
  return { median, low: values[0]!, high: values.at(-1)!, isNoisy: clean.length === 0 };
}

/** The best median of some engines, and whose it is. */
interface Best {
  readonly value: number;
  readonly label: string;
}

/** Three digits, thousands without fraction. */
export const short = (x: number): string => (x >= 100 ? x.toFixed(0) : x.toPrecision(3));

export const row = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
export const head = (cells: readonly string[]): string[] => [row(cells), `|${"-|".repeat(cells.length)}`];

export function markdown(run: Run): string {
  const cellOf = (work: string, engine: string): Cell | undefined =>
    run.cells.find((cell) => cell.work === work && cell.engine === engine);
  const notes: string[] = [];
  const noteOf = (text: string): string => {
    if (!notes.includes(text)) notes.push(text);
    return `[${notes.indexOf(text) + 1}]`;
  };
  const lines: string[] = [`${run.machine}; ${run.rounds} interleaved rounds; **median** (min–max).`];

  const shown = (work: Work, engine: string): string => {
    const cell = cellOf(work.id, engine);
    if (!cell) return "";
    if (cell.why !== undefined) return cell.why === "" ? "" : `– ${noteOf(cell.why)}`;
    const f = figures(work, cell);
    if (!f) return "–";
    const asked = work.id.split(":")[1] ?? (work.title.endsWith(", jit") ? "jit" : "");
    const marks = [
      f.isNoisy ? "~" : "",
      asked === "jit" && cell.mode === "eager" ? " eager" : "",
      cell.error === undefined ? "" : ` **wrong** ${noteOf(`off by ${(100 * cell.error).toPrecision(2)} %`)}`,
    ];
    return `**${short(f.median)}** (${short(f.low)}–${short(f.high)})${marks.join("")}`;
  };

  for (const { title, works } of groups) {
    const present = works.filter(({ id }) => run.cells.some((cell) => cell.work === id));
    const rows = run.engines.filter(({ id }) =>
      present.some((work) => {
        const cell = cellOf(work.id, id);
        return cell !== undefined && cell.why !== "";
      }),
    );
    if (present.length === 0) continue;
    lines.push("", `## ${title}`, "");
    lines.push(...head(["", ...present.map((work) => `${work.title}, ${work.unit}`)]));
    for (const { id, label } of rows) lines.push(row([label, ...present.map((work) => shown(work, id))]));
  }

  // --- ratios: more is better for this library
  const allWorks = groups.flatMap(({ works }) => works);
  /** The best right median of a family for a work. */
  const best = (work: Work, isMeant: (engine: Run["engines"][number]) => boolean): Best | null => {
    const ways = allWorks.filter(({ id }) => id === work.id || id === work.otherWay);
    const all = run.engines.filter(isMeant).flatMap(({ id, label }) =>
      ways.flatMap((way) => {
        const cell = cellOf(way.id, id);
        const f = cell && cell.error === undefined ? figures(way, cell) : null;
        return f ? [{ value: f.median, label }] : [];
      }),
    );
    return all.toSorted((a, b) => (isTime(work) ? a.value - b.value : b.value - a.value))[0] ?? null;
  };
  const ratio = (work: Work, ours: Best | null, theirs: Best | null): string => {
    if (!ours || !theirs) return "–";
    const times = isTime(work) ? theirs.value / ours.value : ours.value / theirs.value;
    return `**${times.toPrecision(3)}** (${theirs.label})`;
  };
  const isOurs = (engine: { readonly family: string }): boolean => engine.family === "cotangent";
  const isScript = ({ family }: { readonly family: string }): boolean =>
    family === "jax" || family === "tfjs";
  const ratios = allWorks.flatMap((work) => {
    const ours = best(work, isOurs);
    if (!ours) return [];
    const wasm = best(work, (engine) => isOurs(engine) && engine.id.includes("wasm"));
    const { limit } = work;
    const limitWork = allWorks.find(({ id }) => id === limit?.work);
    return [
      row([
        `${groups.find(({ works }) => works.includes(work))!.title}: ${work.title}`,
        `${short(ours.value)} ${work.unit} (${ours.label})`,
        ratio(work, ours, best(work, isScript)),
        ratio(work, wasm, best(work, isScript)),
        ratio(
          work,
          ours,
          best(work, ({ family }) => family === "torch"),
        ),
        limitWork
          ? ratio(
              work,
              ours,
              best(limitWork, ({ family }) => family === limit?.family),
            )
          : "",
      ]),
    ];
  });
  if (ratios.length > 0) {
    lines.push("", "## How many times as fast", "");
    lines.push(
      ...head([
        "",
        "cotangent, its best row",
        "to the best of jax-js, TensorFlow.js",
        "without BLAS to the same",
        "to the best of PyTorch",
        "to the machine",
      ]),
      ...ratios,
    );
  }

  lines.push("", "`~`: others used the processor during every sample. `eager`: not compiled.");
  notes.forEach((note, i) => {
    lines.push(`[${i + 1}] ${note}`);
  });
  return lines.join("\n");
}
