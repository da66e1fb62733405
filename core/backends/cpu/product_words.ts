/** The argument block of a matrix product, which kernels and native libraries read alike. */

/**
 * Words of the argument block of a product: where the matrices are, strides in bytes, C row-major; sizes, where a unit
 * of work is `tall` rows of `wide` columns, and a batch has `panels` of those rows and `units` in all; `deep` products
 * are summed at once; whether to pack; whether to add to C.
 */
export const PRODUCT_WORDS = [
  "a",
  "b",
  "c",
  "aRow",
  "aColumn",
  "aBatch",
  "bRow",
  "bColumn",
  "bBatch",
  "cRow",
  "cBatch",
  "m",
  "n",
  "k",
  "tall",
  "wide",
  "panels",
  "units",
  "deep",
  "packsA",
  "packsB",
  "more",
] as const;
export type ProductWord = (typeof PRODUCT_WORDS)[number];
