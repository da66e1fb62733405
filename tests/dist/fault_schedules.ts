/** What may go wrong in a simulated run, drawn at random. */
import fc from "fast-check";
import type { Peer } from "../../dist/protocol/types.ts";
import type { Faults } from "../../dist/sim.ts";

/** Some of the faults, and what they happen to. */
type Schedule = { readonly seed: number; readonly workers: number } & Pick<
  Faults,
  | "lossRate"
  | "duplicateRate"
  | "maxDelay"
  | "maxWork"
  | "crashRate"
  | "noticeRate"
  | "reviveRate"
  | "partitions"
>;

export const faultSchedules: fc.Arbitrary<Schedule> = fc.record({
  seed: fc.nat(),
  workers: fc.integer({ min: 1, max: 4 }),
  lossRate: fc.constantFrom(0, 0.05, 0.3),
  duplicateRate: fc.constantFrom(0, 0.1, 0.5),
  maxDelay: fc.constantFrom(1, 3, 12, 40),
  maxWork: fc.constantFrom(1, 6, 30),
  crashRate: fc.constantFrom(0, 0.003, 0.02),
  noticeRate: fc.constantFrom(0, 0.5, 1),
  reviveRate: fc.constantFrom(0, 0.5, 1),
  partitions: fc.array(
    fc
      .tuple(fc.constantFrom<Peer>("hub", 0), fc.nat({ max: 400 }), fc.integer({ min: 1, max: 250 }))
      .map(([peer, from, length]) => ({ peer, from, to: from + length })),
    { maxLength: 2 },
  ),
});
