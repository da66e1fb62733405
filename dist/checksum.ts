/** CRC-32 as in zlib: the host's own, or a table of 256 words where there is none, as in browsers. */

const zlib = globalThis.process?.getBuiltinModule?.("node:zlib");

/** The reflected polynomial of IEEE 802.3. */
const POLYNOMIAL = 0xedb88320;

/** The remainders of all single bytes. */
const remainders: Uint32Array = Uint32Array.from({ length: 256 }, (_, byte) => {
  let r = byte;
  for (let bit = 0; bit < 8; bit++) r = (r & 1) === 1 ? (r >>> 1) ^ POLYNOMIAL : r >>> 1;
  return r;
});

/** CRC-32, continued from `sum`. Some runtimes give it as a signed integer. */
export function crc32(bytes: Uint8Array, sum = 0): number {
  return zlib === undefined ? crc32ByTable(bytes, sum) : zlib.crc32(bytes, sum) >>> 0;
}

/** The same without the host. */
export function crc32ByTable(bytes: Uint8Array, sum = 0): number {
  let r = ~sum;
  for (const byte of bytes) r = remainders[(r ^ byte) & 255]! ^ (r >>> 8);
  return ~r >>> 0;
}
