/** Ranks: words of u32 in the order of the elements that they stand for, so that one comparison does for all types. */
import { type DType, isFloat } from "../../dtype.ts";

/**
 * Declares `rank(bits: u32) -> u32` for the bits of an element: ascending, or descending where the smallest is wanted
 * first. NaN has the last rank either way; equal elements have one rank, 0 and -0 among them.
 */
export function rankFunction(dtype: DType, order: "ascending" | "descending" = "ascending"): string {
  const flip = order === "descending" ? "~" : "";
  if (!isFloat(dtype)) {
    const ordered = dtype === "int32" ? "(bits ^ 0x80000000u)" : "bits";
    return `fn rank(bits: u32) -> u32 { return ${flip}${ordered}; }`;
  }
  return `fn rank(bits: u32) -> u32 {
if ((bits & 0x7fffffffu) > 0x7f800000u) { return 0xffffffffu; }
return ${flip}select(bits | 0x80000000u, ~bits, bits > 0x80000000u);
}`;
}
