/**
 * The part of WebGPU that is used here, as plain structural types: the project checks the same under Bun, Deno and
 * browsers without a type library. Names and meanings are those of the WebGPU specification.
 */

/** What a buffer may be used for; sums of these. */
export const BufferUsage = {
  MAP_READ: 0x1,
  MAP_WRITE: 0x2,
  COPY_SRC: 0x4,
  COPY_DST: 0x8,
  UNIFORM: 0x40,
  STORAGE: 0x80,
  INDIRECT: 0x100,
  QUERY_RESOLVE: 0x200,
} as const;

export const MapMode = { READ: 0x1, WRITE: 0x2 } as const;

export const ShaderStage = { COMPUTE: 0x4 } as const;

export interface Gpu {
  requestAdapter(options?: GpuAdapterOptions): Promise<GpuAdapter | null>;
}

export interface GpuAdapterOptions {
  readonly powerPreference?: PowerPreference;
  readonly forceFallbackAdapter?: boolean;
}

export type PowerPreference = "low-power" | "high-performance";

export interface GpuAdapterInfo {
  readonly vendor: string;
  readonly architecture: string;
  readonly device: string;
  readonly description: string;
  readonly subgroupMinSize?: number;
  readonly subgroupMaxSize?: number;
}

export interface GpuLimits {
  readonly maxBufferSize: number;
  readonly maxStorageBufferBindingSize: number;
  readonly maxUniformBufferBindingSize: number;
  readonly minStorageBufferOffsetAlignment: number;
  readonly minUniformBufferOffsetAlignment: number;
  readonly maxStorageBuffersPerShaderStage: number;
  readonly maxComputeWorkgroupStorageSize: number;
  readonly maxComputeInvocationsPerWorkgroup: number;
  readonly maxComputeWorkgroupSizeX: number;
  readonly maxComputeWorkgroupSizeY: number;
  readonly maxComputeWorkgroupSizeZ: number;
  readonly maxComputeWorkgroupsPerDimension: number;
}

export interface GpuAdapter {
  readonly info: GpuAdapterInfo;
  readonly limits: GpuLimits;
  readonly features: GpuFeatures;
  requestDevice(descriptor: GpuDeviceDescriptor): Promise<GpuDevice>;
}

export interface GpuDeviceDescriptor {
  readonly requiredFeatures?: readonly string[];
  readonly requiredLimits?: Readonly<Record<string, number>>;
}

export interface GpuFeatures extends Iterable<string> {
  has(name: string): boolean;
}

export interface GpuError {
  readonly message: string;
}

export type ErrorFilter = "validation" | "out-of-memory" | "internal";

export interface GpuDevice {
  readonly queue: GpuQueue;
  readonly limits: GpuLimits;
  readonly features: GpuFeatures;
  readonly lost: Promise<{ readonly reason: string; readonly message: string }>;
  onuncapturederror: ((event: { readonly error: GpuError; preventDefault?(): void }) => void) | null;
  createBuffer(descriptor: {
    readonly label?: string;
    readonly size: number;
    readonly usage: number;
    readonly mappedAtCreation?: boolean;
  }): GpuBuffer;
  createShaderModule(descriptor: { readonly label?: string; readonly code: string }): GpuShaderModule;
  createBindGroupLayout(descriptor: {
    readonly label?: string;
    readonly entries: readonly GpuLayoutEntry[];
  }): GpuBindGroupLayout;
  createPipelineLayout(descriptor: {
    readonly label?: string;
    readonly bindGroupLayouts: readonly GpuBindGroupLayout[];
  }): GpuPipelineLayout;
  createComputePipeline(descriptor: GpuPipelineDescriptor): GpuComputePipeline;
  createComputePipelineAsync(descriptor: GpuPipelineDescriptor): Promise<GpuComputePipeline>;
  createBindGroup(descriptor: {
    readonly label?: string;
    readonly layout: GpuBindGroupLayout;
    readonly entries: readonly { readonly binding: number; readonly resource: GpuBinding }[];
  }): GpuBindGroup;
  createCommandEncoder(descriptor?: { readonly label?: string }): GpuCommandEncoder;
  createQuerySet(descriptor: { readonly type: "timestamp"; readonly count: number }): GpuQuerySet;
  pushErrorScope(filter: ErrorFilter): void;
  popErrorScope(): Promise<GpuError | null>;
  destroy(): void;
}

export interface GpuLayoutEntry {
  readonly binding: number;
  readonly visibility: number;
  readonly buffer: { readonly type: "uniform" | "storage" | "read-only-storage" };
}

export interface GpuPipelineDescriptor {
  readonly label?: string;
  readonly layout: "auto" | GpuPipelineLayout;
  readonly compute: { readonly module: GpuShaderModule; readonly entryPoint: string };
}

/** A part of a buffer, as a shader sees it. */
export interface GpuBinding {
  readonly buffer: GpuBuffer;
  readonly offset?: number;
  readonly size?: number;
}

export interface GpuQueue {
  submit(commands: readonly GpuCommandBuffer[]): void;
  onSubmittedWorkDone(): Promise<void>;
  writeBuffer(
    buffer: GpuBuffer,
    offset: number,
    data: ArrayBufferView,
    dataOffset?: number,
    size?: number,
  ): void;
}

export interface GpuBuffer {
  label: string;
  readonly size: number;
  readonly usage: number;
  readonly mapState: "unmapped" | "pending" | "mapped";
  mapAsync(mode: number, offset?: number, size?: number): Promise<void>;
  getMappedRange(offset?: number, size?: number): ArrayBuffer;
  unmap(): void;
  destroy(): void;
}

export interface GpuCommandEncoder {
  beginComputePass(descriptor?: GpuPassDescriptor): GpuComputePass;
  copyBufferToBuffer(
    from: GpuBuffer,
    fromOffset: number,
    to: GpuBuffer,
    toOffset: number,
    size: number,
  ): void;
  clearBuffer(buffer: GpuBuffer, offset?: number, size?: number): void;
  resolveQuerySet(queries: GpuQuerySet, first: number, count: number, to: GpuBuffer, offset: number): void;
  finish(): GpuCommandBuffer;
}

export interface GpuPassDescriptor {
  readonly label?: string;
  readonly timestampWrites?: {
    readonly querySet: GpuQuerySet;
    readonly beginningOfPassWriteIndex: number;
    readonly endOfPassWriteIndex: number;
  };
}

export interface GpuComputePass {
  setPipeline(pipeline: GpuComputePipeline): void;
  setBindGroup(index: number, group: GpuBindGroup): void;
  dispatchWorkgroups(x: number, y?: number, z?: number): void;
  end(): void;
}

export interface GpuComputePipeline {
  readonly label: string;
  getBindGroupLayout(index: number): GpuBindGroupLayout;
}

export interface GpuQuerySet {
  destroy(): void;
}

export interface GpuShaderModule {
  readonly label: string;
}

export interface GpuBindGroupLayout {
  readonly label: string;
}

export interface GpuPipelineLayout {
  readonly label: string;
}

export interface GpuBindGroup {
  readonly label: string;
}

export interface GpuCommandBuffer {
  readonly label: string;
}
