/** The data set of a configuration, with a word about anything that takes time. */

import { showBytes } from "../dist/plan_cost.ts";
import type { TrainConfig } from "./config.ts";
import type { Dataset } from "./data/dataset.ts";
import { loadData } from "./data/registry.ts";

/** Loads the data of a run; `say` gets a line now and then while files are downloaded. */
export async function openData(config: TrainConfig, say: (text: string) => void): Promise<Dataset> {
  let reported = 0;
  return loadData({
    name: config.data,
    seed: config.seed,
    dir: config.dataDir,
    file: config.dataFile,
    labelColumn: config.labelColumn,
    featureCount: config.features,
    trainLimit: config.trainLimit,
    testLimit: config.testLimit,
    onProgress({ url, receivedBytes, totalBytes }) {
      if (receivedBytes - reported < 4e6 && receivedBytes !== totalBytes) return;
      reported = receivedBytes === totalBytes ? 0 : receivedBytes;
      say(
        `downloading ${url}: ${showBytes(receivedBytes)}${totalBytes === undefined ? "" : ` of ${showBytes(totalBytes)}`}`,
      );
    },
  });
}
