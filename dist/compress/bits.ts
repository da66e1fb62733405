/** Small whole numbers in the bits of words; signed arrays, since engines convert those faster. */

/** How many codes of so many bits a word of 32 holds. */
export function codesPerWord(bits: number): number {
  return Math.floor(32 / bits);
}

/** Bits of a code from 0 to `largest`. */
export function bitsOf(largest: number): number {
  return 32 - Math.clz32(largest);
}

/** Codes of `bits` bits, the first in the lowest bits of the first word; a word holds as many whole codes as it can. */
export function pack(codes: Int32Array, bits: number): Uint32Array<ArrayBuffer> {
  const per = codesPerWord(bits);
  const words = new Uint32Array(Math.ceil(codes.length / per));
  let at = 0;
  for (let w = 0; w < words.length; w++) {
    const end = Math.min(at + per, codes.length);
    let word = 0;
    for (let shift = 0; at < end; shift += bits) word |= codes[at++]! << shift;
    words[w] = word;
  }
  return words;
}

/** The first `size` codes of words. */
export function unpack(words: Uint32Array, bits: number, size: number): Int32Array<ArrayBuffer> {
  const per = codesPerWord(bits);
  const mask = 0xffffffff >>> (32 - bits);
  const codes = new Int32Array(size);
  let at = 0;
  for (let w = 0; at < size; w++) {
    const end = Math.min(at + per, size);
    let word = words[w]!;
    for (; at < end; at++) {
      codes[at] = word & mask;
      word >>>= bits;
    }
  }
  return codes;
}
