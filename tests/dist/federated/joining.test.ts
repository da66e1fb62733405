/**
 * Clients that come late and clients that leave, as runs: the model is that of the examples of those who are in it, whenever they
 * came. References are AFL with these clients all at once, and ridge regression.
 */
import { expect, test } from "bun:test";
import { PlanError } from "../../../core/errors.ts";
import { cast, norm, oneHot, sub } from "../../../core/ops.ts";
import type { Value } from "../../../core/value.ts";
import { type AflOptions, type AflServer, afl } from "../../../dist/federated/afl.ts";
import { federatedOutcome, federatedSetup } from "../../../dist/federated/jobs.ts";
import {
  type FederatedPlanInput,
  federatedBytes,
  federatedConfig,
  federatedPlan,
  presentClients,
} from "../../../dist/federated/plan.ts";
import { masked } from "../../../dist/federated/secure_sum.ts";
import { addStatistics, ridge, statisticsOf } from "../../../dist/federated/statistics.ts";
import { runSequential } from "../../../dist/runtime/sequential.ts";
import { toyData } from "./toy.ts";

const CLIENTS = 12;
const options: AflOptions = { features: (x) => x, width: 4, classes: 3, gamma: 0.5 };
const input: FederatedPlanInput = { clients: CLIENTS, rounds: 4, absentRate: 0.5, seed: 2, once: true };
const forms = [{}, { message: "model", kept: 0.5 }] as const;
const all = Array.from({ length: CLIENTS }, (_, client) => client);
const relative = (x: Value, y: Value): number => norm(sub(x, y)).item() / norm(y).item();

/** The weights of the examples of some clients together. */
function fittedTo(clients: readonly number[]): Value {
  const stats = clients.map((client) => {
    const { x, y } = toyData.train(client);
    return statisticsOf(cast(x, "float64"), oneHot(y, 3, { dtype: "float64" }));
  });
  return ridge(stats.reduce(addStatistics), 0.5);
}

const byRound = (plan: ReturnType<typeof federatedPlan>): number[][] =>
  Array.from({ length: plan.rounds }, (_, round) =>
    presentClients(plan, round).flatMap((isPresent, client) => (isPresent ? [client] : [])),
  );

test("who takes part once is there in the first round in which it could be, and in no other", () => {
  const [once, often] = [input, { ...input, once: false }].map((each) => byRound(federatedPlan(each)));
  expect(once![0]).toEqual(often![0]!);
  // Several rounds have new ones: the plan is not that of one round.
  expect(once!.filter((those) => those.length > 0).length).toBeGreaterThan(2);
  for (const client of all) {
    const [own, could] = [once!, often!].map((rounds) =>
      rounds.flatMap((those, round) => (those.includes(client) ? [round] : [])),
    );
    expect(own!).toEqual(could!.slice(0, 1));
  }
});

test("in many rounds, clients that are hardly ever there come once, in the first that has them", () => {
  const rounds = 1000;
  const plan = federatedPlan({ clients: 5, rounds, absentRate: 0.999, seed: 1, once: true });
  const came = byRound(plan).flatMap((those, round) => those.map((client) => [client, round] as const));
  expect(came.map(([client]) => client).sort()).toEqual([0, 1, 2, 3, 4]);
  const often = { ...plan, once: false };
  for (const [client, first] of came) {
    expect(presentClients(often, first)[client]).toBe(true);
    for (let round = 0; round < first; round += 7) expect(presentClients(often, round)[client]).toBe(false);
  }
  const sent = federatedBytes(plan, { bytes: () => ({ received: 0, sent: 8 }) });
  expect(sent.map((bytes) => bytes.sent)).toEqual([8, 8, 8, 8, 8]);
});

test("those that leave are there in the last round if they came, and models are evaluated before", () => {
  const plan = federatedPlan({ ...input, rounds: 3, leaving: [1, 4, 7, 9] });
  const rounds = byRound(plan);
  const came = new Set([...rounds[0]!, ...rounds[1]!]);
  const left = plan.leaving.filter((client) => came.has(client));
  expect([left.length > 0, left.length < plan.leaving.length]).toEqual([true, true]);
  expect(rounds[2]).toEqual(left);
  const phases = [0, 1, 2].map((round) =>
    federatedConfig(plan)
      .script(round)
      .map((step) => ("name" in step ? step.name : "")),
  );
  expect(phases.map((names) => names.at(-1))).toEqual(["train", "evaluate", "finish"]);
});

for (const form of forms) {
  const name = "message" in form ? form.message : "sums";
  test(`${name}: clients added in later rounds give the model of all at once`, () => {
    const method = afl({ ...options, ...form, rounds: 4 });
    const plan = federatedPlan({ ...input, workers: 2 });
    const came = byRound(plan).flat();
    const values = runSequential(federatedSetup(plan, method, toyData));
    const { weights } = values.hub["server"] as AflServer;
    expect(relative(weights, fittedTo(came))).toBeLessThan(1e-9);
    // Without the late ones it is another model.
    expect(relative(weights, fittedTo(byRound(plan)[0]!))).toBeGreaterThan(1e-3);
    // Each sends once, as the formula says.
    const formula = federatedBytes(plan, method);
    const { clients } = federatedOutcome(plan, values);
    expect(clients.map(({ received, sent, receivedAtEnd }) => ({ received, sent, receivedAtEnd }))).toEqual([
      ...formula,
    ]);
    expect(formula.map(({ sent }) => sent)).toEqual(
      all.map((client) => (came.includes(client) ? method.bytes(0).sent : 0)),
    );
  });

  test(`${name}: clients that leave leave nothing but rounding`, () => {
    const method = afl({ ...options, ...form, rounds: 2, leaving: true });
    expect(method.rounds).toBe(3);
    const plan = federatedPlan({ ...input, rounds: 3, leaving: [1, 4, 7, 9] });
    const [first, second, last] = byRound(plan) as [number[], number[], number[]];
    const came = [...first, ...second];
    const stay = came.filter((client) => !last.includes(client));
    const { weights } = runSequential(federatedSetup(plan, method, toyData)).hub["server"] as AflServer;
    expect(relative(weights, fittedTo(stay))).toBeLessThan(1e-9);
    expect(relative(weights, fittedTo(came))).toBeGreaterThan(1e-3);
  });
}

test("masks cancel in every round of late clients", () => {
  const method = masked(afl({ ...options, rounds: 4 }), { seed: 5, clients: CLIENTS });
  const plan = federatedPlan(input);
  const { weights } = runSequential(federatedSetup(plan, method, toyData)).hub["server"] as AflServer;
  // Sums are within 12 / 2^33 = 1.4e-9, gamma is 0.5, and the weights are below 1.
  expect(relative(weights, fittedTo(byRound(plan).flat()))).toBeLessThan(1e-7);
});

test("rounds and leavings that cannot be are refused", () => {
  for (const rounds of [0, 1.5]) expect(() => afl({ ...options, rounds })).toThrow("positive whole number");
  const refused = (plan: object): string => {
    try {
      federatedPlan({ ...input, ...plan });
    } catch (error) {
      if (error instanceof PlanError) return error.message;
    }
    throw new Error("not refused");
  };
  expect(refused({ leaving: [12] })).toContain("leaving: client 12 is not one of 12");
  expect(refused({ leaving: [1], rounds: 1 })).toContain("leaving: there is 1 round");
});
