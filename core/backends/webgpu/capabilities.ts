/** What a device can do. */
import type { GpuAdapter, GpuDevice } from "./api.ts";

export interface DeviceFeatures {
  /** `enable f16;` */
  readonly f16: boolean;
  /** `enable subgroups;` */
  readonly subgroups: boolean;
  readonly timestamps: boolean;
  /** `enable chromium_experimental_subgroup_matrix;` */
  readonly subgroupMatrix: boolean;
}

export interface DeviceLimits {
  readonly maxBufferSize: number;
  readonly maxBindingSize: number;
  /** Per pipeline, read-only ones included. */
  readonly maxStorageBuffers: number;
  /** By dimension. */
  readonly maxWorkgroupSize: readonly [x: number, y: number, z: number];
  /** The product of the three. */
  readonly maxWorkgroupInvocations: number;
  readonly maxWorkgroupBytes: number;
  readonly maxGroupsPerDimension: number;
  /** What the offset of a storage binding is a multiple of. */
  readonly bindingAlignment: number;
}

export interface SubgroupSize {
  readonly min: number;
  readonly max: number;
}

const SUBGROUP_MATRIX = "chromium-experimental-subgroup-matrix";
const FEATURES: readonly string[] = ["shader-f16", "subgroups", "timestamp-query", SUBGROUP_MATRIX];

/** What to ask of an adapter: the features we use that it has, and all its limits. */
export function requirementsOf(adapter: GpuAdapter): {
  readonly requiredFeatures: readonly string[];
  readonly requiredLimits: Readonly<Record<string, number>>;
} {
  return {
    requiredFeatures: FEATURES.filter((name) => adapter.features.has(name)),
    requiredLimits: allLimits(adapter),
  };
}

/**
 * Every limit of the adapter, since a device has small ones unless told; all of them by name because `bun-webgpu` fills
 * in what is not named, four of them with more than the adapter has, and then refuses the device.
 */
export function allLimits({ limits }: Pick<GpuAdapter, "limits">): Record<string, number> {
  const all: Record<string, number> = {};
  for (const name in limits) {
    const value = (limits as unknown as Readonly<Record<string, unknown>>)[name];
    if (typeof value === "number" && /^m(?:ax|in)[A-Z]/.test(name)) all[name] = value;
  }
  return all;
}

export function featuresOf({ features }: GpuDevice): DeviceFeatures {
  return {
    f16: features.has("shader-f16"),
    subgroups: features.has("subgroups"),
    timestamps: features.has("timestamp-query"),
    subgroupMatrix: features.has(SUBGROUP_MATRIX),
  };
}

/** How many invocations form a subgroup; null where shaders cannot use subgroups. */
export function subgroupSizeOf({ info }: GpuAdapter, { features }: GpuDevice): SubgroupSize | null {
  const { subgroupMinSize: min = 0, subgroupMaxSize: max = 0 } = info;
  return features.has("subgroups") && min > 0 ? { min, max } : null;
}

export function limitsOf({ limits }: GpuDevice): DeviceLimits {
  return {
    maxBufferSize: limits.maxBufferSize,
    maxBindingSize: limits.maxStorageBufferBindingSize,
    maxStorageBuffers: limits.maxStorageBuffersPerShaderStage,
    maxWorkgroupSize: [
      limits.maxComputeWorkgroupSizeX,
      limits.maxComputeWorkgroupSizeY,
      limits.maxComputeWorkgroupSizeZ,
    ],
    maxWorkgroupInvocations: limits.maxComputeInvocationsPerWorkgroup,
    maxWorkgroupBytes: limits.maxComputeWorkgroupStorageSize,
    maxGroupsPerDimension: limits.maxComputeWorkgroupsPerDimension,
    bindingAlignment: limits.minStorageBufferOffsetAlignment,
  };
}

/** Whether shaders run on the processor, as the names of the known ones tell: not every provider says. */
export function isSoftware({ info }: GpuAdapter): boolean {
  return isSoftwareName(`${info.vendor} ${info.architecture} ${info.device} ${info.description}`);
}

/** The same of the name alone. */
export function isSoftwareName(name: string): boolean {
  return /swiftshader|llvmpipe|lavapipe|softpipe|software|basic render/i.test(name);
}
