/** Arithmetic of single elements, for the ends of sums. */
import type { LaneOp, PlainOp } from "./assembler.ts";
import type { GemmType } from "./gemm_kernels.ts";

/** Scalar arithmetic of an element type; totals are kept in `total`. */
export interface Scalars {
  readonly type: "f32" | "f64" | "i32";
  readonly total: "f64" | "i32";
  readonly multiply: PlainOp;
  readonly addTotal: PlainOp;
  readonly widen: PlainOp | null;
  readonly narrow: PlainOp | null;
  readonly extract: LaneOp;
}

const float32: Scalars = {
  type: "f32",
  total: "f64",
  multiply: "f32.mul",
  addTotal: "f64.add",
  widen: "f64.promote_f32",
  narrow: "f32.demote_f64",
  extract: "f32x4.extract_lane",
};
const float64: Scalars = {
  type: "f64",
  total: "f64",
  multiply: "f64.mul",
  addTotal: "f64.add",
  widen: null,
  narrow: null,
  extract: "f64x2.extract_lane",
};
const integer32: Scalars = {
  type: "i32",
  total: "i32",
  multiply: "i32.mul",
  addTotal: "i32.add",
  widen: null,
  narrow: null,
  extract: "i32x4.extract_lane",
};
export const scalarsOf: Readonly<Record<GemmType, Scalars>> = {
  float32,
  float64,
  int32: integer32,
  uint32: integer32,
};
