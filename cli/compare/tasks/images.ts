/** Tasks on grey images of clothes, or of drawn shapes where these are not at hand. */
import * as nn from "../../../core/nn.ts";
import { mul, sub } from "../../../core/ops.ts";
import type { Dataset } from "../../data/dataset.ts";
import { glyphs } from "../../data/glyphs.ts";
import { loadIdxSet } from "../../data/image_sets.ts";
import { placedRows, type Rows } from "../../rows.ts";
import type { Task, TaskOptions } from "../task.ts";
import { placeOf } from "./place.ts";
import { firstRows, supervised } from "./supervised.ts";

const SIDE = 28;
const CLASSES = 10;

/** Validation images that suffice where a forward pass takes long. */
const FEWER = 2000;

async function openImages({ seed, dataDir }: TaskOptions): Promise<Dataset> {
  if (dataDir === undefined) return glyphs({ seed });
  return loadIdxSet("fashion-mnist", await placeOf(dataDir, "fashion-mnist"));
}

/** Training and validation images `[n, 1, 28, 28]` with values in [0, 1]. */
function imageRows(data: Dataset): { readonly train: Rows; readonly validation: Rows } {
  const rowsOf = placedRows(data, "cpu");
  return {
    train: rowsOf(data.train, { start: 0, end: data.train.count }),
    validation: rowsOf(data.test, { start: 0, end: data.test.count }),
  };
}

/** Images in [-1, 1] that are their own targets. */
function selfTargets(rows: Rows): Rows {
  return {
    count: rows.count,
    at(numbers) {
      const x = sub(mul(rows.at(numbers).x, 2), 1);
      return { x, y: x };
    },
  };
}

const mlpTask: Task = {
  name: "mlp",
  summary: "dense layers 784-128-64-10 on Fashion-MNIST, or on glyphs",
  async open(options) {
    const data = await openImages(options);
    return supervised({
      name: `mlp on ${data.name}`,
      target: { metric: "accuracy", value: options.dataDir === undefined ? 0.92 : 0.89 },
      seed: options.seed,
      model: nn.mlp([SIDE * SIDE, 128, 64, CLASSES]),
      likelihood: nn.categorical,
      accuracy: nn.accuracy,
      ...imageRows(data),
      batchSize: options.batch ?? 128,
      penalty: 1e-4,
    });
  },
};

const cnnTask: Task = {
  name: "cnn",
  summary: "two convolutions and a dense layer on Fashion-MNIST, or on glyphs",
  async open(options) {
    const data = await openImages(options);
    const { train, validation } = imageRows(data);
    return supervised({
      name: `cnn on ${data.name}`,
      target: { metric: "accuracy", value: options.dataDir === undefined ? 0.985 : 0.9 },
      seed: options.seed,
      model: nn.cnn({ image: [1, SIDE, SIDE], classes: CLASSES, widths: [16, 32] }),
      likelihood: nn.categorical,
      accuracy: nn.accuracy,
      train,
      validation: firstRows(validation, FEWER),
      batchSize: options.batch ?? 64,
      curvatureSize: 256,
      penalty: 1e-4,
    });
  },
};

const autoencoderTask: Task = {
  name: "autoencoder",
  summary: "convolutional autoencoder through 32 numbers on Fashion-MNIST, or on glyphs",
  async open(options) {
    const data = await openImages(options);
    const { train, validation } = imageRows(data);
    return supervised({
      name: `autoencoder on ${data.name}`,
      target: { metric: "loss", value: options.dataDir === undefined ? 21 : 16 },
      seed: options.seed,
      model: nn.convAutoencoder({ image: [1, SIDE, SIDE] }),
      likelihood: nn.gaussian,
      accuracy: null,
      train: selfTargets(train),
      validation: selfTargets(firstRows(validation, FEWER)),
      batchSize: options.batch ?? 64,
      curvatureSize: 256,
    });
  },
};

export const imageTasks: readonly Task[] = [mlpTask, cnnTask, autoencoderTask];
