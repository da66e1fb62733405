/** How requests to read share staging buffers: which bytes go where, there and back. */
import type { GpuBuffer } from "./api.ts";
import type { Command } from "./commands.ts";

/** Bytes of a buffer, of any offset and number; into the given array, or a new one. */
export interface ReadRequest {
  readonly buffer: GpuBuffer;
  readonly offset: number;
  readonly bytes: number;
  readonly into?: Uint8Array;
}

/** One request in a staging buffer: whole words from `at`, of which the first `skip` bytes are not asked for. */
interface Part {
  readonly request: ReadRequest;
  readonly at: number;
  readonly skip: number;
  readonly room: number;
}

/** Requests that share a staging buffer, of which they need so many bytes. */
export interface Batch {
  readonly staging: GpuBuffer;
  readonly bytes: number;
  readonly parts: readonly Part[];
}

/** Bytes of one staging buffer; a request of more has a buffer to itself. */
const BATCH_BYTES = 256 << 20;

/** The requests by staging buffer, in order; one batch even of none. */
export function batchesOf(requests: readonly ReadRequest[], take: (bytes: number) => GpuBuffer): Batch[] {
  const groups: Part[][] = [[]];
  let at = 0;
  for (const request of requests) {
    const skip = request.offset % 4;
    const room = request.bytes === 0 ? 0 : Math.ceil((skip + request.bytes) / 4) * 4;
    if (at > 0 && at + room > BATCH_BYTES) {
      groups.push([]);
      at = 0;
    }
    groups.at(-1)!.push({ request, at, skip, room });
    at += room;
  }
  return groups.map((parts) => {
    const last = parts.at(-1);
    const bytes = last === undefined ? 4 : Math.max(4, last.at + last.room);
    return { parts, bytes, staging: take(bytes) };
  });
}

/** The commands that fill a staging buffer; at least one, since a map waits for the commands that use its buffer. */
export function copiesOf({ parts, staging }: Batch): Command[] {
  const copies = parts.flatMap(({ request: { buffer, offset }, skip, at, room }): Command[] => {
    if (room === 0) return [];
    return [{ copy: buffer, fromOffset: offset - skip, to: staging, toOffset: at, bytes: room }];
  });
  return copies.length > 0 ? copies : [{ clear: staging, offset: 0, bytes: 4 }];
}

/** What each request gets of a mapped staging buffer. */
export function resultsOf({ parts }: Batch, mapped: ArrayBuffer): Uint8Array[] {
  const all = new Uint8Array(mapped);
  return parts.map(({ request: { bytes, into = new Uint8Array(bytes) }, skip, at }) => {
    into.set(all.subarray(at + skip, at + skip + bytes));
    return into;
  });
}
