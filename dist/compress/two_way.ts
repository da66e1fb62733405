/** A mean that is compressed on its way to the workers as well, as a server would; every worker computes the server's part. */
import { jit } from "../../autodiff/jit.ts";
import { zerosLike } from "../../core/create.ts";
import { add } from "../../core/ops.ts";
import type { Value } from "../../core/value.ts";
import { type Compressor, receivedBytes, split } from "./compressor.ts";
import { rememberedMean, residualMemory } from "./memory.ts";
import type { Payload, StepAt, Traffic } from "./method.ts";

/** What was not sent, by a worker and by the server. */
export interface TwoWayErrors {
  /** Of this worker; `[n]`. */
  readonly worker: Value;
  /** The same at all workers; `[n]`. */
  readonly server: Value;
}

/**
 * Compression of what workers send, and of the mean of that, both with error feedback.
 *
 * With `D = x + worker` the mean over workers of what is sent, plus `server`, is compressed again:
 * K (result + server error) + sum of worker errors is conserved.
 */
export interface TwoWayMean {
  init(theta: Value): TwoWayErrors;
  /** The payload of a vector; the worker's error is what it leaves. */
  begin(vector: Value, errors: TwoWayErrors, at: StepAt): readonly [errors: TwoWayErrors, payload: Payload];
  reduce(payloads: readonly Payload[]): Payload;
  /** The result, the same at all workers; the server's error is what it leaves. */
  end(errors: TwoWayErrors, reduced: Payload, at: StepAt): readonly [errors: TwoWayErrors, mean: Value];
  bytes(workers: number, dtype: "float32" | "float64"): Traffic;
}

/**
 * The server's error is at every worker, which all get what a server would and so find the same: the payloads of all
 * workers arrive where a server of its own would send the compressed mean only.
 */
export function twoWayMean(compressor: Compressor): TwoWayMean {
  const plus = jit((x: Value, y: Value) => add(x, y));
  const { reduce, expand } = rememberedMean({ compressor, memory: residualMemory() });
  const seed = 0;
  return {
    init: (theta) => ({ worker: zerosLike(theta), server: zerosLike(theta) }),
    begin(vector, errors, { step, rank }) {
      const compensated = plus(vector, errors.worker);
      const [payload, , worker] = split(compressor, compensated, { seed, step, rank: rank! });
      return [{ ...errors, worker }, payload];
    },
    reduce,
    end(errors, reduced, { step, workers }) {
      const mean = plus(expand(reduced, { seed, step }), errors.server);
      // The rank after the last is the server's.
      const [, sent, server] = split(compressor, mean, { seed, step, rank: workers });
      return [{ ...errors, server }, sent];
    },
    bytes: (workers, dtype) => ({
      sent: compressor.bytes(dtype),
      received: receivedBytes(compressor, workers, dtype),
    }),
  };
}
