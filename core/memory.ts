/** How much memory the devices use: each device that reserves memory of its own reports here. */

/**
 * What one device has done with its memory.
 *
 * @since 0.1.0
 */
export interface DeviceMemory {
  /** In use now: tensors that are alive or not yet collected, and what compiled programs keep. */
  readonly liveBytes: number;
  /** The greatest `liveBytes` so far. */
  readonly peakBytes: number;
  /** Was in use before and waits to be used again. */
  readonly pooledBytes: number;
  /** The most that the device can hand out; reserved, and taken from the system as it is touched. */
  readonly capacityBytes: number;
}

/**
 * Devices by name.
 *
 * @since 0.1.0
 */
export interface MemoryReport {
  readonly [device: string]: DeviceMemory;
}

const reporters = new Map<string, () => DeviceMemory>();

/** Adds a device to the report, or replaces it; `report` is called for each report. */
export function reportMemory(device: string, report: () => DeviceMemory): void {
  reporters.set(device, report);
}

/**
 * Memory that the devices use, of those that were used so far.
 *
 * Only memory that a device reserves itself is counted. Small tensors, and all tensors of the reference, are ordinary
 * typed arrays of the host: its own tools report them.
 *
 * Shapes: none.
 * Units: bytes.
 * Determinism: `liveBytes` and `pooledBytes` depend on when the host collects garbage.
 *
 * @returns devices by name, in alphabetical order
 * @example A device reports no more than it can hold
 * ```ts
 * const devices = Object.values(ct.memory());
 * assert(devices.every(({ liveBytes, peakBytes }) => liveBytes <= peakBytes));
 * assert(devices.every(({ peakBytes, capacityBytes }) => peakBytes <= capacityBytes));
 * ```
 * @since 0.1.0
 */
export function memory(): MemoryReport {
  const names = [...reporters.keys()].sort();
  return Object.fromEntries(names.map((name) => [name, reporters.get(name)!()]));
}
