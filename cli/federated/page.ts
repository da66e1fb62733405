/** report.html of a federated run: accuracies of clients, over rounds and seconds, and bytes by formula and counted. */
import { showBytes } from "../../dist/plan_cost.ts";
import { align, escapeHtml, type Part, type Plot, plotsPage } from "../plots.ts";
import { secondsText } from "../progress_line.ts";
import { percent, remarksOf } from "./remarks.ts";
import {
  type Accuracies,
  type ClientSummary,
  evaluatedRounds,
  type FederatedSummary,
  type Measured,
  sumOver,
} from "./summary.ts";

const columns = [
  ["global", "model of all"],
  ["personal", "own model"],
  ["alone", "alone"],
] as const satisfies readonly (readonly [keyof Accuracies, string])[];

/** The page. */
export function federatedPage(name: string, summary: FederatedSummary): string {
  const parts: Part[] = [
    {
      html: `<h1>${escapeHtml(name)}</h1>${overview(summary)}${remarkList(summary)}<h2>Accuracy</h2>${accuracyTable(summary)}`,
    },
    ...[histogram(summary.clients), overRounds(summary.curve), overSeconds(summary.curve)].flatMap((plot) =>
      plot.x.length === 0 ? [] : [{ plot }],
    ),
    { html: `<h2>Communication</h2>${bytesTable(summary)}<h2>Clients</h2>${clientTable(summary)}` },
  ];
  return plotsPage(name, parts);
}

function table(rows: readonly (readonly string[])[], head: readonly string[] = []): string {
  const cells = (row: readonly string[]): string =>
    row
      .map((text, i) => (i === 0 ? `<th>${escapeHtml(text)}</th>` : `<td>${escapeHtml(text)}</td>`))
      .join("");
  const first =
    head.length === 0 ? "" : `<tr>${head.map((text) => `<th>${escapeHtml(text)}</th>`).join("")}</tr>`;
  return `<div class="overflow"><table>${first}${rows.map((row) => `<tr>${cells(row)}</tr>`).join("")}</table></div>`;
}

function overview(s: FederatedSummary): string {
  return table([
    ["task", s.task],
    ["method", s.method],
    ["clients", `${s.clients.length}, ${s.partition}`],
    ["workers", String(s.workers)],
    ["rounds", `${s.rounds}${s.complete ? "" : " (stopped)"}`],
    ["evaluated after round", String(evaluatedRounds(s) ?? "-")],
    ["time of the rounds", secondsText(s.seconds)],
    ["time after the last", secondsText(s.endSeconds)],
    ["peak memory", showBytes(s.peakMemoryBytes)],
    ["seed", String(s.seed)],
  ]);
}

function remarkList(summary: FederatedSummary): string {
  const items = remarksOf(summary).map((remark) => `<li>${escapeHtml(remark)}</li>`);
  return items.length === 0 ? "" : `<ul>${items.join("")}</ul>`;
}

function accuracyTable({ accuracy, clientMean, clients }: FederatedSummary): string {
  const extreme = (of: keyof Accuracies, pick: (...values: number[]) => number): string => {
    const known = clients.flatMap((client) => (client[of] === null ? [] : [client[of]]));
    return percent(known.length === 0 ? null : pick(...known));
  };
  const rows = table(
    columns.map(([of, text]) => [
      text,
      percent(accuracy[of]),
      percent(clientMean[of]),
      extreme(of, Math.min),
      extreme(of, Math.max),
    ]),
    ["", "of all test examples", "mean of clients", "worst client", "best client"],
  );
  return `${rows}${notAloneList(clients)}`;
}

/** Clients that could not be trained alone, by reason. */
function notAloneList(clients: readonly ClientSummary[]): string {
  const reasons = new Map<string, number[]>();
  clients.forEach(({ aloneProblem }, client) => {
    if (aloneProblem !== null) reasons.set(aloneProblem, [...(reasons.get(aloneProblem) ?? []), client]);
  });
  if (reasons.size === 0) return "";
  const items = [...reasons].map(
    ([reason, own]) =>
      `<li>${escapeHtml(`client${own.length === 1 ? "" : "s"} ${own.join(", ")}: ${reason}`)}</li>`,
  );
  return `<p>Alone is without those that could not be trained alone:</p><ul>${items.join("")}</ul>`;
}

/** How many clients have accuracies from 0 to 5 %, from 5 to 10 %, and so on. */
export function histogram(clients: readonly Accuracies[]): Plot {
  const bins = 20;
  const series = columns.flatMap(([of, name]) => {
    const known = clients.flatMap((client) => (client[of] === null ? [] : [client[of]]));
    if (known.length === 0) return [];
    const counts = new Array<number>(bins).fill(0);
    for (const accuracy of known) counts[Math.min(bins - 1, Math.floor(bins * accuracy))]!++;
    return [{ name, points: counts.map((count, i) => [(i + 0.5) / bins, count] as const) }];
  });
  return align(
    { title: "Clients by accuracy", xLabel: "fraction right", yLabel: "clients", logarithmic: false },
    series,
  );
}

function curves(
  title: string,
  xLabel: string,
  curve: readonly Measured[],
  x: (at: Measured) => number,
): Plot {
  const series = columns.flatMap(([of, name]) => {
    const points = curve.flatMap((at) => (at[of] === null ? [] : [[x(at), at[of]] as const]));
    return points.length < 2 ? [] : [{ name, points }];
  });
  return align({ title, xLabel, yLabel: "fraction right", logarithmic: false }, series);
}

const overRounds = (curve: readonly Measured[]): Plot =>
  curves("Accuracy over rounds", "rounds", curve, ({ rounds }) => rounds);
const overSeconds = (curve: readonly Measured[]): Plot =>
  curves("Accuracy over time", "seconds of training", curve, ({ seconds }) => seconds);

const kinds = [
  ["received", "received in rounds"],
  ["sent", "sent in rounds"],
  ["receivedAtEnd", "received after the last"],
] as const;

function bytesTable({ clients, wire }: FederatedSummary): string {
  const count = clients.length;
  const rows = kinds.map(([of, text]) => {
    const formula = sumOver(clients, (client) => client.formula[of]);
    const counted = sumOver(clients, (client) => client[of]);
    return [text, showBytes(formula / count), showBytes(counted / count), showBytes(counted)];
  });
  const note =
    wire === null
      ? "<p>Nothing went through a connection.</p>"
      : `<p>Worker processes host several clients each, get one message for all of them, and evaluate with the model of all${wire.fromRound === 0 ? "" : `; since the run was resumed at round ${wire.fromRound}`}: ${showBytes(wire.payloadSent)} of values went to them and ${showBytes(wire.payloadReceived)} came back, ${showBytes(wire.sent + wire.received)} with everything around.</p>`;
  return `${table(rows, ["a client", "by formula (mean)", "counted (mean)", "counted, all clients"])}${note}`;
}

function clientTable({ clients }: FederatedSummary): string {
  const head = [
    "client",
    "training examples",
    "test examples",
    ...columns.map(([, text]) => text),
    ...kinds.map(([, text]) => text),
  ];
  const rows = clients.map((client, i) => [
    String(i),
    String(client.trainExamples),
    String(client.testExamples),
    ...columns.map(([of]) => percent(client[of])),
    ...kinds.map(([of]) => showBytes(client[of])),
  ]);
  return table(rows, head);
}
