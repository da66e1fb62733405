/**
 * An open device with what the backend keeps on it: buffers, pipelines, and the commands that are recorded but not sent.
 * Commands wait until somebody reads, or many have come together, or the turn ends: one submission costs about as much
 * as ten dispatches.
 */
import type { Activity } from "../../backend.ts";
import { bytesPerElement, type DType, makeArray, type TypedArray } from "../../dtype.ts";
import { DeviceError } from "../../errors.ts";
import { numberName } from "../../identity.ts";
import { type Owned, Reclaimer } from "../../reclaim.ts";
import { hostStorage, markShared, type Remote, remoteOf, type Tensor } from "../../value.ts";
import { BufferUsage, type GpuBindGroup, type GpuBuffer } from "./api.ts";
import type { Device, Pipeline } from "./device.ts";
import type { WebgpuExecutable } from "./executable.ts";
import { FAULT_BYTES, faultOf } from "./faults.ts";
import { checkHeld } from "./halves.ts";
import type { Capabilities, Dispatch } from "./kernel.ts";
import { type Block, Pool } from "./pool.ts";
import { type Recorded, Recorder } from "./profile.ts";
import { ChoiceTable } from "./tuning_table.ts";
import { bufferBytes, extended } from "./wgsl.ts";

/** The name that tensors of this backend give as their device. */
export const DEVICE_NAME = "webgpu";

const STORAGE_USAGE: number = BufferUsage.STORAGE | BufferUsage.COPY_SRC | BufferUsage.COPY_DST;

/** Commands are sent when so many wait. */
const MOST_PENDING = 128;
/** Pipelines of texts seen longest ago are forgotten beyond this many. */
const MOST_PIPELINES = 4096;

/** Dead arrays may hold about so much before they are looked for. */
const SLACK_BYTES: number = 64 * 2 ** 20;
/** What a small array costs: a buffer of a few bytes is an object of the driver too. */
const LEAST_COST_BYTES = 16384;
/** Different single numbers that are kept on the device. */
const MOST_SCALARS = 1024;

/** Elements in a block of the device. */
export class DeviceArray implements Remote {
  readonly device: string = DEVICE_NAME;
  readonly dtype: DType;
  readonly length: number;
  readonly context: Context;
  readonly #block: Block;
  #isReleased = false;
  /** When it was computed, in order; 0: by no commands. */
  #order = 0;

  constructor(context: Context, dtype: DType, length: number, block: Block) {
    this.context = context;
    this.dtype = dtype;
    this.length = length;
    this.#block = block;
  }

  /**
   * Where the elements are.
   *
   * @throws {DeviceError} if they were released or never computed, or the device is gone
   */
  get block(): Block {
    if (!this.context.isOpen) {
      throw new DeviceError(
        "lost",
        "elements",
        `Cannot use ${this.length} elements on webgpu: their device was closed or lost and they with it, elements of an open one are needed`,
      );
    }
    this.context.checkComputed(this.#order, this.length);
    if (this.#isReleased) {
      throw new DeviceError(
        "lost",
        "elements",
        `Cannot use ${this.length} elements on webgpu: they were released, live ones are needed`,
      );
    }
    return this.#block;
  }

  /** Says that the commands which compute the elements were recorded, after those of all that has a lower number. */
  markRecorded(order: number): void {
    this.#order = order;
  }

  /** Says that the block belongs to somebody else from now on. */
  markReleased(): void {
    this.#isReleased = true;
  }

  async read(): Promise<TypedArray> {
    const [data] = await this.context.read([this]);
    return data!;
  }

  readSync(): TypedArray {
    return this.context.readSync([this])[0]!;
  }
}

export class Context {
  readonly device: Device;
  /** What shader writers are told of it. */
  readonly gpu: Capabilities;
  readonly pool: Pool;
  readonly faults: GpuBuffer;
  /** Which of several ways to compute the same is used. */
  readonly choices: ChoiceTable;
  /** Programs that run while somebody watches. */
  running: Set<WebgpuExecutable> | null = null;
  #recorder: Recorder | null = null;
  readonly #pipelines = new Map<string, Pipeline>();
  /** Pipelines that are being made in the background. */
  readonly #making = new Map<string, Promise<void>>();
  readonly #pending: Recorded[] = [];
  /** Blocks of arrays, until these are garbage. */
  readonly #arrays: Reclaimer<Block>;
  readonly #owned = new WeakMap<DeviceArray, Owned<Block>>();
  #isScheduled = false;
  #isClosed = false;
  /** Host tensors that were sent, and what they are on the device. */
  readonly #sent = new WeakMap<Tensor, DeviceArray>();
  /** Arrays whose commands were recorded so far, and up to which of them a read has shown that nothing was refused. */
  #recorded = 0;
  #proven = 0;
  /** Arrays that refused commands may have been for: the first and the last. */
  readonly #lost: (readonly [from: number, to: number])[] = [];
  #refusals = 0;

  /** `memoryBytes` says what tensors and programs may hold together. */
  constructor(
    device: Device,
    memoryBytes: (gpu: Capabilities) => number,
    choices: ChoiceTable = new ChoiceTable(device.name, null),
  ) {
    this.device = device;
    this.choices = choices;
    this.gpu = {
      ...capabilitiesOf(device),
      choose: (key, variants) => choices.choose(key, variants),
    };
    this.pool = new Pool(device, memoryBytes(this.gpu), {
      flush: () => this.flush(),
      collect: () => void this.#arrays.collectAll(),
    });
    this.#arrays = new Reclaimer((block) => this.pool.give(block), {
      slackBytes: Math.min(SLACK_BYTES, this.pool.budgetBytes / 8),
      mostSlackBytes: this.pool.budgetBytes / 4,
    });
    this.faults = device.createBuffer(256, STORAGE_USAGE, "faults");
    device.write(this.faults, 0, new Uint32Array(FAULT_BYTES / 4));
  }

  get isOpen(): boolean {
    return !this.#isClosed && !this.device.isLost;
  }

  /** @throws {DeviceError} if the device is lost or closed */
  checkOpen(): void {
    if (this.#isClosed)
      throw new DeviceError(
        "lost",
        DEVICE_NAME,
        `Cannot use webgpu: the device is closed, another init("webgpu") is needed`,
      );
    if (this.device.isLost)
      throw new DeviceError(
        "lost",
        DEVICE_NAME,
        `Cannot use webgpu: the device was lost, another init("webgpu") is needed`,
      );
  }

  /**
   * After a refusal or a fault nobody knows which commands it was: what they were for must not be taken for numbers.
   *
   * @throws {DeviceError} if the array of this number is one of those
   */
  checkComputed(order: number, length: number): void {
    this.#judge();
    if (!this.#lost.some(([from, to]) => from <= order && order <= to)) return;
    this.device.check();
    throw new DeviceError(
      "lost",
      "elements",
      `Cannot use ${length} elements on webgpu: the device refused commands, or found a fault in elements, that they may come from, computed ones are needed; compute them again`,
    );
  }

  #judge(): void {
    if (this.device.refusals === this.#refusals) return;
    this.#refusals = this.device.refusals;
    this.#lose();
  }

  /** Says that nobody knows what the arrays hold that were recorded since the last good read. */
  #lose(): void {
    if (this.#recorded > this.#proven) this.#lost.push([this.#proven + 1, this.#recorded]);
    this.#proven = this.#recorded;
  }

  /** Numbers an array whose commands were recorded. */
  finish(array: DeviceArray): void {
    array.markRecorded(++this.#recorded);
  }

  /** Says that a read of what was recorded up to a number has come. */
  #prove(recorded: number): void {
    this.#judge();
    this.#proven = Math.max(this.#proven, recorded);
  }

  // --- commands --------------------------------------------------------------------------------------------------

  /** Adds commands to those that wait. */
  record(commands: readonly Recorded[]): void {
    for (const command of commands) this.#pending.push(command);
    if (this.#pending.length >= MOST_PENDING) this.flush();
    else if (!this.#isScheduled) {
      this.#isScheduled = true;
      queueMicrotask(() => {
        this.#isScheduled = false;
        // Nobody would catch what is thrown here: after a refusal the commands wait for the operation that throws it.
        if (this.isOpen && !this.device.hasRefused) this.flush();
      });
    }
  }

  /**
   * Sends the commands that wait.
   *
   * @throws {DeviceError} if the device has refused anything before; they go on waiting
   */
  flush(): void {
    if (this.#pending.length === 0) return;
    this.device.check();
    (this.#recorder ?? this.device).submit(this.#pending.splice(0));
  }

  /** Counts and times everything from now on; the result ends it. */
  profile(): () => Promise<Activity> {
    this.flush();
    const recorder = new Recorder(DEVICE_NAME, this.device);
    this.#recorder = recorder;
    return () => {
      try {
        this.flush();
      } finally {
        this.#recorder = null;
      }
      return recorder.finish();
    };
  }

  /** The pipeline of a shader. */
  pipeline(code: string, label: string): Pipeline {
    return this.#pipelines.get(code) ?? this.#keep(code, this.device.pipeline(extended(code), "main", label));
  }

  /** Makes the pipelines of several shaders at the same time. */
  async prepare(dispatches: readonly Dispatch[]): Promise<void> {
    const fresh = new Map(dispatches.map(({ code, label }) => [code, label]));
    for (const code of this.#pipelines.keys()) fresh.delete(code);
    await Promise.all([...fresh].map(([code, label]) => this.#prepared(code, label)));
  }

  #prepared(code: string, label: string): Promise<void> {
    const known = this.#making.get(code);
    if (known) return known;
    const making = this.device
      .pipelineAsync(extended(code), "main", label)
      .then((pipeline) => void this.#keep(code, pipeline))
      .finally(() => this.#making.delete(code));
    this.#making.set(code, making);
    return making;
  }

  /** Keeps a pipeline, unless the text has got one meanwhile. */
  #keep(code: string, pipeline: Pipeline): Pipeline {
    const known = this.#pipelines.get(code);
    if (known) {
      this.device.releasePipeline(pipeline);
      return known;
    }
    if (this.#pipelines.size >= MOST_PIPELINES) {
      this.#pipelines.delete(this.#pipelines.keys().next().value!);
    }
    this.#pipelines.set(code, pipeline);
    return pipeline;
  }

  group(pipeline: Pipeline, buffers: readonly GpuBuffer[]): GpuBindGroup {
    return this.device.bindGroup(
      pipeline,
      buffers.map((buffer) => ({ buffer })),
    );
  }

  // --- elements --------------------------------------------------------------------------------------------------

  /** Room for so many elements, whose values are arbitrary, until nobody holds the array. */
  makeArray(dtype: DType, length: number, what: () => string): DeviceArray {
    const bytes = bufferBytes({ dtype, size: length });
    this.#arrays.admit(Math.max(LEAST_COST_BYTES, bytes));
    const block = this.pool.acquire(bytes, what);
    const array = new DeviceArray(this, dtype, length, block);
    this.#owned.set(array, this.#arrays.track(array, Math.max(LEAST_COST_BYTES, block.bytes), block));
    return array;
  }

  /** Gives the block of an array back: nobody uses it any more. */
  release(array: DeviceArray): void {
    const owned = this.#owned.get(array);
    if (owned !== undefined && this.#arrays.release(owned)) array.markReleased();
  }

  /** Once for every program that runs. */
  pulse(): void {
    this.#arrays.pulse();
  }

  /** A tensor's elements on this device: its own, or a copy that is kept while the tensor lives. */
  arrayOf(x: Tensor): DeviceArray {
    const data = hostStorage(x);
    if (data === null) return this.#own(x);
    const known = this.#sent.get(x);
    if (known) return known;
    checkHeld(x.aval, this.gpu, "put");
    const array = this.makeArray(x.dtype, x.size, () => String(x.aval));
    this.write(array, data);
    this.#sent.set(x, array);
    return array;
  }

  #own(x: Tensor): DeviceArray {
    const remote = remoteArray(x);
    if (remote.context !== this)
      throw new DeviceError(
        "lost",
        String(x.aval),
        `Cannot use ${x.aval}: it is on a device that was closed or lost, one on this device is needed`,
      );
    return remote;
  }

  readonly #scalars = new Map<string, DeviceArray>();

  /** The elements of a tensor on this device: those of single numbers are sent once. */
  put(x: Tensor): DeviceArray {
    const data = x.size === 1 ? hostStorage(x) : null;
    if (data === null) return this.arrayOf(x);
    this.checkOpen();
    const key = `${x.dtype} ${numberName(data[0]!)}`;
    let array = this.#scalars.get(key);
    if (array === undefined) {
      if (this.#scalars.size >= MOST_SCALARS) this.#scalars.clear();
      array = this.arrayOf(x);
      markShared(array);
      this.#scalars.set(key, array);
    }
    return array;
  }

  write({ block, dtype, length }: DeviceArray, data: TypedArray): void {
    // What waits may still read what the block held before.
    this.flush();
    this.#recorder?.sent(bufferBytes({ dtype, size: length }));
    const isBool = data instanceof Uint8Array;
    this.device.write(block.buffer, 0, isBool ? Uint32Array.from(data) : data);
  }

  /** Copies of the elements of several arrays, in one transfer. */
  async read(arrays: readonly DeviceArray[]): Promise<TypedArray[]> {
    const requests = this.#requests(arrays);
    const end = this.#reading(arrays);
    const recorded = this.#recorded;
    try {
      const words = await this.device.read(requests);
      return this.#results(arrays, words, recorded);
    } finally {
      end?.();
    }
  }

  /**
   * The same at once.
   *
   * @throws {DeviceError} where the host cannot wait for the device
   */
  readSync(arrays: readonly DeviceArray[]): TypedArray[] {
    const requests = this.#requests(arrays);
    if (!this.device.canReadSync) {
      throw new DeviceError(
        "invalid",
        "read",
        `Cannot read elements from webgpu at once: ${this.device.host} cannot wait for the device, await x.data() or devicePut(x, "cpu") is needed`,
      );
    }
    const end = this.#reading(arrays);
    try {
      const words = this.device.readSync(requests);
      return this.#results(arrays, words, this.#recorded);
    } finally {
      end?.();
    }
  }

  #reading(arrays: readonly DeviceArray[]): (() => void) | undefined {
    return this.#recorder?.reading(arrays.reduce((sum, array) => sum + bytesRead(array), 0));
  }

  #requests(arrays: readonly DeviceArray[]): { buffer: GpuBuffer; offset: number; bytes: number }[] {
    const parts = arrays.map((array) => {
      return { buffer: array.block.buffer, offset: 0, bytes: bytesRead(array) };
    });
    this.checkOpen();
    this.flush();
    return [{ buffer: this.faults, offset: 0, bytes: FAULT_BYTES }, ...parts];
  }

  /** The elements that a read gave of arrays recorded up to a number. */
  #results(
    arrays: readonly DeviceArray[],
    [faults, ...parts]: readonly Uint8Array[],
    recorded: number,
  ): TypedArray[] {
    const error = faultOf(new Int32Array(faults!.buffer, faults!.byteOffset, 2));
    if (error) {
      // Only the first fault is noted: whatever was recorded since the last good read may have had one.
      this.#lose();
      this.device.write(this.faults, 0, new Uint32Array(FAULT_BYTES / 4));
      throw error;
    }
    this.#prove(recorded);
    return arrays.map(({ dtype, length }, i) => {
      const words = parts[i]!;
      const data = makeArray(dtype, length);
      if (dtype === "bool") data.set(new Uint32Array(words.buffer, words.byteOffset, length));
      else new Uint8Array(data.buffer).set(words.subarray(0, length * bytesPerElement(dtype)));
      return data;
    });
  }

  close(): void {
    if (this.#isClosed) return;
    this.#pending.length = 0;
    this.#isClosed = true;
    this.pool.forget();
    this.device.close();
  }
}

const bytesRead = ({ dtype, length }: DeviceArray): number => bufferBytes({ dtype, size: length });

function capabilitiesOf({ features, subgroupSize, neighbours, limits, isSoftware }: Device): Capabilities {
  const { maxWorkgroupSize, maxWorkgroupInvocations, bindingAlignment: _, ...rest } = limits;
  return {
    features,
    subgroupSize,
    neighbours,
    limits: { ...rest, maxWorkgroupSize: Math.min(maxWorkgroupSize[0], maxWorkgroupInvocations) },
    isSoftware,
  };
}

function remoteArray(x: Tensor): DeviceArray {
  const remote = remoteOf(x);
  if (remote instanceof DeviceArray) return remote;
  throw new DeviceError(
    "invalid",
    String(x.aval),
    `Cannot use ${x}: it is on another device, one on webgpu is needed`,
  );
}
