/**
 * Compiled programs: the steps of a schedule as dispatches, and which buffer each of them reads and writes when they run.
 * A run records its commands and returns at once; results are tensors whose elements the device will have.
 */
import { type CompileOptions, type Executable, hostResults, sharing } from "../../backend.ts";
import { DeviceError, invariant } from "../../errors.ts";
import { withEpilogues } from "../../passes/epilogue.ts";
import { type CallStep, fused, type Schedule, type Slot, type Step } from "../../passes/fuse.ts";
import { halvesWidened } from "../../passes/halves.ts";
import { type Lifetime, lifetimes, slotsOf } from "../../passes/plan.ts";
import type { HostArray } from "../../primitive.ts";
import type { Program } from "../../program.ts";
import { isShared, markShared, remoteOf, Tensor } from "../../value.ts";
import type { GpuBindGroup, GpuBuffer } from "./api.ts";
import { type Context, DeviceArray } from "./context.ts";
import type { Pipeline } from "./device.ts";
import { isComputable } from "./expressions.ts";
import { checkHeld } from "./halves.ts";
import {
  type BufferRef,
  type Capabilities,
  type Choose,
  type Dispatch,
  FAULTS,
  type NamedKernel,
  Workspace,
} from "./kernel.ts";
import { loopDispatches } from "./loops.ts";
import { type Block, blockBytes } from "./pool.ts";
import type { Recorded, Work } from "./profile.ts";
import { bufferBytes } from "./wgsl.ts";

/** Sets of buffers that a dispatch has met, each with its bind group; more are forgotten together. */
const MOST_GROUPS = 32;

/** Where a run finds a buffer: in a table that it fills, or the words of faults. */
type Place = number | typeof FAULTS;

interface Action {
  readonly dispatch: Dispatch;
  readonly work: Work;
  /** Made for the first run, or before it by `prepare`. */
  pipeline: Pipeline | null;
  readonly places: readonly Place[];
  readonly groups: Map<string, GpuBindGroup>;
}

/** An equation without a kernel: its operands are read, its record's function runs, its results are sent. */
interface HostAction {
  readonly step: CallStep;
  readonly args: readonly Place[];
  readonly outs: readonly Place[];
}

/** A buffer that some steps of a program need, one after the other for different values. */
interface Room {
  bytes: number;
  readonly place: number;
}

export function compile(
  program: Program,
  context: Context,
  named: ReadonlyMap<string, NamedKernel>,
  options: CompileOptions = {},
): WebgpuExecutable {
  const { gpu } = context;
  const schedule = fused(
    halvesWidened(program, (name) => named.get(name)?.takesHalves === true),
    (prim, args, outs, params) => {
      const kernel = prim.kernel?.k === "named" ? named.get(prim.kernel.name) : undefined;
      return kernel?.prepare(args, outs, params, gpu) ?? null;
    },
    { loads: gpu.limits.maxStorageBuffers - 1, computes: isComputable },
  );
  const joined = withEpilogues(schedule, (call, loop) => {
    if (call.prim.kernel?.k !== "named" || !named.get(call.prim.kernel.name)!.takesEpilogue) return false;
    // What both read is bound twice, and the result may be needed besides.
    const operands = new Set(call.args.map(({ slot }) => slot));
    const others = new Set([...loop.loads, ...loop.stores].map(({ slot }) => slot)).add(call.outs[0]!);
    return operands.size + others.size <= gpu.limits.maxStorageBuffers;
  });
  return new WebgpuExecutable(program, joined, context, named, options);
}

/** What runs, and where each step finds its buffers. */
class Plan {
  readonly actions: readonly (Action | HostAction)[];
  readonly rooms: Room[] = [];
  /** Inputs that a step reads: place by number; constants likewise. */
  readonly readInputs: readonly (readonly [input: number, place: number])[];
  readonly constants: readonly (readonly [value: Tensor, place: number])[];
  /** Outputs that steps compute, without repetition. */
  readonly computed: readonly Slot[];
  /** Of the choices that it was made with; null where there was nothing to choose. */
  readonly version: number | null;
  /** The place of every slot. */
  readonly places = new Map<Slot, number>();
  readonly #workspaces = new Map<Workspace, number>();
  #placeCount = 0;

  constructor(schedule: Schedule, context: Context, named: ReadonlyMap<string, NamedKernel>) {
    this.computed = [
      ...new Set(schedule.outs.map(({ slot }) => slot).filter(({ origin }) => origin === "step")),
    ];
    let hasChoices = false;
    const choose: Choose = (key, variants) => {
      hasChoices = true;
      return context.choices.choose(key, variants);
    };
    const steps = schedule.steps.map((step) =>
      step.k === "host" ? null : dispatchesOf(step, named, { ...context.gpu, choose }),
    );
    this.version = hasChoices ? context.choices.version : null;
    const lives = lifetimes(schedule);
    this.#assign(lives, steps);
    this.readInputs = schedule.ins.flatMap((slot, i) => {
      const isRead = lives.get(slot)!.to >= 0 && schedule.steps.length > 0;
      return isRead ? [[i, this.places.get(slot)!] as const] : [];
    });
    this.constants = [...this.places].flatMap(([slot, place]) =>
      slot.origin === "constant" ? [[slot.value!, place] as const] : [],
    );
    this.actions = schedule.steps.flatMap((step, at): (Action | HostAction)[] => {
      const dispatches = steps[at]!;
      if (dispatches !== null) return dispatches.map((dispatch) => this.#action(step, dispatch));
      const { args, outs } = step as CallStep;
      const places = (slots: readonly Slot[]): Place[] => slots.map((slot) => this.places.get(slot)!);
      return [{ step: step as CallStep, args: places(args.map(({ slot }) => slot)), outs: places(outs) }];
    });
  }

  /** Gives every slot and workspace a place; intermediate values of different times share rooms. */
  #assign(lives: ReadonlyMap<Slot, Lifetime>, steps: readonly (readonly Dispatch[] | null)[]): void {
    const own = new Set<Slot>(this.computed);
    for (const slot of lives.keys()) {
      if (slot.origin !== "step" || own.has(slot)) this.places.set(slot, this.#placeCount++);
    }
    const free: Room[] = [];
    const take = (bytes: number): Room => {
      const at = free.findIndex((room) => blockBytes(room.bytes) === blockBytes(bytes));
      const known = at >= 0 ? free.splice(at, 1)[0] : undefined;
      const room = known ?? { bytes, place: this.#placeCount++ };
      if (known === undefined) this.rooms.push(room);
      // Not what its block has: that may be more than any buffer can have.
      room.bytes = Math.max(room.bytes, bytes);
      return room;
    };
    const ends = new Map<number, Room[]>();
    const inOrder = [...lives].filter(([slot]) => !this.places.has(slot));
    const starting = Map.groupBy(inOrder, ([, { from }]) => from);
    steps.forEach((dispatches, at) => {
      for (const [slot, { to }] of starting.get(at) ?? []) {
        const room = take(bufferBytes(slot.aval));
        this.places.set(slot, room.place);
        const list = ends.get(to);
        if (list) list.push(room);
        else ends.set(to, [room]);
      }
      const spaces = new Set(
        (dispatches ?? []).flatMap(({ buffers }) => buffers.filter((b) => b instanceof Workspace)),
      );
      const lent = [...spaces].map((space) => {
        const room = take(space.bytes);
        this.#workspaces.set(space, room.place);
        return room;
      });
      free.push(...lent, ...(ends.get(at) ?? []));
    });
  }

  #action(step: Step, dispatch: Dispatch): Action {
    const placeOf = (ref: BufferRef): Place => {
      if (ref === FAULTS) return FAULTS;
      const place = ref instanceof Workspace ? this.#workspaces.get(ref) : this.places.get(ref);
      invariant(place !== undefined, "a dispatch uses the buffers of its step");
      return place;
    };
    const { label, operations, buffers } = dispatch;
    const result = String(slotsOf(step).writes[0]!.aval);
    const work: Work = { label, result, bytes: bytesOf(buffers), operations };
    return { dispatch, work, pipeline: null, places: buffers.map(placeOf), groups: new Map() };
  }

  get dispatches(): readonly Dispatch[] {
    return this.actions.flatMap((action) => ("dispatch" in action ? [action.dispatch] : []));
  }

  #isReady = false;

  /** Makes the pipelines that are not there yet. */
  ready(context: Context): void {
    if (this.#isReady) return;
    for (const action of this.actions) {
      if (!("dispatch" in action)) continue;
      const { code, label } = action.dispatch;
      action.pipeline ??= context.pipeline(code, label);
    }
    this.#isReady = true;
  }

  releaseGroups({ device }: Context): void {
    for (const action of this.actions) {
      if (!("dispatch" in action)) continue;
      for (const group of action.groups.values()) device.releaseBindGroup(group);
      action.groups.clear();
    }
  }
}

/** Of different buffers. */
function bytesOf(buffers: readonly BufferRef[]): number {
  return [...new Set(buffers)].reduce((sum, ref) => {
    if (ref === FAULTS) return sum;
    return sum + (ref instanceof Workspace ? ref.bytes : bufferBytes(ref.aval));
  }, 0);
}

export class WebgpuExecutable implements Executable {
  readonly #context: Context;
  readonly #schedule: Schedule;
  readonly #named: ReadonlyMap<string, NamedKernel>;
  readonly #donated: readonly boolean[];
  #plan: Plan;

  constructor(
    program: Program,
    schedule: Schedule,
    context: Context,
    named: ReadonlyMap<string, NamedKernel>,
    { donated = [] }: CompileOptions,
  ) {
    this.#context = context;
    this.#schedule = schedule;
    this.#named = named;
    this.#donated = donated;
    for (const { outs } of program.eqns) for (const { aval } of outs) checkHeld(aval, context.gpu, "compute");
    this.#plan = new Plan(schedule, context, named);
  }

  /** The plan, made again where choices have changed since it was made. */
  get #current(): Plan {
    const { version } = this.#plan;
    if (version !== null && version !== this.#context.choices.version) {
      this.#context.flush();
      this.#plan.releaseGroups(this.#context);
      this.#plan = new Plan(this.#schedule, this.#context, this.#named);
    }
    return this.#plan;
  }

  async prepare(): Promise<void> {
    this.#context.checkOpen();
    const plan = this.#current;
    await this.#context.prepare(plan.dispatches);
    this.#context.checkOpen();
    plan.ready(this.#context);
  }

  /** Calls `choose` as for making dispatches. */
  choices(choose: Choose): void {
    for (const step of this.#schedule.steps) {
      if (step.k === "named") dispatchesOf(step, this.#named, { ...this.#context.gpu, choose });
    }
  }

  run(args: readonly Tensor[]): Tensor[] {
    const context = this.#context;
    context.checkOpen();
    context.pulse();
    context.running?.add(this);
    const plan = this.#current;
    plan.ready(context);
    const { ins, outs } = this.#schedule;
    const table: (Block | undefined)[] = [];
    const rooms: Block[] = [];
    const made = new Map<Slot, DeviceArray>();
    try {
      for (const [i, place] of plan.readInputs) table[place] = context.arrayOf(args[i]!).block;
      for (const [value, place] of plan.constants) table[place] = context.arrayOf(value).block;
      for (const slot of plan.computed) {
        const { dtype, size } = slot.aval;
        const array = context.makeArray(dtype, size, () => String(slot.aval));
        made.set(slot, array);
        table[plan.places.get(slot)!] = array.block;
      }
      for (const { bytes, place } of plan.rooms) {
        const block = context.pool.acquire(bytes, () => "an intermediate result");
        rooms.push(block);
        table[place] = block;
      }
      for (const action of plan.actions) {
        if ("dispatch" in action) context.record([this.#command(action, table)]);
        else runOnHost(action, table, context);
      }
      for (const array of made.values()) context.finish(array);
    } catch (error) {
      for (const array of made.values()) context.release(array);
      throw error;
    } finally {
      for (const block of rooms) context.pool.give(block);
    }
    const given = new Set<DeviceArray>();
    const results = outs.map(({ slot, aval }): Tensor => {
      if (slot.origin === "input") return sharing(args[ins.indexOf(slot)]!, aval);
      if (slot.origin === "constant") return sharing(slot.value!, aval);
      const array = made.get(slot)!;
      if (given.has(array)) markShared(array);
      given.add(array);
      return new Tensor(aval, array);
    });
    this.#donated.forEach((isDonated, i) => {
      const array = isDonated ? remoteOf(args[i]!) : null;
      if (array instanceof DeviceArray && !isShared(array)) context.release(array);
    });
    return results;
  }

  #command(action: Action, table: readonly (Block | undefined)[]): Recorded {
    const { dispatch, work, places, groups } = action;
    const pipeline = action.pipeline!;
    const context = this.#context;
    let key = "";
    for (const place of places) key += place === FAULTS ? "" : `${table[place]!.id},`;
    let group = groups.get(key);
    if (group === undefined) {
      if (groups.size >= MOST_GROUPS) {
        context.flush();
        for (const old of groups.values()) context.device.releaseBindGroup(old);
        groups.clear();
      }
      const buffers = places.map(
        (place): GpuBuffer => (place === FAULTS ? context.faults : table[place]!.buffer),
      );
      group = context.group(pipeline, buffers);
      groups.set(key, group);
    }
    const [x, y, z] = dispatch.groups;
    return { dispatch: pipeline, group, x, y, z, work };
  }

  /** The dispatches in order. */
  get dispatches(): readonly Dispatch[] {
    return this.#current.dispatches;
  }

  show(): string {
    const { rooms, actions } = this.#current;
    const bytes = rooms.reduce((sum, room) => sum + room.bytes, 0);
    const lines = actions.map((action) => {
      if (!("dispatch" in action)) return `host ${action.step.prim.name}`;
      const { label, groups, buffers } = action.dispatch;
      return `${label}: ${groups.filter((n, i) => n > 1 || i === 0).join("x")} workgroups, ${buffers.length} buffers`;
    });
    return [
      `webgpu: ${lines.length} steps, ${rooms.length} intermediate buffers of ${bytes} bytes`,
      ...lines,
    ].join("\n");
  }
}

function dispatchesOf(
  step: Step,
  named: ReadonlyMap<string, NamedKernel>,
  gpu: Capabilities,
): readonly Dispatch[] {
  if (step.k === "loop") return loopDispatches(step, gpu);
  const { kernel } = step.prim;
  invariant(kernel?.k === "named", "a named step has a named kernel");
  const dispatches = named.get(kernel.name)!.dispatches(step, gpu);
  if (step.epilogue === null) return dispatches;
  const names = step.epilogue.loop.names.join("+");
  return dispatches.map((dispatch) => ({ ...dispatch, label: `${dispatch.label}+${names}` }));
}

function runOnHost(
  { step, args, outs }: HostAction,
  table: readonly (Block | undefined)[],
  context: Context,
): void {
  const { prim, params } = step;
  const arrays = args.map((place, i) => {
    const { dtype, size } = step.args[i]!.slot.aval;
    return new DeviceArray(context, dtype, size, table[place as number]!);
  });
  if (!context.device.canReadSync) {
    throw new DeviceError(
      "invalid",
      prim.name,
      `Cannot compute ${prim.name} on webgpu: there is no shader for it and ${context.device.host} cannot wait for the device, operands on the cpu are needed; await devicePut(x, "cpu")`,
    );
  }
  const hosts = context.readSync(arrays).map((data, i): HostArray => {
    const { layout } = step.args[i]!;
    return { aval: step.args[i]!.slot.aval.withShape(layout.shape), data };
  });
  const avals = outs.map((_, i) => step.outs[i]!.aval);
  hostResults(prim, hosts, avals, params).forEach((data, i) => {
    const { dtype, size } = avals[i]!;
    context.write(new DeviceArray(context, dtype, size, table[outs[i] as number]!), data);
  });
}
