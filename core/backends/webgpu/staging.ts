/** Buffers that the host can map, kept for the next read. */
import type { GpuBuffer } from "./api.ts";

const SMALLEST_BYTES = 256;
/** Kept for later, in all. */
const KEPT_BYTES = 64 << 20;
const KEPT_BUFFERS = 8;

export class Staging {
  readonly #create: (bytes: number) => GpuBuffer;
  readonly #destroy: (buffer: GpuBuffer) => void;
  /** The one used longest ago comes first. */
  readonly #free: GpuBuffer[] = [];
  /** A buffer that is collected while its map is pending rejects that map, so those in use are held here. */
  readonly #inUse = new Set<GpuBuffer>();
  #freeBytes = 0;

  constructor(create: (bytes: number) => GpuBuffer, destroy: (buffer: GpuBuffer) => void) {
    this.#create = create;
    this.#destroy = destroy;
  }

  /** A buffer of at least that many bytes, and not many times more. */
  take(bytes: number): GpuBuffer {
    const most = Math.max(SMALLEST_BYTES, 4 * bytes);
    const index = this.#free.findLastIndex(({ size }) => size >= bytes && size <= most);
    const [kept] = index < 0 ? [] : this.#free.splice(index, 1);
    if (kept !== undefined) this.#freeBytes -= kept.size;
    const buffer = kept ?? this.#create(roomFor(bytes));
    this.#inUse.add(buffer);
    return buffer;
  }

  /** Gives an unmapped buffer back. */
  give(buffer: GpuBuffer): void {
    this.#inUse.delete(buffer);
    this.#free.push(buffer);
    this.#freeBytes += buffer.size;
    while (this.#freeBytes > KEPT_BYTES || this.#free.length > KEPT_BUFFERS) {
      const oldest = this.#free.shift()!;
      this.#freeBytes -= oldest.size;
      this.#destroy(oldest);
    }
  }

  /** Gives up a buffer whose map failed. */
  drop(buffer: GpuBuffer): void {
    this.#inUse.delete(buffer);
    this.#destroy(buffer);
  }

  /** Destroys what is not in use. */
  clear(): void {
    for (const buffer of this.#free.splice(0)) this.#destroy(buffer);
    this.#freeBytes = 0;
  }
}

/** The next power of two, so that reads of similar sizes share a buffer; exact above what is kept. */
function roomFor(bytes: number): number {
  if (bytes > KEPT_BYTES) return bytes;
  return Math.max(SMALLEST_BYTES, 2 ** Math.ceil(Math.log2(bytes)));
}
