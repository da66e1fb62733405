/**
 * One open device: buffers, pipelines, submitted commands and reads, the same on every provider. Thin: it knows
 * nothing of tensors.
 *
 * What a device refuses it says later. Such errors are collected and thrown by the next operation; a read never gives
 * numbers when something before it was refused.
 */
import { DeviceError, invariant } from "../../errors.ts";
import { type AdapterOptions, adapterName, adapterNames, chooseAdapter } from "./adapters.ts";
import type {
  GpuAdapter,
  GpuBindGroup,
  GpuBindGroupLayout,
  GpuBuffer,
  GpuCommandEncoder,
  GpuComputePass,
  GpuComputePipeline,
  GpuDevice,
  GpuError,
  GpuPassDescriptor,
  GpuPipelineDescriptor,
  GpuPipelineLayout,
  GpuShaderModule,
} from "./api.ts";
import { BufferUsage, MapMode, ShaderStage } from "./api.ts";
import {
  type DeviceFeatures,
  type DeviceLimits,
  featuresOf,
  isSoftware,
  limitsOf,
  requirementsOf,
  type SubgroupSize,
  subgroupSizeOf,
} from "./capabilities.ts";
import { type Command, type Dispatch, encode, type Pipeline } from "./commands.ts";
import type { Host, HostName } from "./host.ts";
import { openHost } from "./hosts.ts";
import { type Batch, batchesOf, copiesOf, type ReadRequest, resultsOf } from "./reads.ts";
import { compileError, isConsequence, lostError, messageOf, refusal } from "./refusals.ts";
import { Staging } from "./staging.ts";

export type { DeviceFeatures, DeviceLimits, SubgroupSize } from "./capabilities.ts";
export type { Clear, Command, Copy, Dispatch, Pipeline } from "./commands.ts";
export type { ReadRequest } from "./reads.ts";

export interface DeviceOptions extends AdapterOptions {
  /** The provider; default: what `COTANGENT_WEBGPU` names, or else the usual one of the runtime. */
  readonly host?: HostName;
  /** Runs each dispatch in a labelled pass of its own, so that a refusal names it; slower. */
  readonly validation?: boolean;
  /** Takes the errors that would otherwise be thrown by the next operation. */
  readonly onError?: (error: DeviceError) => void;
}

/** How a shader binds a buffer. */
export type BindingKind = "storage" | "read-only-storage" | "uniform";

/** A part of a buffer: offset in bytes, a multiple of `bindingAlignment`; size in bytes, default: all the rest. */
export interface Binding {
  readonly buffer: GpuBuffer;
  readonly offset?: number;
  readonly size?: number;
}

/** Destroyed memory that may wait for the next submit. */
const UNFREED_BYTES = 64 << 20;
/** Times that one query set holds, by the specification. */
const MAX_QUERIES = 4096;
/** Questions after which the verdict on a shader is left to come by itself. */
const VERDICT_TURNS = 100;
/** How long a read that could wait elsewhere waits in place. */
const PATIENCE_MS = 0.1;
/** A read that has to wait in place asks without a pause at first, then sleeps between questions. */
const EAGER_MS = 2;
const SLEEP_MS = 0.1;

/**
 * Opens a device and proves that it computes.
 *
 * @throws {DeviceError} if there is no provider, no adapter, or an adapter that gives wrong numbers
 */
export async function openDevice(options: DeviceOptions = {}): Promise<Device> {
  const host = await openHost(options.host);
  const adapter = await chooseAdapter(host, options);
  let gpu: GpuDevice;
  try {
    gpu = await host.requestDevice(adapter, requirementsOf(adapter));
  } catch (error) {
    throw new DeviceError(
      "absent",
      "",
      `Cannot open device "${adapterName(adapter)}": it refuses (${messageOf(error)}), one that opens is needed`,
    );
  }
  const device = new Device(host, adapter, gpu, options);
  await prove(device);
  return device;
}

/** The names of the adapters that can be asked for by number or by a part of the name. */
export async function listAdapters(options: Pick<DeviceOptions, "host"> = {}): Promise<readonly string[]> {
  return adapterNames(await openHost(options.host));
}

/** Sums of the first i numbers, which a device that does not compute gets wrong. */
const SUMS = `
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@compute @workgroup_size(1) fn main(@builtin(workgroup_id) id: vec3u) {
  var sum = 0.0;
  for (var i = 0u; i <= id.x; i++) { sum += x[i]; }
  x[id.x + 8u] = sum;
}`;

/** Invocations that the proof of neighbours asks. */
const ASKED = 256;

/**
 * How many invocations are the neighbours that they should be: no specification says that those of a subgroup have
 * numbers next to each other.
 */
const neighboursProof = (size: number): string => `enable subgroups;
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@compute @workgroup_size(${ASKED})
fn main(@builtin(local_invocation_index) i: u32, @builtin(subgroup_invocation_id) lane: u32) {
  var isRight = lane % ${size}u == i % ${size}u;
  for (var mask = 1u; mask < ${size}u; mask *= 2u) {
    let other = subgroupShuffleXor(i, mask);
    isRight = isRight && other == (i ^ mask);
  }
  x[16u + i] = select(0.0, 1.0, isRight);
}`;

async function prove(device: Device): Promise<void> {
  const buffer = device.createBuffer(
    4 * (16 + ASKED),
    BufferUsage.STORAGE | BufferUsage.COPY_SRC | BufferUsage.COPY_DST,
    "proof",
  );
  const { min } = device.subgroupSize ?? { min: 1 };
  const size = 2 ** Math.floor(Math.log2(Math.min(min, ASKED)));
  const shaders = size > 1 ? [SUMS, neighboursProof(size)] : [SUMS];
  const pipelines = shaders.map((code) => device.pipeline(code, "main", "proof"));
  const groups = pipelines.map((pipeline) => device.bindGroup(pipeline, [{ buffer }]));
  device.write(buffer, 0, Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8));
  device.submit(pipelines.map((dispatch, i) => ({ dispatch, group: groups[i]!, x: i === 0 ? 8 : 1 })));
  const [bytes] = await device.read([{ buffer, offset: 32, bytes: 4 * (8 + ASKED) }]);
  const results = new Float32Array(bytes!.buffer);
  for (const group of groups) device.releaseBindGroup(group);
  for (const pipeline of pipelines) device.releasePipeline(pipeline);
  device.destroyBuffer(buffer);
  const [sums, rights] = [results.subarray(0, 8), results.subarray(8)];
  if (size > 1 && rights.every((right) => right === 1)) device.neighbours = size;
  if ([1, 3, 6, 10, 15, 21, 28, 36].every((sum, i) => sums[i] === sum)) return;
  const { name } = device;
  device.close();
  throw new DeviceError(
    "absent",
    "proof",
    `Cannot use device "${name}": it sums 1 to 8 as ${sums.join(" ")}, one that computes is needed`,
  );
}

const aligned = (bytes: number): number => Math.ceil(bytes / 4) * 4;

export class Device {
  readonly name: string;
  /** The adapter, its driver and the provider: what is measured on one says nothing about another. */
  readonly identity: string;
  readonly host: HostName;
  readonly features: DeviceFeatures;
  readonly subgroupSize: SubgroupSize | null;
  /** How many neighbours in a workgroup are in one subgroup, where that is proved. */
  neighbours = 1;
  readonly limits: DeviceLimits;
  /** Whether shaders run on the processor. */
  readonly isSoftware: boolean;
  /** Resolves with the reason when the device is closed or taken away. */
  readonly lost: Promise<string>;
  readonly #provider: Host;
  readonly #gpu: GpuDevice;
  readonly #validation: boolean;
  readonly #onError: (error: DeviceError) => void;
  readonly #staging: Staging;
  readonly #layouts = new Map<string, Layout>();
  readonly #sources = new WeakMap<GpuShaderModule, string>();
  readonly #broken = new WeakSet<GpuShaderModule>();
  readonly #destroyed = new WeakSet<GpuBuffer>();
  /** Verdicts on pipelines that have not come yet. */
  readonly #verdicts = new Set<Promise<void>>();
  /** What rejects the reads under way. */
  readonly #waiting = new Set<(error: DeviceError) => void>();
  readonly #errors: DeviceError[] = [];
  readonly #endPass = (pass: GpuComputePass): void => {
    pass.end();
    this.#provider.release("pass", pass);
  };
  #lostReason: string | null = null;
  #unfreedBytes = 0;
  #refusals = 0;

  constructor(host: Host, adapter: GpuAdapter, gpu: GpuDevice, options: DeviceOptions) {
    this.#provider = host;
    this.#gpu = gpu;
    this.#validation = options.validation ?? false;
    this.#onError = options.onError ?? ((error) => this.#errors.push(error));
    this.#staging = new Staging(
      (bytes) => this.createBuffer(bytes, BufferUsage.MAP_READ | BufferUsage.COPY_DST, "staging"),
      (buffer) => this.destroyBuffer(buffer),
    );
    this.name = adapterName(adapter);
    const { device, description, vendor, architecture } = adapter.info;
    this.identity = [device, description, vendor, architecture, host.name]
      .filter((part) => part !== "")
      .join(", ");
    this.host = host.name;
    this.isSoftware = isSoftware(adapter);
    this.features = featuresOf(gpu);
    this.subgroupSize = subgroupSizeOf(adapter, gpu);
    this.limits = limitsOf(gpu);
    this.lost = gpu.lost.then(({ reason, message }) => this.#lose(message || reason));
    gpu.onuncapturederror = (event) => {
      event.preventDefault?.(); // some providers print it as well
      this.#refusals++;
      // Of a reason that is thrown already, what follows is news: it was used again.
      if (isConsequence(event.error) && (this.hasRefused || this.#verdicts.size > 0)) return;
      this.#onError(refusal(event.error, this.name));
    };
  }

  get isLost(): boolean {
    return this.#lostReason !== null;
  }

  /** How often anything was refused that was sent: which of the commands sent with it ran, nobody knows. */
  get refusals(): number {
    return this.#refusals;
  }

  /** Whether anything was refused since the last operation: the next one throws it. */
  get hasRefused(): boolean {
    return this.#errors.length > 0;
  }

  /**
   * Throws what was refused since the last operation; every operation does so itself.
   *
   * @throws {DeviceError} if anything was refused, or the device is lost
   */
  check(): void {
    this.#ready("use", "");
  }

  /** A buffer of at least that many bytes, rounded up to whole words, of zeros. */
  createBuffer(bytes: number, usage: number, label: string): GpuBuffer {
    this.#ready("create a buffer on", label);
    const size = Math.max(4, aligned(bytes));
    if (size > this.limits.maxBufferSize) {
      throw new DeviceError(
        "memory",
        label,
        `Cannot create buffer "${label}": it has ${bytes} bytes, at most ${this.limits.maxBufferSize} are possible on ${this.name}`,
      );
    }
    const buffer = this.#gpu.createBuffer({ label, size, usage });
    if (buffer.label !== label) buffer.label = label; // bun-webgpu tells C alone
    return buffer;
  }

  /** Frees the memory when the work submitted before is done; the buffer must not be used again. */
  destroyBuffer(buffer: GpuBuffer): void {
    if (this.isLost || this.#destroyed.has(buffer)) return;
    this.#destroyed.add(buffer);
    this.#unfreedBytes += buffer.size;
    this.#provider.release("buffer", buffer);
    // Dawn frees destroyed buffers at the next submit only: without one, 200 of 64 MiB held 13.7 GB.
    if (this.#unfreedBytes > UNFREED_BYTES) this.#finish(this.#gpu.createCommandEncoder());
  }

  /**
   * Writes data from memory of any kind, before the commands that are submitted next. The offset is a multiple of
   * four; the last word of data that do not fill it is filled with zeros.
   */
  write(buffer: GpuBuffer, offset: number, data: ArrayBufferView): void {
    this.#ready("write to", buffer.label);
    this.#alive(buffer, "write");
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const whole = bytes.byteLength - (bytes.byteLength % 4);
    if (offset % 4 !== 0 || offset + aligned(bytes.byteLength) > buffer.size) {
      throw new DeviceError(
        "invalid",
        buffer.label,
        `Cannot write buffer "${buffer.label}": ${bytes.byteLength} bytes from byte ${offset} are given, whole words of its ${buffer.size} bytes are needed`,
      );
    }
    this.#provider.write(this.#gpu, buffer, offset, bytes.subarray(0, whole));
    if (whole === bytes.byteLength) return;
    const last = new Uint8Array(4);
    last.set(bytes.subarray(whole));
    this.#provider.write(this.#gpu, buffer, offset + whole, last);
  }

  /** A shader with several entry points. A refusal is thrown as for `pipeline`. */
  shader(code: string, label: string): GpuShaderModule {
    this.#ready("compile a shader on", label);
    this.#gpu.pushErrorScope("validation");
    const module = this.#gpu.createShaderModule({ code, label });
    this.#sources.set(module, code);
    this.#judge(this.#gpu.popErrorScope(), label, module);
    return module;
  }

  releaseShader(module: GpuShaderModule): void {
    if (!this.isLost) this.#provider.release("module", module);
  }

  /**
   * Compiles an entry point. A refusal is thrown here where the provider tells in time, or else by a later operation.
   */
  pipeline(
    source: string | GpuShaderModule,
    entry: string,
    label: string,
    bindings?: readonly BindingKind[],
  ): Pipeline {
    this.#ready("compile a pipeline on", label);
    const layouts = bindings && this.#layout(bindings);
    // One scope around both: it keeps the first refusal, which has the text, and not what follows from it.
    this.#gpu.pushErrorScope("validation");
    const module = this.#module(source, label);
    const handle = this.#gpu.createComputePipeline(descriptorOf(module, entry, label, layouts));
    const pipeline = pipelineOf(handle, label, layouts);
    const outcome = this.#gpu.popErrorScope();
    if (typeof source === "string") this.releaseShader(module);
    this.#judge(outcome, label, module);
    return pipeline;
  }

  /** Compiles an entry point while the program goes on; several at once, where the provider has threads for it. */
  async pipelineAsync(
    source: string | GpuShaderModule,
    entry: string,
    label: string,
    bindings?: readonly BindingKind[],
  ): Promise<Pipeline> {
    this.#ready("compile a pipeline on", label);
    const layouts = bindings && this.#layout(bindings);
    this.#gpu.pushErrorScope("validation");
    const module = this.#module(source, label);
    const outcome = this.#gpu.popErrorScope();
    const making = this.#gpu.createComputePipelineAsync(descriptorOf(module, entry, label, layouts));
    making.catch(() => {}); // the module may be refused first
    try {
      const error = await this.#orLost(outcome, label);
      if (error !== null) throw compileError(label, error.message, this.#sources.get(module) ?? "");
      return pipelineOf(await this.#orLost(making, label), label, layouts);
    } catch (error) {
      if (error instanceof DeviceError) throw error;
      throw compileError(label, messageOf(error), this.#sources.get(module) ?? "");
    } finally {
      if (typeof source === "string") this.releaseShader(module);
    }
  }

  releasePipeline({ handle, layout, isLayoutShared }: Pipeline): void {
    if (this.isLost) return;
    if (!isLayoutShared) this.#provider.release("layout", layout);
    this.#provider.release("pipeline", handle);
  }

  /** The buffers for a dispatch, in the order of the bindings 0, 1, 2 and so on. */
  bindGroup({ label, layout }: Pipeline, bindings: readonly Binding[]): GpuBindGroup {
    this.#ready("bind buffers on", label);
    const entries = bindings.map(({ buffer, offset = 0, size = buffer.size - offset }, binding) => {
      this.#alive(buffer, "bind");
      return { binding, resource: { buffer, offset, size } };
    });
    return this.#gpu.createBindGroup({ label, layout, entries });
  }

  releaseBindGroup(group: GpuBindGroup): void {
    if (!this.isLost) this.#provider.release("group", group);
  }

  /** Queues commands; each sees the results of all before it. */
  submit(commands: readonly Command[]): void {
    this.#ready("submit commands to", "");
    this.#encode(commands, this.#validation ? ({ dispatch: { label } }) => ({ label }) : null);
  }

  /** Queues commands, and gives the nanoseconds that each dispatch took on the device, in order. */
  async submitTimed(commands: readonly Command[]): Promise<number[]> {
    this.#ready("time commands on", "");
    if (!this.features.timestamps) {
      throw new DeviceError(
        "invalid",
        "",
        `Cannot time commands: ${this.name} has no timestamps, a device with the feature timestamp-query is needed`,
      );
    }
    const times: Promise<number[]>[] = [];
    let part: Command[] = [];
    let count = 0;
    for (const command of commands) {
      if (count === MAX_QUERIES / 2) {
        times.push(this.#timed(part, count));
        part = [];
        count = 0;
      }
      part.push(command);
      if ("dispatch" in command) count += 1;
    }
    times.push(this.#timed(part, count));
    return (await Promise.all(times)).flat();
  }

  /** Times up to as many dispatches as one query set holds, each in a pass of its own. */
  async #timed(commands: readonly Command[], count: number): Promise<number[]> {
    const queries = Math.max(2, 2 * count);
    const querySet = this.#gpu.createQuerySet({ type: "timestamp", count: queries });
    const bytes = 8 * queries;
    const buffer = this.createBuffer(bytes, BufferUsage.QUERY_RESOLVE | BufferUsage.COPY_SRC, "times");
    const passOf = ({ dispatch: { label } }: Dispatch, i: number): GpuPassDescriptor => {
      const timestampWrites = {
        querySet,
        beginningOfPassWriteIndex: 2 * i,
        endOfPassWriteIndex: 2 * i + 1,
      };
      return { label, timestampWrites };
    };
    this.#encode(commands, passOf, (encoder) => {
      if (count > 0) encoder.resolveQuerySet(querySet, 0, 2 * count, buffer, 0);
    });
    try {
      const [result] = await this.read([{ buffer, offset: 0, bytes }]);
      const times = new BigUint64Array(result!.buffer);
      return Array.from({ length: count }, (_, i) => Number(times[2 * i + 1]! - times[2 * i]!));
    } finally {
      if (!this.isLost) this.#provider.release("queries", querySet);
      this.destroyBuffer(buffer);
    }
  }

  /**
   * The bytes as they are after everything submitted so far, through one staging buffer for all requests.
   *
   * @throws {DeviceError} if the device is lost meanwhile, or has refused anything before
   */
  async read(requests: readonly ReadRequest[]): Promise<Uint8Array[]> {
    const results: Uint8Array[] = [];
    for (const batch of this.#copyOut(requests)) {
      try {
        await this.#orLost(this.#map(batch), "");
      } catch (error) {
        await this.#settled();
        throw this.#unreadable(batch, messageOf(error));
      }
      results.push(...this.#copyIn(batch));
    }
    await this.#settled();
    this.#ready("read from", "");
    return results;
  }

  /** Whether `readSync` works: where the provider can complete a read without a turn of the event loop. */
  get canReadSync(): boolean {
    return this.#provider.pump !== undefined;
  }

  /** Like `read`, but waits in place; only where `canReadSync`. */
  readSync(requests: readonly ReadRequest[]): Uint8Array[] {
    const { pump } = this.#provider;
    invariant(pump, "reads that wait in place are asked for only where the provider can do them");
    const results = this.#copyOut(requests).flatMap((batch) => {
      this.#map(batch).catch(() => {});
      const start = performance.now();
      while (batch.staging.mapState === "pending" && !this.isLost) {
        pump();
        if (performance.now() - start > EAGER_MS) Bun.sleepSync(SLEEP_MS);
      }
      if (batch.staging.mapState !== "mapped") throw this.#unreadable(batch, "no answer");
      return this.#copyIn(batch);
    });
    this.#ready("read from", "");
    return results;
  }

  /** Resolves when everything submitted so far has been computed. */
  async done(): Promise<void> {
    // Not onSubmittedWorkDone: that of bun-webgpu settles all its promises with the first completion.
    await this.read([]);
  }

  /** Gives the device back; what waits for it is rejected. */
  close(): void {
    if (this.isLost) return;
    this.#staging.clear();
    for (const { group, pipeline } of this.#layouts.values()) {
      this.#provider.release("layout", group);
      this.#provider.release("pipelineLayout", pipeline);
    }
    this.#lose("it was closed");
    this.#gpu.destroy();
  }

  /** Throws what was refused, or that the device is gone. */
  #ready(doing: string, label: string): void {
    const [first] = this.#errors;
    if (first !== undefined) {
      this.#errors.length = 0;
      throw first;
    }
    if (this.#lostReason !== null) throw lostError(doing, this.name, label, this.#lostReason);
  }

  #alive(buffer: GpuBuffer, verb: string): void {
    if (!this.#destroyed.has(buffer)) return;
    throw new DeviceError(
      "invalid",
      buffer.label,
      `Cannot ${verb} buffer "${buffer.label}": it was destroyed, a live one is needed`,
    );
  }

  /** What providers would crash on or report without a name. */
  #valid(command: Command): void {
    if ("copy" in command) {
      this.#alive(command.copy, "copy from");
      this.#alive(command.to, "copy to");
    } else if ("clear" in command) {
      this.#alive(command.clear, "clear");
    } else {
      const { dispatch, x, y = 1, z = 1 } = command;
      const most = this.limits.maxGroupsPerDimension;
      if (x <= most && y <= most && z <= most) return;
      throw new DeviceError(
        "invalid",
        dispatch.label,
        `Cannot dispatch ${dispatch.label}: it has ${x} x ${y} x ${z} workgroups, at most ${most} in each dimension are possible`,
      );
    }
  }

  #encode(
    commands: readonly Command[],
    passOf: ((dispatch: Dispatch, index: number) => GpuPassDescriptor) | null,
    more: (encoder: GpuCommandEncoder) => void = () => {},
  ): void {
    for (const command of commands) this.#valid(command);
    const encoder = this.#gpu.createCommandEncoder();
    encode(encoder, commands, { endPass: this.#endPass, passOf });
    more(encoder);
    this.#finish(encoder);
  }

  /** Submits what was encoded. */
  #finish(encoder: GpuCommandEncoder): void {
    const commands = encoder.finish();
    this.#gpu.queue.submit([commands]);
    this.#provider.release("commands", commands);
    this.#unfreedBytes = 0;
  }

  /** The shader of a pipeline, inside the error scope of the caller. */
  #module(source: string | GpuShaderModule, label: string): GpuShaderModule {
    if (typeof source !== "string") return source;
    const module = this.#gpu.createShaderModule({ code: source, label });
    this.#sources.set(module, source);
    return module;
  }

  /** The layout for declared bindings, made once. */
  #layout(bindings: readonly BindingKind[]): Layout {
    const key = bindings.join();
    const known = this.#layouts.get(key);
    if (known !== undefined) return known;
    const entries = bindings.map((type, binding) => {
      return { binding, visibility: ShaderStage.COMPUTE, buffer: { type } };
    });
    const group = this.#gpu.createBindGroupLayout({ label: key, entries });
    const pipeline = this.#gpu.createPipelineLayout({ label: key, bindGroupLayouts: [group] });
    const layout = { group, pipeline };
    this.#layouts.set(key, layout);
    return layout;
  }

  /** Submits the copies into staging buffers: what is read is what is there now. */
  #copyOut(requests: readonly ReadRequest[]): Batch[] {
    this.#ready("read from", "");
    const batches = batchesOf(requests, (bytes) => this.#staging.take(bytes));
    this.submit(batches.flatMap(copiesOf));
    return batches;
  }

  /** Maps a staging buffer; a short wait is over sooner in place than in turns of the event loop. */
  #map({ staging, bytes }: Batch): Promise<void> {
    const { pump } = this.#provider;
    const mapped = staging.mapAsync(MapMode.READ, 0, bytes);
    if (pump === undefined) return mapped;
    const start = performance.now();
    while (staging.mapState === "pending" && performance.now() - start < PATIENCE_MS) pump();
    return mapped;
  }

  /** Copies a mapped batch to where it is wanted, and gives its buffer back. */
  #copyIn(batch: Batch): Uint8Array[] {
    const { staging, bytes } = batch;
    const results = resultsOf(batch, staging.getMappedRange(0, bytes));
    staging.unmap();
    this.#staging.give(staging);
    return results;
  }

  /** What to throw when a batch cannot be mapped: what was refused before, that the device is gone, or this. */
  #unreadable({ staging }: Batch, message: string): DeviceError {
    this.#staging.drop(staging);
    try {
      this.#ready("read from", "");
    } catch (error) {
      if (error instanceof DeviceError) return error;
    }
    return lostError("read from", this.name, "", message);
  }

  #lose(reason: string): string {
    this.#lostReason ??= reason;
    const error = lostError("wait for", this.name, "", this.#lostReason);
    for (const reject of this.#waiting) reject(error);
    this.#waiting.clear();
    return this.#lostReason;
  }

  /** Reports the outcome of an error scope about a shader: at once where the provider can settle it. */
  #judge(outcome: Promise<GpuError | null>, label: string, module: GpuShaderModule): void {
    const report = (error: GpuError | null): void => {
      // A pipeline of a shader that was refused says nothing new.
      if (error === null || this.#broken.has(module)) return;
      this.#broken.add(module);
      this.#onError(compileError(label, error.message, this.#sources.get(module) ?? ""));
    };
    const { pump, peek } = this.#provider;
    for (let turn = 0; pump !== undefined && peek !== undefined && turn < VERDICT_TURNS; turn++) {
      pump();
      const settled = peek(outcome);
      if (settled === undefined) continue;
      report(settled);
      this.#ready("compile a shader on", label);
      return;
    }
    const verdict = outcome
      .then(report, () => {}) // rejected when the device is lost, which is reported by itself
      .finally(() => this.#verdicts.delete(verdict));
    this.#verdicts.add(verdict);
  }

  async #settled(): Promise<void> {
    if (this.#verdicts.size > 0 && !this.isLost) await Promise.all(this.#verdicts);
  }

  /** The promise, or a rejection when the device is lost: providers leave some promises open for ever. */
  #orLost<T>(promise: Promise<T>, label: string): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const lose = (error: DeviceError): void => reject(error);
      this.#waiting.add(lose);
      promise.then(resolve, reject).finally(() => this.#waiting.delete(lose));
      if (this.#lostReason !== null) reject(lostError("wait for", this.name, label, this.#lostReason));
    });
  }
}

interface Layout {
  readonly group: GpuBindGroupLayout;
  readonly pipeline: GpuPipelineLayout;
}

function pipelineOf(handle: GpuComputePipeline, label: string, layouts: Layout | undefined): Pipeline {
  const layout = layouts?.group ?? handle.getBindGroupLayout(0);
  return { label, handle, layout, isLayoutShared: layouts !== undefined };
}

function descriptorOf(
  module: GpuShaderModule,
  entryPoint: string,
  label: string,
  layouts: Layout | undefined,
): GpuPipelineDescriptor {
  return { label, layout: layouts?.pipeline ?? "auto", compute: { module, entryPoint } };
}
