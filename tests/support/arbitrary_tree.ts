/** Random trees of tensors of every element type, with empty lists and records, null prototypes and awkward keys. */
import fc from "fast-check";
import { dtypes, makeArray } from "../../core/dtype.ts";
import { sizeOf } from "../../core/shape.ts";
import { adopt } from "../../core/trace.ts";
import type { Tensor } from "../../core/value.ts";

/** Numbers that every element type can meet: its own special ones too. */
const element: fc.Arbitrary<number> = fc.oneof(
  fc.integer({ min: -1000, max: 1000 }),
  fc.constantFrom(0, -0, 1, 0.1, Number.NaN, Infinity, -Infinity, 2 ** 31, -(2 ** 31), 4294967295, 1e-310),
);

/** Tensors of every element type; sizes from 0. */
export const tensors: fc.Arbitrary<Tensor> = fc
  .record({ dtype: fc.constantFrom(...dtypes), shape: fc.array(fc.nat(3), { maxLength: 3 }) })
  .chain(({ dtype, shape }) => {
    const n = sizeOf(shape);
    return fc.array(element, { minLength: n, maxLength: n }).map((list) => {
      const data = makeArray(dtype, n);
      list.forEach((x, i) => {
        data[i] = dtype === "bool" ? Number(x > 0) : x;
      });
      return adopt(data, shape, dtype);
    });
  });

/** Keys with the separators of paths in them, and names that objects inherit. */
export const keys: fc.Arbitrary<string> = fc.oneof(
  fc.string({ minLength: 0, maxLength: 4 }),
  fc.constantFrom(
    "w",
    "b",
    "0",
    "1",
    "10",
    "2",
    "a.b",
    "a[0]",
    "[",
    "]",
    "constructor",
    "toString",
    "__metadata__",
    "é",
    ",",
  ),
);

const joined = fc.letrec<{ tree: unknown; list: unknown[]; record: unknown }>((tie) => ({
  tree: fc.oneof({ maxDepth: 3, withCrossShrink: true }, tensors, tie("list"), tie("record")),
  list: fc.array(tie("tree"), { maxLength: 3 }),
  // Half of the records have a null prototype, as those of fc.dictionary do.
  record: fc.dictionary(keys, tie("tree"), { maxKeys: 3 }),
}));

export const trees: fc.Arbitrary<unknown> = joined.tree;
