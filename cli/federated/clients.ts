/** Whose examples are whose: the training data by a partition, the test data as the training data of each client are. */
import { adopt } from "../../core/trace.ts";
import type { FederatedData } from "../../dist/federated/jobs.ts";
import type { ClientData } from "../../dist/federated/method.ts";
import { parsePartition, partitionExamples } from "../../dist/federated/partition.ts";
import { UsageError } from "../config.ts";
import type { Dataset, Split } from "../data/dataset.ts";
import type { FederatedConfig } from "./config.ts";

/** The examples of all clients, by number. */
export interface Shares {
  readonly train: readonly Int32Array[];
  readonly test: readonly Int32Array[];
}

/**
 * The examples of each client. Its test examples are its share of each class in the training data, so that the clients'
 * tests are the whole test set together, and each is tested on what it has seen the like of.
 *
 * @throws {UsageError} if there is no such partition
 */
export function sharesOf(
  { partition, clients, seed }: Pick<FederatedConfig, "partition" | "clients" | "seed">,
  { train, test }: Pick<Dataset, "train" | "test">,
): Shares {
  let parts: readonly Int32Array[];
  try {
    parts = partitionExamples(parsePartition(partition), train.labels, clients, { seed });
  } catch (error) {
    if (error instanceof RangeError) throw new UsageError(error.message);
    throw error;
  }
  return { train: parts, test: matchedTest(parts, train.labels, test.labels) };
}

/** Of each class, test examples in order, cut where the training examples of the class are cut between clients. */
export function matchedTest(
  parts: readonly Int32Array[],
  trainLabels: Int32Array,
  testLabels: Int32Array,
): readonly Int32Array[] {
  const own = parts.map((part) => {
    const counts = new Map<number, number>();
    for (const i of part) counts.set(trainLabels[i]!, (counts.get(trainLabels[i]!) ?? 0) + 1);
    return counts;
  });
  const shares = parts.map((): number[] => []);
  for (const label of [...new Set(testLabels)].sort((a, b) => a - b)) {
    const examples = [...testLabels.keys()].filter((i) => testLabels[i] === label);
    const total = own.reduce((sum, counts) => sum + (counts.get(label) ?? 0), 0);
    let before = 0;
    own.forEach((counts, client) => {
      const [from, count] = [before, counts.get(label) ?? 0];
      before += count;
      const cut = (at: number): number => Math.round((at / total) * examples.length);
      if (count > 0) shares[client]!.push(...examples.slice(cut(from), cut(before)));
    });
  }
  return shares.map((share) => Int32Array.from(share).sort());
}

/** Examples as tensors, made when a client is first asked for. */
export function clientData({ train, test, exampleShape }: Dataset, shares: Shares): FederatedData {
  const shape = exampleShape.length === 2 ? [1, ...exampleShape] : exampleShape;
  const width = exampleShape.reduce((a, b) => a * b, 1);
  const chosen = ({ features, labels }: Split, numbers: Int32Array): ClientData => {
    const x = new Float32Array(numbers.length * width);
    numbers.forEach((n, i) => {
      x.set(features.subarray(n * width, (n + 1) * width), i * width);
    });
    const y = Int32Array.from(numbers, (n) => labels[n]!);
    return {
      x: adopt(x, [numbers.length, ...shape], "float32"),
      y: adopt(y, [numbers.length], "int32"),
    };
  };
  const remembered = (make: (client: number) => ClientData): ((client: number) => ClientData) => {
    const known = new Map<number, ClientData>();
    return (client) => {
      const data = known.get(client) ?? make(client);
      known.set(client, data);
      return data;
    };
  };
  const testOf = remembered((client) => chosen(test, shares.test[client]!));
  return {
    train: remembered((client) => chosen(train, shares.train[client]!)),
    test: (client) => (shares.test[client]!.length === 0 ? null : testOf(client)),
  };
}
