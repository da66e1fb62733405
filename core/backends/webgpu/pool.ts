/**
 * Buffers of the device by size. What a tensor or a program gives back is used again before the device is asked for
 * more: work is done in the order in which it is submitted, so a buffer is free as soon as its last use is recorded.
 */
import { DeviceError } from "../../errors.ts";
import type { DeviceMemory } from "../../memory.ts";
import { BufferUsage, type GpuBuffer } from "./api.ts";
import type { Device } from "./device.ts";

/** A buffer that somebody holds; whoever holds it gives it back once. */
export interface Block {
  readonly buffer: GpuBuffer;
  readonly bytes: number;
  /** Tells blocks apart in keys. */
  readonly id: number;
}

const LEAST_BYTES = 256;

/** The size of the block for so many bytes: four sizes for each power of two, so at most a quarter is not used. */
export function blockBytes(bytes: number): number {
  if (bytes <= LEAST_BYTES) return LEAST_BYTES;
  const step = 2 ** (Math.floor(Math.log2(bytes - 1)) - 2);
  return Math.ceil(bytes / step) * step;
}

export interface PoolHooks {
  /** Sends what is recorded: before buffers are destroyed that it may use. */
  flush(): void;
  /** Gives back the blocks of dead tensors, where the host can tell; not if little died since the last time, by so many bytes. */
  collect(): void;
}

export class Pool {
  readonly budgetBytes: number;
  readonly #device: Device;
  readonly #hooks: PoolHooks;
  /** Free blocks by size; the one that was given back last is used first. */
  readonly #free = new Map<number, Block[]>();
  #freeBytes = 0;
  #liveBytes = 0;
  #peakBytes = 0;
  #next = 1;
  #isForgotten = false;

  constructor(device: Device, budgetBytes: number, hooks: PoolHooks) {
    this.#device = device;
    this.budgetBytes = budgetBytes;
    this.#hooks = hooks;
  }

  /**
   * A block of at least so many bytes, with arbitrary content.
   *
   * @throws {DeviceError} if no buffer of the device can be that large, or the budget is used up; `what` names it
   */
  acquire(bytes: number, what: () => string): Block {
    const wanted = blockBytes(bytes);
    const { maxBufferSize, maxBindingSize } = this.#device.limits;
    const limit = Math.min(maxBufferSize, maxBindingSize);
    if (bytes > limit) {
      const name = maxBindingSize < maxBufferSize ? "maxStorageBufferBindingSize" : "maxBufferSize";
      throw new DeviceError(
        "memory",
        what(),
        `Cannot hold ${what()} on webgpu: it has ${bytes} bytes, at most ${limit} are possible (${name} of ${this.#device.name})`,
      );
    }
    const size = Math.min(wanted, limit - (limit % 4));
    let block = this.#free.get(size)?.pop();
    if (block === undefined && !this.#fits(size)) {
      block = this.#found(size);
      if (block === undefined && !this.#fits(size)) {
        throw new DeviceError(
          "memory",
          what(),
          `Cannot hold ${what()} on webgpu: ${this.#liveBytes} of ${this.budgetBytes} bytes are in use, room for ${size} more is needed; let go of tensors, donate them to jit, await between steps, or raise memoryBytes in init`,
        );
      }
    }
    if (block === undefined) {
      const usage = BufferUsage.STORAGE | BufferUsage.COPY_SRC | BufferUsage.COPY_DST;
      block = { buffer: this.#device.createBuffer(size, usage, what()), bytes: size, id: this.#next++ };
    } else this.#freeBytes -= size;
    this.#liveBytes += size;
    this.#peakBytes = Math.max(this.#peakBytes, this.#liveBytes);
    return block;
  }

  /** Looks for dead tensors, and then gives up the other blocks that are free: a block, or room for one, if there is any. */
  #found(size: number): Block | undefined {
    if (this.#fits(size)) return undefined;
    this.#hooks.collect();
    const block = this.#free.get(size)?.pop();
    if (block === undefined) this.trim();
    return block;
  }

  #fits(bytes: number): boolean {
    return this.#liveBytes + this.#freeBytes + bytes <= this.budgetBytes;
  }

  /** Takes a block back. */
  give(block: Block): void {
    if (this.#isForgotten) return;
    this.#liveBytes -= block.bytes;
    this.#freeBytes += block.bytes;
    const list = this.#free.get(block.bytes);
    if (list) list.push(block);
    else this.#free.set(block.bytes, [block]);
  }

  /** Destroys all free blocks. */
  trim(): void {
    if (this.#freeBytes === 0) return;
    this.#hooks.flush();
    for (const blocks of this.#free.values()) {
      for (const { buffer } of blocks) this.#device.destroyBuffer(buffer);
    }
    this.#free.clear();
    this.#freeBytes = 0;
  }

  /** All blocks are gone with the device. */
  forget(): void {
    this.#free.clear();
    this.#freeBytes = 0;
    this.#liveBytes = 0;
    this.#isForgotten = true;
  }

  report(): DeviceMemory {
    return {
      liveBytes: this.#liveBytes,
      peakBytes: this.#peakBytes,
      pooledBytes: this.#freeBytes,
      capacityBytes: this.budgetBytes,
    };
  }
}
