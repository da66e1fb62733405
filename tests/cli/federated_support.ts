/** Small federated runs, in the process of the test. */

import type { Dataset, Split } from "../../cli/data/dataset.ts";
import { type FederatedConfig, parseFederatedFlags } from "../../cli/federated/config.ts";
import { type FederatedResult, type OpenedRun, runFederated } from "../../cli/federated/run.ts";
import type { FederatedSummary } from "../../cli/federated/summary.ts";
import { memoryStore, type Store } from "../../dist/runtime/driver.ts";
import { words } from "./program_support.ts";

export const parse = (text: string): FederatedConfig => parseFederatedFlags(words(text)).config;

/** What a summary is told where times are not what is tested. */
export const noTimes: Pick<FederatedSummary, "seconds" | "endSeconds" | "curve"> = {
  seconds: 1,
  endSeconds: 1,
  curve: [],
};

/** A run from its newest save to its end or until so many rounds are done. */
export function inProcess(
  run: OpenedRun,
  options: { readonly store?: Store; readonly firstRound?: number; readonly stopAfter?: number } = {},
): Promise<FederatedResult> {
  const { store = memoryStore(), firstRound = 0, stopAfter = Number.POSITIVE_INFINITY } = options;
  const controller = new AbortController();
  return runFederated(run, {
    directory: "nowhere",
    store,
    firstRound,
    signal: controller.signal,
    onProgress: ({ k, round }) => {
      if (k === "progress" && round + 1 >= stopAfter) controller.abort();
    },
    onNotice: () => {},
  });
}

/** Pictures of 8 x 8 with a bright row for their class, and this added to every number. */
function bars(count: number, noise: (i: number) => number): Split {
  const labels = Int32Array.from({ length: count }, (_, i) => i % 3);
  const features = Float32Array.from({ length: 64 * count }, (_, i) => {
    const [image, row] = [Math.floor(i / 64), Math.floor((i % 64) / 8)];
    return (row === 2 * labels[image]! + 1 ? 1 : 0) + noise(i);
  });
  return { features, labels, count };
}

/** So many of them to learn from, and half as many to be tested on. */
export function pictures(count: number, noise: (i: number) => number): Dataset {
  const [train, test] = [bars(count, noise), bars(count / 2, noise)];
  return { name: "bars", exampleShape: [8, 8], classes: 3, train, test };
}
