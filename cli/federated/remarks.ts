/** What is to be said of a run beside its numbers: who came late, who left, and what the server has seen. */
import { clientWords } from "./presence.ts";
import type { FederatedSummary } from "./summary.ts";

/** A fraction as a percentage. */
export function percent(fraction: number | null): string {
  return fraction === null ? "-" : `${(100 * fraction).toFixed(2)}%`;
}

/** A sentence for each, in order. */
export function remarksOf({ joined, forgotten, masked, clients }: FederatedSummary): readonly string[] {
  const remarks: string[] = [];
  if (joined !== null) {
    const there = new Set(joined.flat());
    const missing = clients.flatMap((_, client) => (there.has(client) ? [] : [client]));
    const came = joined.flatMap(({ length }, round) =>
      length === 0 ? [] : [`${length} in round ${round + 1}`],
    );
    if (joined.length > 1) remarks.push(`new clients: ${came.join(", ")}; each sent once`);
    if (missing.length > 0) remarks.push(`not in the model, as they have not come: ${clientWords(missing)}`);
  }
  if (forgotten !== null) {
    const { clients: left, before, after, deviation } = forgotten;
    remarks.push(
      `${clientWords(left)} left: accuracy ${percent(before)} before, ${percent(after)} after; weights differ from those fitted without them by ${deviation.toExponential(1)} of the largest`,
    );
  }
  if (masked !== null) {
    const { fractionBits, sumRounding, revealedKeys } = masked;
    const revealed =
      revealedKeys === 0
        ? ""
        : `; masks of clients that were away were removed with the ${revealedKeys} keys that others share with them`;
    remarks.push(
      `the server could read masked sums only; numbers are multiples of 2^-${fractionBits}, so each of a sum is within ${sumRounding.toExponential(1)} of the unmasked one, and rounding of float64${revealed}; keys come from the seed, so who knows it can remove masks`,
    );
  }
  return remarks;
}
