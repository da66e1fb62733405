/** Who has which examples: partitions of a labelled set among clients, each a pure function of the labels and a seed. */
import { foldIn, key, uniform } from "../../core/random.ts";
import type { Value } from "../../core/value.ts";

/**
 * How examples are spread: evenly at random; each class by a Dirichlet distribution over clients; a number of classes for
 * each client; or both, a Dirichlet distribution over the clients that have the class.
 *
 * @since 0.2.0
 */
export type Partition =
  | { readonly k: "iid" }
  | { readonly k: "dirichlet"; readonly alpha: number }
  | { readonly k: "shards"; readonly classes: number }
  | { readonly k: "exdir"; readonly classes: number; readonly alpha: number };

/**
 * What all partitions need.
 *
 * @since 0.2.0
 */
export interface PartitionOptions {
  readonly seed: number;
  /** Examples that every client has at least; default 2, so that each can have some to train on and some to test on. */
  readonly minimum?: number;
  /** Whole draws of a random partition until each client has its minimum; default 200. */
  readonly attempts?: number;
}

/**
 * Options of `dirichlet`.
 *
 * @since 0.2.0
 */
export interface DirichletOptions extends PartitionOptions {
  /** Concentration, above 0: large for clients that are alike, below 1 for clients that differ. */
  readonly alpha: number;
}

/**
 * Options of `extendedDirichlet`.
 *
 * @since 0.2.0
 */
export interface ExtendedDirichletOptions extends DirichletOptions {
  /** Classes of each client. */
  readonly classes: number;
}

/**
 * Options of `shards`.
 *
 * @since 0.2.0
 */
export interface ShardOptions extends PartitionOptions {
  /** Classes of each client. */
  readonly classes: number;
  /** Whether the clients of a class get equally many of its examples; default true. */
  readonly isBalanced?: boolean;
}

/**
 * Reads "iid", "dirichlet:0.5" (alpha), "shards:2" (classes of each client) or "exdir:2:0.5" (both).
 *
 * Shapes: none.
 *
 * @throws {RangeError} if the text is something else
 * @example Two classes for each client
 * ```ts
 * assert(ct.dist.parsePartition("shards:2").k === "shards");
 * assertThrows(() => ct.dist.parsePartition("shards:0"), RangeError);
 * ```
 * @since 0.2.0
 */
export function parsePartition(text: string): Partition {
  const [name, ...numbers] = text.split(":");
  const [first = Number.NaN, second = Number.NaN] = numbers.map((part) =>
    part.trim() === "" ? Number.NaN : Number(part),
  );
  const count = numbers.length;
  if (name === "iid" && count === 0) return { k: "iid" };
  if (name === "dirichlet" && count === 1 && isAlpha(first)) return { k: "dirichlet", alpha: first };
  if (name === "shards" && count === 1 && isCount(first)) return { k: "shards", classes: first };
  if (name === "exdir" && count === 2 && isCount(first) && isAlpha(second))
    return { k: "exdir", classes: first, alpha: second };
  throw new RangeError(
    `Cannot read the partition "${text}": iid, dirichlet:ALPHA, shards:CLASSES or exdir:CLASSES:ALPHA is needed, such as dirichlet:0.5, with an alpha above 0 and whole CLASSES from 1`,
  );
}

/**
 * The text that `parsePartition` reads.
 *
 * Shapes: none.
 *
 * @example There and back
 * ```ts
 * assert(ct.dist.showPartition(ct.dist.parsePartition("exdir:2:0.5")) === "exdir:2:0.5");
 * ```
 * @since 0.2.0
 */
export function showPartition(partition: Partition): string {
  const { k } = partition;
  if (k === "iid") return k;
  if (k === "dirichlet") return `${k}:${partition.alpha}`;
  return k === "shards" ? `${k}:${partition.classes}` : `${k}:${partition.classes}:${partition.alpha}`;
}

/**
 * The examples of each client, as ascending indices: every example is one client's.
 *
 * Shapes: one label for each example; as many lists as clients.
 * Determinism: the same lists for the same arguments.
 *
 * @throws {RangeError} if no partition of this kind gives every client its minimum
 * @example Six examples of three clients
 * ```ts
 * const labels = new Int32Array([0, 0, 1, 1, 2, 2]);
 * const parts = ct.dist.partitionExamples(ct.dist.parsePartition("iid"), labels, 3, { seed: 1 });
 * assert(parts.every(({ length }) => length === 2));
 * ```
 * @since 0.2.0
 */
export function partitionExamples(
  partition: Partition,
  labels: Int32Array,
  clients: number,
  options: PartitionOptions,
): readonly Int32Array[] {
  switch (partition.k) {
    case "iid":
      return iid(labels, clients, options);
    case "dirichlet":
      return dirichlet(labels, clients, { ...options, alpha: partition.alpha });
    case "shards":
      return shards(labels, clients, { ...options, classes: partition.classes });
    case "exdir":
      return extendedDirichlet(labels, clients, {
        ...options,
        classes: partition.classes,
        alpha: partition.alpha,
      });
    default:
      return partition satisfies never;
  }
}

/**
 * Examples in random order, cut into parts whose sizes differ by one at most.
 *
 * Shapes: one label for each example; as many lists as clients.
 * Determinism: the same lists for the same arguments.
 *
 * @throws {RangeError} if there are fewer examples than the clients need
 * @example Halves
 * ```ts
 * const [a, b] = ct.dist.iid(new Int32Array(5), 2, { seed: 0 });
 * assert(a!.length + b!.length === 5 && Math.abs(a!.length - b!.length) === 1);
 * ```
 * @since 0.2.0
 */
export function iid(labels: Int32Array, clients: number, options: PartitionOptions): readonly Int32Array[] {
  const split = checked("iid", labels, clients, options);
  const order = shuffled(
    Int32Array.from(labels, (_, i) => i),
    split.draw,
  );
  return Array.from({ length: clients }, (_, j) =>
    order
      .slice(Math.floor((j * order.length) / clients), Math.floor(((j + 1) * order.length) / clients))
      .sort(),
  );
}

/**
 * Each class spread by p ~ Dir(alpha, ..., alpha): the smaller alpha, the fewer clients have most of it.
 *
 * Classes go one after the other; a client that has its share of all examples, N / K, gets no more, and the other p are
 * scaled to add up to 1. All is drawn again until every client has its minimum. This is how analytic federated learning
 * and PFLlib spread examples: it is not the plain Dirichlet distribution, which has no such limit.
 *
 * Shapes: one label for each example; as many lists as clients.
 * Determinism: the same lists for the same arguments.
 *
 * @throws {RangeError} if alpha is not positive, or no draw gives every client its minimum
 * @example Two clients, two classes
 * ```ts
 * const labels = Int32Array.from({ length: 40 }, (_, i) => i % 2);
 * const [a, b] = ct.dist.dirichlet(labels, 2, { alpha: 0.5, seed: 3 });
 * assert(a!.length + b!.length === 40 && a!.length >= 2);
 * ```
 * @since 0.2.0
 */
export function dirichlet(
  labels: Int32Array,
  clients: number,
  options: DirichletOptions,
): readonly Int32Array[] {
  const { alpha } = options;
  const split = checked(`dirichlet:${alpha}`, labels, clients, options);
  checkAlpha(split, alpha);
  return drawnShares(split, alpha, null);
}

/**
 * A number of classes for each client, and each class cut among its clients.
 *
 * There are K times `classes` places, as many for each class but for one; clients take them in turn, in random order.
 * Equal parts, or random ones of a tenth of that to all of it, the last client taking what is left.
 *
 * Shapes: one label for each example; as many lists as clients.
 * Determinism: the same lists for the same arguments.
 *
 * @throws {RangeError} if there are more classes than places or fewer than a client wants, or no draw gives every client
 * its minimum
 * @example One class each
 * ```ts
 * const labels = new Int32Array([0, 1, 0, 1]);
 * const parts = ct.dist.shards(labels, 2, { classes: 1, seed: 0 });
 * assert(parts.every((own) => labels[own[0]!] === labels[own[1]!]));
 * ```
 * @since 0.2.0
 */
export function shards(labels: Int32Array, clients: number, options: ShardOptions): readonly Int32Array[] {
  const { classes } = options;
  const split = checked(`shards:${classes}`, labels, clients, options);
  checkClasses(split, classes);
  const { groups, draw, minimum } = split;
  const places = clients * classes;
  return firstWithMinimum(split, () => {
    const clientOrder = shuffled(
      Int32Array.from({ length: clients }, (_, j) => j),
      draw,
    );
    const classOrder = shuffled(
      Int32Array.from(groups, (_, c) => c),
      draw,
    );
    const counts = groups.map(() => new Int32Array(clients));
    classOrder.forEach((c, position) => {
      const start = Math.floor((position * places) / groups.length);
      const end = Math.floor(((position + 1) * places) / groups.length);
      const size = groups[c]!.length;
      const mean = size / (end - start);
      const least = Math.min(Math.max(mean / 10, minimum / groups.length), mean);
      let given = 0;
      for (let place = start; place < end; place++) {
        const upTo = Math.floor((place + 1 - start) * mean);
        const part =
          options.isBalanced === false ? Math.floor(least + (mean - least) * draw()) : upTo - given;
        const taken = place === end - 1 ? size - given : part;
        counts[c]![clientOrder[place % clients]!] = taken;
        given += taken;
      }
    });
    return counts;
  });
}

/**
 * A number of classes for each client, drawn at random, and each class spread among its clients by p ~ Dir(alpha, ..., alpha).
 *
 * For each class at least half as many clients are drawn, rounded down, as if all had equally many, and one at least. Fewer may
 * have examples of it: for a small alpha most of these shares are next to nothing, and clients that have their share of all
 * examples get no more, unless all that were drawn for the class do.
 *
 * Shapes: one label for each example; as many lists as clients.
 * Determinism: the same lists for the same arguments.
 *
 * @throws {RangeError} if alpha is not positive, there are more classes than places or fewer than a client wants, or no
 * draw gives every client its minimum
 * @example Two of three classes
 * ```ts
 * const labels = Int32Array.from({ length: 60 }, (_, i) => i % 3);
 * const parts = ct.dist.extendedDirichlet(labels, 4, { classes: 2, alpha: 1, seed: 0 });
 * assert(parts.every((own) => new Set(own.map((i) => labels[i]!)).size <= 2));
 * ```
 * @source Li, Lyu 2023, "Convergence analysis of sequential federated learning on heterogeneous data"
 * @since 0.2.0
 */
export function extendedDirichlet(
  labels: Int32Array,
  clients: number,
  options: ExtendedDirichletOptions,
): readonly Int32Array[] {
  const { classes, alpha } = options;
  const split = checked(`exdir:${classes}:${alpha}`, labels, clients, options);
  checkAlpha(split, alpha);
  checkClasses(split, classes);
  const { groups, draw } = split;
  const needed = Math.max(Math.floor((classes * clients) / groups.length / 2), 1);
  const candidates = Int32Array.from(groups, (_, c) => c);
  for (let attempt = 0; attempt < split.attempts; attempt++) {
    const owners = groups.map(() => new Uint8Array(clients));
    for (let j = 0; j < clients; j++) {
      for (const c of shuffled(candidates, draw).subarray(0, classes)) owners[c]![j] = 1;
    }
    if (owners.every((has) => has.reduce((sum, one) => sum + one, 0) >= needed))
      return drawnShares(split, alpha, owners);
  }
  throw new RangeError(
    `${cannot(split)}: none of ${split.attempts} draws gives every class ${needed} clients, more classes for each client or other seeds are needed`,
  );
}

/**
 * The examples of a client, cut into those it trains on and those it is tested on.
 *
 * @since 0.2.0
 */
export interface OwnExamples {
  readonly train: Int32Array;
  readonly test: Int32Array;
}

/**
 * Cuts the examples of each client at random: of n examples round(n * share) are trained on, but at least one, and all
 * but one at most.
 *
 * Shapes: lists of indices, ascending.
 * Determinism: the same lists for the same arguments; those of a client do not depend on the others.
 *
 * @param share the part that is trained on; default 0.75
 * @throws {RangeError} if the share is not between 0 and 1
 * @example Three quarters
 * ```ts
 * const [own] = ct.dist.splitOwn([new Int32Array([4, 8, 15, 16])], { seed: 0 });
 * assert(own!.train.length === 3 && own!.test.length === 1);
 * ```
 * @since 0.2.0
 */
export function splitOwn(
  parts: readonly Int32Array[],
  { seed, share = 0.75 }: { readonly seed: number; readonly share?: number },
): readonly OwnExamples[] {
  if (!(share > 0 && share < 1)) {
    throw new RangeError(
      `Cannot split the examples of clients: the share is ${share}, one between 0 and 1 is needed`,
    );
  }
  const root = foldIn(key(seed), SPLIT_DRAWS);
  return parts.map((own, client) => {
    const order = shuffled(own, draws(foldIn(root, client)));
    const cut = Math.max(Math.min(Math.round(own.length * share), own.length - 1), Math.min(own.length, 1));
    return { train: order.slice(0, cut).sort(), test: order.slice(cut).sort() };
  });
}

/** A split that is to be made, with its arguments checked. */
interface Split {
  readonly text: string;
  readonly clients: number;
  readonly examples: number;
  readonly minimum: number;
  readonly attempts: number;
  /** The examples of each class, in ascending order of labels. */
  readonly groups: readonly Int32Array[];
  readonly draw: () => number;
}

function checked(
  text: string,
  labels: Int32Array,
  clients: number,
  { seed, minimum = 2, attempts = 200 }: PartitionOptions,
): Split {
  const byLabel = new Map<number, number[]>();
  labels.forEach((label, i) => {
    const group = byLabel.get(label);
    if (group) group.push(i);
    else byLabel.set(label, [i]);
  });
  const split: Split = {
    text,
    clients,
    examples: labels.length,
    minimum,
    attempts,
    groups: [...byLabel].sort(([a], [b]) => a - b).map(([, group]) => Int32Array.from(group)),
    draw: draws(foldIn(key(seed), PARTITION_DRAWS)),
  };
  if (!isCount(clients) || !(minimum >= 0) || !isCount(attempts)) {
    throw new RangeError(
      `${cannot(split)}: the minimum is ${minimum} and the attempts are ${attempts}, clients and attempts from 1 and a minimum from 0 are needed`,
    );
  }
  if (labels.length < clients * minimum) {
    throw new RangeError(
      `${cannot(split)}: ${minimum} for each would be ${clients * minimum}, fewer clients, more examples or a smaller minimum is needed`,
    );
  }
  return split;
}

function cannot({ text, clients, examples }: Split): string {
  return `Cannot split ${examples} examples among ${clients} clients by ${text}`;
}

function checkAlpha(split: Split, alpha: number): void {
  if (!isAlpha(alpha)) throw new RangeError(`${cannot(split)}: alpha is ${alpha}, one above 0 is needed`);
}

function checkClasses(split: Split, classes: number): void {
  const { length } = split.groups;
  if (isCount(classes) && classes <= length && classes * split.clients >= length) return;
  throw new RangeError(
    `${cannot(split)}: there are ${length} classes, from 1 to ${length} for each client and a client for each class are needed`,
  );
}

const isAlpha = (x: number): boolean => x > 0 && x < Infinity;
const isCount = (x: number): boolean => Number.isSafeInteger(x) && x >= 1;

/** The first draw of how many examples of each class each client gets that gives every client its minimum. */
function firstWithMinimum(split: Split, drawCounts: () => readonly Int32Array[]): readonly Int32Array[] {
  const { clients, minimum, attempts, groups, draw } = split;
  for (let attempt = 0; attempt < attempts; attempt++) {
    const counts = drawCounts();
    const sizes = new Int32Array(clients);
    for (const row of counts) addTo(sizes, row);
    if (sizes.some((size) => size < minimum)) continue;
    // Which examples they are is drawn once: the draws before are of numbers alone.
    const parts = Array.from(sizes, (size) => new Int32Array(size));
    const filled = new Int32Array(clients);
    groups.forEach((group, c) => {
      const order = shuffled(group, draw);
      let start = 0;
      counts[c]!.forEach((count, j) => {
        parts[j]!.set(order.subarray(start, start + count), filled[j]!);
        filled[j]! += count;
        start += count;
      });
    });
    return parts.map((part) => part.sort());
  }
  throw new RangeError(
    `${cannot(split)}: none of ${attempts} draws gives every client ${minimum} examples, fewer clients, a smaller minimum or less skew is needed`,
  );
}

function addTo(sizes: Int32Array, counts: Int32Array): void {
  for (let j = 0; j < sizes.length; j++) sizes[j]! += counts[j]!;
}

/** Each class by a Dirichlet distribution over the clients with room, or over those `owners` that have the class. */
function drawnShares(
  split: Split,
  alpha: number,
  owners: readonly Uint8Array[] | null,
): readonly Int32Array[] {
  const { clients, examples, groups, draw } = split;
  return firstWithMinimum(split, () => {
    const sizes = new Int32Array(clients);
    return groups.map((group, c) => {
      const logs = Float64Array.from({ length: clients }, () => logGamma(alpha, draw));
      const has = (j: number): boolean => !owners || owners[c]![j] === 1;
      const withRoom = logs.map((log, j) => (has(j) && sizes[j]! < examples / clients ? log : -Infinity));
      const isFull = withRoom.every((log) => log === -Infinity);
      const counts = cutByShares(
        isFull ? logs.map((log, j) => (has(j) ? log : -Infinity)) : withRoom,
        group.length,
      );
      addTo(sizes, counts);
      return counts;
    });
  });
}

/** floor(cumulative share * n), with the end at the last client that has a share: rounding gives nobody else anything. */
function cutByShares(logs: Float64Array, n: number): Int32Array {
  // Weights of small alpha are below the smallest float64 number; relative to the largest they are not.
  const largest = logs.reduce((a, b) => Math.max(a, b), -Infinity);
  const weights = logs.map((log) => Math.exp(log - largest));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const last = weights.findLastIndex((weight) => weight > 0);
  let cumulative = 0;
  let start = 0;
  return Int32Array.from(weights, (weight, j) => {
    cumulative += weight;
    const end = j >= last ? n : Math.min(Math.floor((cumulative / total) * n), n);
    const count = end - start;
    start = end;
    return count;
  });
}

/**
 * The logarithm of a number of the gamma distribution: that of alpha + 1 by rejection (Marsaglia and Tsang 2000), times
 * u^(1 / alpha).
 */
function logGamma(alpha: number, draw: () => number): number {
  const d = alpha + 2 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = normal(draw);
    const v = (1 + c * x) ** 3;
    if (v <= 0) continue;
    const log = Math.log(v);
    if (Math.log(1 - draw()) < (x * x) / 2 + d * (1 - v + log))
      return Math.log(d) + log + Math.log(1 - draw()) / alpha;
  }
}

/** A normal number (Box and Muller). */
function normal(draw: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw());
}

/** Parts of the seed's draws that are apart from each other. */
const PARTITION_DRAWS = 1;
const SPLIT_DRAWS = 2;

const BLOCK = 1024;

/** Uniform numbers in [0, 1), one at a time: number i is a pure function of the key and of i. */
function draws(root: Value): () => number {
  let block: ArrayLike<number> = [];
  let next = 0;
  return () => {
    const at = next++ % BLOCK;
    if (at === 0) block = uniform(foldIn(root, (next - 1) / BLOCK), [BLOCK], { dtype: "float64" }).dataSync();
    return block[at]!;
  };
}

/** The numbers in random order (Fisher and Yates). */
function shuffled(numbers: Int32Array, draw: () => number): Int32Array {
  const order = numbers.slice();
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(draw() * (i + 1));
    const kept = order[i]!;
    order[i] = order[j]!;
    order[j] = kept;
  }
  return order;
}
