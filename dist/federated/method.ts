/**
 * Federated methods as pure functions: what the server sends, what a client makes of it on its own examples, what the server
 * makes of the answers. Who is there in a round is decided before, by a plan.
 */
import type { Value } from "../../core/value.ts";

/** What travels: a tree of tensors. */
export type Payload = unknown;

/**
 * The examples of one client; they never leave it.
 *
 * Shapes: `x` is `[n, ...]`, `y` is `[n]` of int32.
 *
 * @since 0.2.0
 */
export interface ClientData {
  readonly x: Value;
  readonly y: Value;
}

/**
 * A federated method: `S` is the state of the server, `C` that of a client, trees of tensors both.
 *
 * @since 0.2.0
 */
export interface FederatedMethod<S = unknown, C = unknown> {
  readonly name: string;
  /** Rounds of communication until the model is whole; each is a message to every client that is there, and one back. */
  readonly rounds: number;
  initServer(): S;
  initClient(client: number): C;
  /** What every client of this round gets. */
  broadcast(server: S, round: number): Payload;
  /** What a client does in a round, and what it sends. */
  client(state: C, data: ClientData, received: Payload, at: ClientAt): readonly [state: C, sent: Payload];
  /** The server's state after a round; answers are in the order of clients, null for those that are not there. */
  server(state: S, answers: readonly (Payload | null)[], round: number): S;
  /** The model of all, with nothing but what `scores` needs. When the last round is over every client gets it. */
  model(server: S): Payload;
  /**
   * For methods with a model for each client: what it makes of the last broadcast, which it gets instead of the model of all,
   * and of its own examples. As whole as the model of all.
   */
  personalize?(state: C, data: ClientData, received: Payload, at: ClientAt): Payload;
  /** Scores of examples by the model of all or by that of a client, also when it comes from a file. Shapes: `[n, classes]`. */
  scores(model: Payload, x: Value): Value;
  /**
   * Bytes of tensor elements that one client gets and sends in a round, by formula; of the round after the last one, what it
   * gets at the end.
   */
  bytes(round: number): { readonly received: number; readonly sent: number };
  /** Whether the server needs nothing of the answers of a round but their sum, so that they may be masked; default false. */
  readonly needsSumOnly?: boolean;
}

/** A client in a round. */
export interface ClientAt {
  readonly round: number;
  readonly client: number;
  readonly clients: number;
}
