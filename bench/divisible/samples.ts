/** Which examples each worker takes at each step. */
import { permutation } from "../../cli/data/random.ts";

/**
 * The next `size` examples of a worker's part, which it goes through in an order of its own, again and again: what is left at
 * the end of one pass and the beginning of the next make one batch.
 */
export function indicesOfWorkers(
  parts: readonly Int32Array[],
  size: number,
  seed: number,
): (rank: number) => Int32Array {
  const places = parts.map((): Place => ({ pass: 0, at: 0, order: new Int32Array(0) }));
  return (rank) => {
    const part = parts[rank]!;
    const place = places[rank]!;
    return Int32Array.from({ length: size }, () => {
      if (place.at === place.order.length) {
        place.order = permutation(part.length, [seed, rank, place.pass++]);
        place.at = 0;
      }
      return part[place.order[place.at++]!]!;
    });
  };
}

/** Where a worker is in its part. */
interface Place {
  pass: number;
  at: number;
  order: Int32Array;
}
