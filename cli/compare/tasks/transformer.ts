/** A transformer that learns which character comes next. */
import * as nn from "../../../core/nn.ts";
import { adopt } from "../../../core/trace.ts";
import { plays } from "../../data/plays.ts";
import { loadTinyShakespeare } from "../../data/text.ts";
import type { Rows } from "../../rows.ts";
import type { Task } from "../task.ts";
import { placeOf } from "./place.ts";
import { firstRows, supervised } from "./supervised.ts";

/** Characters that the model sees at most. */
const CONTEXT = 64;
/** Sequences on which it is judged. */
const JUDGED = 512;

/** A text in sequences one after the other, each with the same sequence one character later as its targets. */
function sequences(text: Int32Array): Rows {
  return {
    count: Math.floor((text.length - 1) / CONTEXT),
    at(numbers) {
      const [x, y] = [new Int32Array(numbers.length * CONTEXT), new Int32Array(numbers.length * CONTEXT)];
      numbers.forEach((number, i) => {
        const start = number * CONTEXT;
        x.set(text.subarray(start, start + CONTEXT), i * CONTEXT);
        y.set(text.subarray(start + 1, start + CONTEXT + 1), i * CONTEXT);
      });
      const shape = [numbers.length, CONTEXT];
      return { x: adopt(x, shape, "int32"), y: adopt(y, shape, "int32") };
    },
  };
}

export const transformerTask: Task = {
  name: "transformer",
  summary: "causal transformer of two blocks over the characters of Tiny Shakespeare, or of generated plays",
  async open({ seed, dataDir, batch = 32 }) {
    const text =
      dataDir === undefined
        ? plays({ seed })
        : await loadTinyShakespeare(await placeOf(dataDir, "tinyshakespeare"));
    return supervised({
      name: `transformer on ${text.name}`,
      target: { metric: "loss", value: dataDir === undefined ? 0.85 : 1.95 },
      seed,
      model: nn.charTransformer({ vocabulary: text.vocabulary.length, context: CONTEXT }),
      likelihood: nn.categorical,
      accuracy: nn.accuracy,
      train: sequences(text.train),
      validation: firstRows(sequences(text.validation), JUDGED),
      batchSize: batch,
      curvatureSize: 64,
    });
  },
};
