import { type DType, shortName } from "./dtype.ts";
import { type Shape, sameShape, sizeOf } from "./shape.ts";

/**
 * Abstract value: what is known of a tensor without its elements. Prints as `f32[64,10]`.
 *
 * Shapes: itself.
 *
 * @example Prints as programs do
 * ```ts
 * assert(String(ct.ones([2, 3]).aval) === "f32[2,3]");
 * assert(ct.ones([2]).aval.equals(new ct.Aval([2], "float32")));
 * ```
 * @since 0.1.0
 */
export class Aval {
  readonly shape: Shape;
  readonly dtype: DType;
  /** Number of elements. */
  readonly size: number;
  /** The text, once it was asked for: backends look programs up by it. */
  #text: string | null = null;

  constructor(shape: Shape, dtype: DType) {
    this.shape = Object.isFrozen(shape) ? shape : Object.freeze([...shape]);
    this.dtype = dtype;
    this.size = sizeOf(this.shape);
    Object.freeze(this);
  }

  get ndim(): number {
    return this.shape.length;
  }

  /** Same shape and same element type. */
  equals(other: Aval): boolean {
    return this.dtype === other.dtype && sameShape(this.shape, other.shape);
  }

  /** The same element type with another shape. */
  withShape(shape: Shape): Aval {
    return new Aval(shape, this.dtype);
  }

  toString(): string {
    this.#text ??= `${shortName(this.dtype)}[${this.shape.join(",")}]`;
    return this.#text;
  }
}
