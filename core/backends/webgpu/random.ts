/** Random bits: threefry2x32 of one counter for each invocation. The bits are those of the reference. */
import type { RandomBitsParams } from "../../prims/random.ts";
import { sizeOf } from "../../shape.ts";
import type { NamedKernel } from "./kernel.ts";
import { Buffers } from "./loops_access.ts";
import { binding, elementIndex, groupsFor, lineSize, mainHead } from "./wgsl.ts";

/** How far the second word is turned in the four rounds of odd groups, and of even ones. */
const ROTATIONS = [
  [13, 15, 26, 6],
  [17, 29, 16, 24],
] as const;

/** `threefry(k0, k1, counter)`: five groups of four rounds, after each of which two words of the key are added. */
const THREEFRY: string = `fn threefry(k0: u32, k1: u32, counter: u32) -> vec2<u32> {
let k2 = k0 ^ k1 ^ 0x1bd11bdau;
var x = k0;
var y = counter + k1;
${[1, 2, 3, 4, 5]
  .map((group) => {
    const rounds = ROTATIONS[(group + 1) % 2]!.map(
      (bits) => `x += y; y = ((y << ${bits}u) | (y >> ${32 - bits}u)) ^ x;`,
    );
    return `${rounds.join("\n")}\nx += k${group % 3}; y += k${(group + 1) % 3} + ${group}u;`;
  })
  .join("\n")}
return vec2<u32>(x, y);
}`;

const randomBits: NamedKernel = {
  prepare: () => [false],
  dispatches({ args, outs, params }, gpu) {
    const { shape, words } = params as RandomBitsParams; // The record's own.
    const [{ slot, layout }, out] = [args[0]!, outs[0]!];
    const n = sizeOf(shape);
    const units = out.aval.size / words;
    if (units === 0) return [];
    const size = lineSize(gpu);
    const groups = groupsFor(units, size, gpu);
    const isOneKey = units === n;
    const code = `${binding(0, "key", "u32")}
${binding(1, "bits", words === 2 ? "vec2<u32>" : "u32", "read_write")}
${THREEFRY}
${mainHead(units, size, groups)}
let first = ${isOneKey ? "0u" : `unit / ${n}u * 2u`};
let second = first + 1u;
let pair = threefry(key[${elementIndex(layout, "first")}], key[${elementIndex(layout, "second")}], ${isOneKey ? "unit" : `unit % ${n}u`});
bits[unit] = ${words === 2 ? "pair" : "pair.x ^ pair.y"};
}
`;
    return [{ label: "randomBits", code, buffers: [slot, out], groups, operations: 0 }];
  },
};

const foldIn: NamedKernel = {
  prepare: () => [false, false],
  dispatches({ args, outs }, gpu) {
    const [key, data, out] = [args[0]!, args[1]!, outs[0]!];
    const units = out.aval.size / 2;
    if (units === 0) return [];
    const size = lineSize(gpu);
    const groups = groupsFor(units, size, gpu);
    // Keys and data may be parts of one buffer.
    const buffers = new Buffers(new Set(), "b", 1);
    const word = ({ slot, layout }: typeof key, at: string): string =>
      buffers.word(slot, elementIndex(layout, at));
    const body = `let first = unit * 2u;
let second = first + 1u;
folded[unit] = threefry(${word(key, "first")}, ${word(key, "second")}, ${word(data, "unit")});`;
    const code = `${binding(0, "folded", "vec2<u32>", "read_write")}
${buffers.declarations()}
${THREEFRY}
${mainHead(units, size, groups)}
${body}
}
`;
    return [{ label: "foldIn", code, buffers: [out, ...buffers.refs], groups, operations: 0 }];
  },
};

export const randomKernels: ReadonlyMap<string, NamedKernel> = new Map([
  ["randomBits", randomBits],
  ["foldIn", foldIn],
]);
