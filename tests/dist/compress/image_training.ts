/** How well workers learn to tell images apart, all in one process and in step. */
import { jit } from "../../../autodiff/jit.ts";
import { grad } from "../../../autodiff/vjp.ts";
import type { Dataset, Split } from "../../../cli/data/dataset.ts";
import { randomStream } from "../../../cli/data/random.ts";
import * as nn from "../../../core/nn.ts";
import * as random from "../../../core/random.ts";
import { ravel } from "../../../core/ravel.ts";
import { adopt } from "../../../core/trace.ts";
import { leaves } from "../../../core/tree.ts";
import type { Value } from "../../../core/value.ts";
import { type DivAdamOptions, divAdam } from "../../../dist/compress/div_adam.ts";
import { together } from "../../../dist/compress/together.ts";
import { type Partition, partitionExamples } from "../../../dist/federated/partition.ts";

/** Images of a worker in a step. */
const BATCH = 16;
/** At the beginning, on a cosine to 0 at the end. */
const RATE = 1e-3;

/** How a run goes; the seed is that of the first weights, the partition, the batches and the blocks. */
export interface ImageRun extends Partial<DivAdamOptions> {
  readonly workers: number;
  readonly steps: number;
  readonly partition: Partition;
  readonly seed: number;
}

interface Batch {
  readonly x: Value;
  readonly y: Value;
}

/** The share of the test images that a perceptron with one hidden layer tells right at the end of a run. */
export function imageTraining({ train, test, classes }: Dataset, hidden: number): (run: ImageRun) => number {
  const width = train.features.length / train.count;
  const model = nn.mlp([width, hidden, classes], { activation: "relu" });
  const [example, unravel] = ravel(model.init(random.key(0)));
  const shapes = leaves(unravel(example)).map((x) => x.shape);
  const gradientAt = jit(
    grad((theta: Value, { x, y }: Batch) => nn.softmaxCrossEntropy(model.apply(unravel(theta), x), y)),
  );
  const accuracyAt = jit((theta: Value, { x, y }: Batch) => nn.accuracy(model.apply(unravel(theta), x), y));

  const [mean, deviation] = momentsOf(train.features);
  const batchOf = ({ features, labels }: Split, indices: Int32Array): Batch => {
    const x = new Float32Array(indices.length * width);
    indices.forEach((index, i) => {
      for (let j = 0; j < width; j++) x[i * width + j] = (features[index * width + j]! - mean) / deviation;
    });
    const y = indices.map((index) => labels[index]!);
    return { x: adopt(x, [indices.length, width], "float32"), y: adopt(y, [indices.length], "int32") };
  };
  const held = batchOf(
    test,
    Int32Array.from({ length: test.count }, (_, i) => i),
  );

  return ({ workers, steps, partition, seed, ...options }) => {
    const method = divAdam({
      shapes,
      seed,
      learningRate: (step) => (RATE / 2) * (1 + Math.cos((Math.PI * (step - 1)) / steps)),
      ...options,
    });
    const parts = partitionExamples(partition, train.labels, workers, { seed, minimum: BATCH });
    const streams = parts.map((_, rank) => randomStream([seed, rank]));
    const [theta] = ravel(model.init(random.key(seed)));
    const run = together(method, theta, workers);
    while (run.steps < steps) {
      run.step((rank, position) => {
        const [part, stream] = [parts[rank]!, streams[rank]!];
        const indices = Int32Array.from({ length: BATCH }, () => part[stream.below(part.length)]!);
        return gradientAt(position, batchOf(train, indices));
      });
    }
    return accuracyAt(run.view(), held).item();
  };
}

/** Of all pixels: their mean and deviation. */
function momentsOf(pixels: Float32Array): [mean: number, deviation: number] {
  let [sum, squares] = [0, 0];
  for (const x of pixels) {
    sum += x;
    squares += x * x;
  }
  const mean = sum / pixels.length;
  return [mean, Math.sqrt(squares / pixels.length - mean ** 2)];
}
