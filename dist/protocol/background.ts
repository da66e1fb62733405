/**
 * The hub's side of exchanges in the background: parts of one version per slot, then its result.
 *
 * A version has the same bits in every attempt and every replay, so a result stays valid for ever; parts do not outlive an
 * attempt, because a part says more than its bits: whoever has posted a version needs no earlier one any more. That is
 * when the result before it is let go, and not sooner: a worker that waits for it may still ask.
 */

import type { BlobId, Exchange } from "./types.ts";

/** What the hub holds for one slot. */
export interface HubExchange {
  readonly version: number;
  /** In which it was begun. */
  readonly attempt: number;
  /** By rank; all null once there is a result. */
  readonly parts: readonly (readonly BlobId[] | null)[];
  /** Number of the computation when all parts are in, otherwise 0. */
  readonly job: number;
  readonly result: readonly BlobId[] | null;
  /** The result of the version before, until every rank has posted this one. */
  readonly before: Given | null;
}

/** A result. */
export interface Given {
  readonly version: number;
  readonly result: readonly BlobId[];
}

/** Slots by name; a slot that was never used is missing. */
export type HubExchanges = Readonly<Record<string, HubExchange>>;

/** A part that has arrived. */
export interface Part {
  readonly version: number;
  readonly rank: number;
  readonly body: readonly BlobId[];
}

/** The slot with a part of the present attempt added, and the result that its sender is to be given at once. */
export function withPart(
  slot: HubExchange | undefined,
  { version, rank, body }: Part,
  { attempt, workers }: { readonly attempt: number; readonly workers: number },
): { readonly slot: HubExchange; readonly give: Given | null } {
  if (slot !== undefined && version === slot.version) {
    if (slot.result !== null) return { slot, give: { version, result: slot.result } };
    // Its first part counts; while the hub computes they are all there.
    if (slot.parts[rank] !== null) return { slot, give: null };
    return { slot: added(slot), give: null };
  }
  if (slot?.before?.version === version) return { slot, give: slot.before };
  // An old copy: in this attempt everybody is past that version. But a slot of an earlier attempt may be ahead of a replay.
  if (slot !== undefined && version < slot.version && slot.attempt === attempt) return { slot, give: null };
  const isNext = slot !== undefined && version > slot.version && slot.result !== null;
  const before = isNext ? { version: slot.version, result: slot.result } : null;
  const parts = Array.from({ length: workers }, () => null);
  return { slot: added({ version, attempt, parts, job: 0, result: null, before }), give: null };

  function added(to: HubExchange): HubExchange {
    const parts = to.parts.with(rank, body);
    return { ...to, parts, before: parts.includes(null) ? to.before : null };
  }
}

/** Whether all parts are in and nobody computes yet. */
export function isComplete({ parts, job, result }: HubExchange): boolean {
  return result === null && job === 0 && !parts.includes(null);
}

/** The payloads for the function of the hub: registers in the order of `send`, each by rank. */
export function partsInOrder({ parts }: HubExchange, { send }: Exchange): readonly BlobId[] {
  return send.flatMap((_, i) => parts.map((part) => part![i]!));
}

/** The slot with its result. */
export function withResult(slot: HubExchange, result: readonly BlobId[]): HubExchange {
  return { ...slot, parts: slot.parts.map(() => null), job: 0, result };
}

/** What a new attempt begins with: results. */
export function resultsOf(exchanges: HubExchanges): HubExchanges {
  return Object.fromEntries(
    Object.entries(exchanges).flatMap(([name, slot]) => {
      const given = slot.result === null ? slot.before : { version: slot.version, result: slot.result };
      return given === null
        ? []
        : [[name, { ...withResult(slot, given.result), version: given.version, before: null }]];
    }),
  );
}

/** The payload names in all slots. */
export function exchangeBlobs(exchanges: HubExchanges): readonly BlobId[] {
  return Object.values(exchanges).flatMap(({ parts, result, before }) => [
    ...parts.flatMap((part) => part ?? []),
    ...(result ?? []),
    ...(before?.result ?? []),
  ]);
}
