/** A residual network with batch normalization on small colour images. */
import * as nn from "../../../core/nn.ts";
import { mul, sub } from "../../../core/ops.ts";
import { loadCifar10 } from "../../data/cifar10.ts";
import { tinted } from "../../data/tinted.ts";
import { placedRows, type Rows } from "../../rows.ts";
import type { Task } from "../task.ts";
import { placeOf } from "./place.ts";
import { firstRows, supervised } from "./supervised.ts";

/** Channels of the first stage, half of the published network's: a step takes a tenth of a second on two cores. */
const WIDTH = 8;
/** Images on which it is judged. */
const JUDGED = 1000;
/** How many images are drawn where there are none. */
const DRAWN = { trainCount: 4000, testCount: JUDGED } as const;

/** Pixels in [-1, 1]. */
function centred(rows: Rows): Rows {
  return {
    count: rows.count,
    at(numbers) {
      const { x, y } = rows.at(numbers);
      return { x: sub(mul(x, 2), 1), y };
    },
  };
}

export const resnetTask: Task = {
  name: "resnet20",
  summary: "residual network of 20 layers, at half its width, on CIFAR-10 or on tinted glyphs",
  async open({ seed, dataDir, batch = 64 }) {
    const data =
      dataDir === undefined
        ? tinted({ seed, ...DRAWN })
        : await loadCifar10(await placeOf(dataDir, "cifar10"));
    const [channels, height, width] = data.exampleShape as [number, number, number];
    const rowsOf = placedRows(data, "cpu");
    return supervised({
      name: `resnet20 on ${data.name}`,
      target: { metric: "accuracy", value: dataDir === undefined ? 0.93 : 0.55 },
      seed,
      model: nn.resnet20({ image: [channels, height, width], classes: data.classes, width: WIDTH }),
      likelihood: nn.categorical,
      accuracy: nn.accuracy,
      train: centred(rowsOf(data.train, { start: 0, end: data.train.count })),
      validation: firstRows(centred(rowsOf(data.test, { start: 0, end: data.test.count })), JUDGED),
      batchSize: batch,
      curvatureSize: 128,
      penalty: 1e-4,
      momentsSize: 512,
    });
  },
};
