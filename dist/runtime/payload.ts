/** Register values as the bodies of a frame: trees of tensors in safetensors format, and the empty value. */

import { filledIn, signatureOf } from "../../autodiff/signature.ts";
import { devicePut, fetchSync } from "../../core/devices.ts";
import { decodeInPlace, encode, encodeParts } from "../../core/safetensors.ts";
import type { Value } from "../../core/value.ts";
import type { Head } from "../protocol/types.ts";
import { type Body, bytesOf } from "../wire.ts";

/** `undefined` has no bytes; `null` has this one. Safetensors have at least eight. */
const NULL = new Uint8Array([0]);

/**
 * The same values with the elements of their tensors on the host, as they leave a peer: those that a device has come in
 * one transfer. A promise only if there are any.
 */
export function onHost<T>(values: T): T | Promise<T> {
  const leaves: Value[] = [];
  const signature = signatureOf(values, leaves);
  if (leaves.every((x) => x.device === "cpu")) return values;
  return devicePut(leaves, "cpu").then((hosts) => filledIn(signature, hosts) as T);
}

/** The same at once, where the host can wait for the device. */
export function onHostSync<T>(values: T): T {
  const leaves: Value[] = [];
  const signature = signatureOf(values, leaves);
  return leaves.every((x) => x.device === "cpu") ? values : (filledIn(signature, fetchSync(leaves)) as T);
}

/**
 * One value as a body that belongs to nobody else.
 *
 * @throws {TreeError} if it is neither a tree of tensors nor empty
 */
export function encodeValue(value: unknown): Uint8Array<ArrayBuffer> {
  if (value === undefined) return NULL.subarray(0, 0);
  return value === null ? NULL : encode(value);
}

/** The same as parts, of which some are the elements of its tensors: to be written before these change. */
export function partsOfValue(value: unknown): readonly Uint8Array[] {
  return value === undefined || value === null ? [encodeValue(value)] : encodeParts(value);
}

/**
 * One body as a value, which keeps the bytes.
 *
 * @throws {FormatError} if the bytes are not what `encodeValue` gives
 */
export function decodeValue(body: Uint8Array<ArrayBuffer>): unknown {
  if (body.byteLength === 0) return undefined;
  return body.byteLength === 1 && body[0] === 0 ? null : decodeInPlace(body).tree;
}

/**
 * The bodies of one message.
 *
 * @throws {TypeError} if a value cannot travel; names the message and the place of the value in it
 * @throws {RangeError} if they are larger than `maxBytes` together
 */
export function encodeValues<B extends Body>(
  head: Head,
  values: readonly unknown[],
  maxBytes: number,
  encodeOne: (value: unknown) => B,
): readonly B[] {
  const bodies = values.map((value, i) => {
    try {
      return encodeOne(value);
    } catch (error) {
      const what = error instanceof Error ? error.message : String(error);
      throw new TypeError(
        `Cannot send value ${i} of ${describe(head)}: only trees of tensors and empty values travel between processes. ${what}`,
        { cause: error },
      );
    }
  });
  const bytes = bytesOf(bodies);
  if (bytes > maxBytes) {
    throw new RangeError(
      `Cannot send ${describe(head)}: its values have ${bytes} bytes, at most ${maxBytes} are accepted; raise maxFrameBytes`,
    );
  }
  return bodies;
}

function describe(head: Head): string {
  const phase =
    head.k === "ask"
      ? `phase ${head.phase}, iteration ${head.iteration}, `
      : head.k === "post" || head.k === "give"
        ? `${head.slot}, version ${head.version}, `
        : "";
  return `"${head.k}" (${phase}round ${head.round}, attempt ${head.attempt}, question ${head.seq})`;
}
