/**
 * Distributed methods whose workers differ between steps, as pure functions: what one worker sends, what becomes of all
 * that is sent, what a worker makes of that. A runtime carries the payloads; nothing here knows how.
 */
import type { DType } from "../../core/dtype.ts";
import type { Value } from "../../core/value.ts";
import type { CompressorOptions } from "./compressor.ts";

/**
 * Bytes of tensor elements that one worker sends and gets.
 *
 * @since 0.2.0
 */
export interface Traffic {
  readonly sent: number;
  readonly received: number;
}

/**
 * What travels: a tree of tensors.
 *
 * @since 0.2.0
 */
export type Payload = unknown;

/**
 * A step of the whole run, counted from 1 as bias corrections count, as one worker or the hub sees it.
 *
 * @since 0.2.0
 */
export interface StepAt {
  readonly step: number;
  /** Null at the hub. */
  readonly rank: number | null;
  readonly workers: number;
  /** Whether nobody uses the state again: its storage may become that of the next one. Default false. */
  readonly givesUp?: boolean;
}

/**
 * Exchanges that nobody waits for: begun after one step, their result taken at the start of a later one.
 *
 * At most one is under way. The state that went into an exchange is kept until its result is taken, so that a worker can
 * send it again.
 *
 * @since 0.2.0
 */
export interface BackgroundExchange<S> {
  /** Whether one is begun after this step; a pure function of the step, the same at all workers. */
  beginsAfter(step: number): boolean;
  /** Whether the result is taken at the start of this step, before its gradient is used. */
  endsAt(step: number): boolean;
  /** What a worker sends; unchanged until the result is taken. */
  payload(state: S): Payload;
  /** What all get, of the payloads in the order of ranks. */
  reduce(payloads: readonly Payload[]): Payload;
}

/**
 * A method of many workers on flat parameters `[n]`.
 *
 * A step is: the gradient at `position`, then `begin`, then as many exchanges as `exchanges` says, each a reduction of the
 * workers' payloads followed by `next`. All functions are pure, but for a state that is given up; states are trees of tensors.
 *
 * @since 0.2.0
 */
export interface CommunicatingMethod<S> {
  readonly name: string;
  /** What the parameters are made of, for errors. Gradients are checked by who runs a method: `together`, and plans. */
  readonly tensors?: CompressorOptions;
  init(theta: Value): S;
  /** Where a worker takes its gradient. Shapes: `[n]`. */
  position(state: S): Value;
  /** Reductions that a step waits for; 0 for a local step. */
  exchanges(step: number): number;
  /**
   * From the gradient to the first payload, null where there is none.
   *
   * @param arrived the result of the background exchange that ends at this step, otherwise null
   */
  begin(
    state: S,
    gradient: Value,
    arrived: Payload | null,
    at: StepAt,
  ): readonly [state: S, payload: Payload | null];
  /** What all workers get of exchange number `index` from 0: the payloads are in the order of ranks. */
  reduce(payloads: readonly Payload[], index: number, at: StepAt): Payload;
  /** From the result of exchange `index` to the next payload, null after the last exchange. */
  next(state: S, reduced: Payload, index: number, at: StepAt): readonly [state: S, payload: Payload | null];
  readonly background?: BackgroundExchange<S>;
  /**
   * A worker's part of the parameters that are evaluated and saved: their mean over the workers. Nothing that is under way
   * or kept back is missing from it. Shapes: `[n]`.
   */
  view(state: S): Value;
  /**
   * Everything that differs between workers, to be averaged: the state in which another number of workers can go on. One
   * exchange; a background exchange under way is left, its input counted.
   */
  flush?: {
    payload(state: S): Payload;
    reduce(payloads: readonly Payload[]): Payload;
    apply(state: S, reduced: Payload): S;
  };
  /**
   * Of how many workers a state is one, where they differ; null where all have the same, so that any number of them can go
   * on. Not there, or undefined: it is not known.
   */
  workersOf?(state: S): number | null | undefined;
  /** Bytes of tensor elements that one worker sends, and gets, in the exchanges of a step; `dtype` of the parameters, default float32. */
  stepBytes(step: number, workers: number, dtype?: DType): Traffic;
  /** The same for the background exchange that begins after a step. */
  backgroundBytes?(workers: number, step?: number, dtype?: DType): Traffic;
}

/**
 * What methods that are built on compression are told beside their own options.
 *
 * @since 0.2.0
 */
export interface ParameterShapes {
  /** Shapes of the parameter tensors in the order in which they are raveled; their sizes add up to n. */
  readonly shapes: readonly (readonly number[])[];
}

/**
 * The learning rate: a number, or a function of the step, counted from 1.
 *
 * @since 0.2.0
 */
export type LearningRate = number | ((step: number) => number);
