/**
 * Resources that belong to garbage: memory that the collector neither sees nor frees goes back once the object that
 * stands for it is collected. In a loop that never ends its turn no finalizer runs, so the host is asked to collect when
 * enough was made to be worth it, and the dead are found through WeakRefs.
 */
import { invariant } from "./errors.ts";

/** Collects within a turn: WeakRefs to garbage are empty when the call returns. */
export interface Collector {
  /** What was made since the last collection: its time does not depend on what is alive. */
  young(): void;
  /** All of it. */
  full(): void;
}

/** What is used of Bun's access to JavaScriptCore. */
interface Jsc {
  releaseWeakRefs(): void;
  edenGC(): number;
  fullGC(): number;
}

function isJsc(jsc: unknown): jsc is Jsc {
  if (typeof jsc !== "object" || jsc === null) return false;
  return ["releaseWeakRefs", "edenGC", "fullGC"].every(
    (name) => typeof Reflect.get(jsc, name) === "function",
  );
}

/** The host's; null where the targets of WeakRefs live until the turn ends, as in V8. */
export function hostCollector(): Collector | null {
  const jsc: unknown = globalThis.process?.getBuiltinModule?.("bun:jsc");
  if (!isJsc(jsc)) return null;
  return {
    young() {
      jsc.releaseWeakRefs();
      jsc.edenGC();
    },
    full() {
      jsc.releaseWeakRefs();
      jsc.fullGC();
    },
  };
}

export interface ReclaimPolicy {
  /** No more than this is owned, by the living and the dead together. Default: no bound. */
  readonly budgetBytes?: number;
  /** So much is made before dead objects are looked for; less takes more time. */
  readonly slackBytes: number;
  /** Where looking is dear, dead objects that grew old may own this much. */
  readonly mostSlackBytes: number;
  /** Default: what the host has. */
  readonly collector?: Collector | null;
}

/** Measured in Bun 1.4, with the library loaded. */
const YOUNG_MS = 0.3;
const FULL_MS = 2.5;
/**
 * The slack is doubled, once, where young collections take longer than what they interrupt. That is late, because little
 * slack costs little: the same memory is in the caches (100,000 steps on 64 KiB take as long with 16 MB as with 64 MB),
 * and on a busy machine every collection looks dear.
 */
const YOUNG_COST = 1;
const MOST_YOUNG_SLACK = 2;
/** So many resources are made between two of them, as those that live then grow old; but no more than so many slacks. */
const YOUNG_COUNT = 64;
const MOST_COUNT_SLACK = 4;
/**
 * An object that outlives one collection is found by a full one alone. Those come where such own two slacks, this share
 * of what is alive and so many resources; or more where full ones take more of the time than this.
 */
const FULL_SLACKS = 2;
const OLD_SHARE = 1 / 8;
const OLD_COUNT = 16;
const FULL_COST = 1 / 4;
/** What is not made of tracked objects is collected for its own sake in so much of the time, and no more often. */
const IDLE_COST = 1 / 32;
const YOUNG_PAUSE_MS = 100;
const FULL_PAUSE_MS = 1000;
/** The entries of so many dead, all of which outlived a collection themselves, are worth a full one. */
const MOST_RELEASED = 1 << 15;
/** The clock is read once in so many programs. */
const RUNS_PER_LOOK = 256;
/** A collection counts as at most so much longer than the one before: the system may have stopped the process in it. */
const LONGER = 1.5;

/** When to collect next, for collections of one kind. */
class Interval {
  readonly #least: number;
  readonly most: number;
  readonly #cost: number;
  /** So much is made between two of them. */
  slackBytes: number;
  #endedMs: number = performance.now();
  #tookMs: number;

  constructor(least: number, most: number, cost: number, tookMs: number) {
    this.#least = least;
    this.most = Math.max(least, most);
    this.#cost = cost;
    this.#tookMs = tookMs;
    this.slackBytes = least;
  }

  /** Runs a collection; `isDue` says that it comes because the slack is used up, and so tells what the slack costs. */
  time(collect: () => void, isDue: boolean): void {
    const beganMs = performance.now();
    collect();
    const pauseMs = beganMs - this.#endedMs;
    this.#endedMs = performance.now();
    const tookMs = this.#endedMs - beganMs;
    this.#tookMs = Math.min(tookMs, LONGER * this.#tookMs);
    if (!isDue) return;
    if (this.#tookMs > this.#cost * pauseMs) this.slackBytes = Math.min(2 * this.slackBytes, this.most);
    else if (this.#tookMs < (this.#cost / 3) * pauseMs)
      this.slackBytes = Math.max(this.slackBytes / 2, this.#least);
  }

  /** Whether another one now costs little, and the last one is so long ago. */
  isIdle(pauseMs: number): boolean {
    return performance.now() - this.#endedMs > Math.max(pauseMs, this.#tookMs / IDLE_COST);
  }
}

/** A resource of an object. */
export interface Owned<R> {
  readonly resource: R;
  readonly bytes: number;
}

interface Entry<R> extends Owned<R> {
  readonly owner: WeakRef<object>;
  /** Where it is in the list; -1 = released. */
  index: number;
}

/** The resources of one kind, each with an owner. Neither a resource nor `release` may hold an owner. */
export class Reclaimer<R> {
  readonly #release: (resource: R) => void;
  readonly #collector: Collector | null;
  readonly #budgetBytes: number;
  readonly #mostCountBytes: number;
  readonly #entries: Entry<R>[] = [];
  /** So many entries are older than the last collection: a young one does not find their owners dead. */
  #old = 0;
  #bytes = 0;
  /** Asked for since the last full collection, given or not. */
  #askedBytes = 0;
  readonly #young: Interval;
  readonly #full: Interval;
  /** `bytes` after the last collection, and when the next one is due. */
  #bytesAfter = 0;
  #youngAtBytes = 0;
  /** `bytes` after the last full collection. */
  #bytesAfterFull = 0;
  /** Entries released since the last full collection. */
  #released = 0;
  #isWatching = false;
  #runs = 0;

  constructor(release: (resource: R) => void, policy: ReclaimPolicy) {
    const { budgetBytes = Number.POSITIVE_INFINITY, slackBytes, mostSlackBytes } = policy;
    this.#release = release;
    this.#mostCountBytes = Math.min(MOST_COUNT_SLACK * slackBytes, mostSlackBytes);
    this.#collector = policy.collector === undefined ? hostCollector() : policy.collector;
    this.#budgetBytes = budgetBytes;
    this.#young = new Interval(
      slackBytes,
      Math.min(MOST_YOUNG_SLACK * slackBytes, mostSlackBytes),
      YOUNG_COST,
      YOUNG_MS,
    );
    this.#full = new Interval(FULL_SLACKS * slackBytes, mostSlackBytes, FULL_COST, FULL_MS);
    this.#schedule();
  }

  /** What is owned, by the living and by the dead that were not found yet. */
  get bytes(): number {
    return this.#bytes;
  }

  /**
   * Before so much is made: collects if it is time to, or if the budget has no room else. False if it has none even so;
   * where nothing collects within a turn, there may be room in a later one.
   */
  admit(bytes: number): boolean {
    this.#askedBytes += bytes;
    if (this.#bytes + bytes > this.#youngAtBytes && this.#collector !== null && !this.#isEarly(bytes)) {
      this.#collectYoung(this.#collector, true);
      const isDue = this.#bytes - this.#bytesAfterFull > this.#oldSlack(bytes);
      const needs = this.#bytes + bytes > this.#budgetBytes || this.#released > MOST_RELEASED;
      if (isDue || needs) this.#collectAll(this.#collector, isDue);
    }
    return this.#bytes + bytes <= this.#budgetBytes;
  }

  /** Whether few resources of this size were made; if so, puts the collection off. */
  #isEarly(bytes: number): boolean {
    const slackBytes = Math.min(YOUNG_COUNT * bytes, this.#mostCountBytes);
    this.#youngAtBytes = Math.max(
      this.#youngAtBytes,
      Math.min(this.#bytesAfter + slackBytes, this.#budgetBytes),
    );
    return this.#bytes + bytes <= this.#youngAtBytes;
  }

  /** How much the old and dead may own, where resources are of this size. */
  #oldSlack(bytes: number): number {
    const { slackBytes, most } = this.#full;
    return Math.max(slackBytes, OLD_SHARE * this.#bytesAfterFull, Math.min(OLD_COUNT * bytes, most));
  }

  /** The resource is released some time after its owner is garbage. */
  track(owner: object, bytes: number, resource: R): Owned<R> {
    const entry: Entry<R> = { resource, bytes, owner: new WeakRef(owner), index: this.#entries.length };
    this.#entries.push(entry);
    this.#bytes += bytes;
    if (!this.#isWatching) this.#watch();
    return entry;
  }

  /** Releases it now, while the owner may live; says whether it was not released before. */
  release(owned: Owned<R>): boolean {
    const entry = owned as Entry<R>;
    if (entry.index < 0) return false;
    invariant(this.#entries[entry.index] === entry, "a resource is released by the one who tracks it");
    // Old entries stay together: the last of them takes the place, and the last of all takes its place.
    let hole = entry.index;
    if (hole < this.#old) {
      this.#move(--this.#old, hole);
      hole = this.#old;
    }
    // Not onto itself: it may be the entry that has just moved.
    if (hole < this.#entries.length - 1) this.#move(this.#entries.length - 1, hole);
    this.#entries.pop();
    entry.index = -1;
    this.#released++;
    this.#bytes -= entry.bytes;
    this.#release(entry.resource);
    return true;
  }

  #move(from: number, to: number): void {
    const entry = this.#entries[from]!;
    entry.index = to;
    this.#entries[to] = entry;
  }

  /**
   * Collects all garbage because something that is not tracked here needs so many bytes; not if little can have died
   * since the last time. Says whether it did.
   */
  collect(bytes: number): boolean {
    this.#askedBytes += bytes;
    if (this.#collector === null) return false;
    if (this.#askedBytes < this.#full.slackBytes && !this.#full.isIdle(0)) return false;
    return this.collectAll();
  }

  /** Collects all garbage, however little that may be: for the one who has to fail otherwise. Says whether it did. */
  collectAll(): boolean {
    if (this.#collector === null) return false;
    this.#collectAll(this.#collector, false);
    return true;
  }

  /**
   * Once for every program that runs: collects what it leaves that is not tracked. JavaScriptCore counts WebAssembly
   * memory as its own, and so lets as much garbage of the program grow.
   */
  pulse(): void {
    if (++this.#runs % RUNS_PER_LOOK !== 0 || this.#collector === null) return;
    if (!this.#young.isIdle(YOUNG_PAUSE_MS)) return;
    if (this.#full.isIdle(FULL_PAUSE_MS)) this.#collectAll(this.#collector, false);
    else this.#collectYoung(this.#collector, false);
  }

  #collectYoung(collector: Collector, isDue: boolean): void {
    this.#young.time(() => {
      collector.young();
      this.#sweep(this.#old);
    }, isDue);
    this.#schedule();
  }

  #collectAll(collector: Collector, isDue: boolean): void {
    this.#full.time(() => {
      collector.full();
      this.#sweep(0);
    }, isDue);
    this.#askedBytes = 0;
    this.#released = 0;
    this.#bytesAfterFull = this.#bytes;
    this.#schedule();
  }

  #schedule(): void {
    this.#bytesAfter = this.#bytes;
    this.#youngAtBytes = Math.min(this.#bytes + this.#young.slackBytes, this.#budgetBytes);
  }

  /** Releases what the dead own, from an entry on. */
  #sweep(from: number): void {
    this.#old = from;
    // From the end: a released one is replaced by the last, which was looked at before.
    for (let i = this.#entries.length - 1; i >= from; i--) {
      const entry = this.#entries[i]!;
      if (entry.owner.deref() === undefined) this.release(entry);
    }
    this.#old = this.#entries.length;
  }

  /**
   * Tells that the host has collected of its own accord. One object is registered, not every owner: what a registry says
   * of the dead is kept until the turn ends. Held by the class: a registry that nothing holds is collected itself.
   */
  static readonly #collected: FinalizationRegistry<WeakRef<Reclaimer<unknown>>> = new FinalizationRegistry(
    (reference) => {
      const reclaimer = reference.deref();
      if (reclaimer !== undefined) reclaimer.#afterCollection();
    },
  );

  #watch(): void {
    this.#isWatching = true;
    Reclaimer.#collected.register({}, new WeakRef(this as Reclaimer<unknown>));
  }

  #afterCollection(): void {
    this.#isWatching = false;
    this.#sweep(0);
    this.#schedule();
    if (this.#entries.length > 0) this.#watch();
  }
}
