/** Loops as a part of another shader: what follows a product or a convolution element by element. */
import type { Load, LoopStep, Slot } from "../../passes/fuse.ts";
import { Block, Scope } from "./expressions.ts";
import type { BufferRef } from "./kernel.ts";
import { Buffers, labelOf } from "./loops_access.ts";
import { quadSlots, reachesOf, writeElement, writeQuad } from "./loops_elements.ts";
import { storageType } from "./wgsl.ts";

/** What a shader adds to store the loop's results in the place of its own. */
export interface Epilogue {
  /**
   * Bindings and functions of the module: `SPECIALS` of wgsl.ts is among them where it is needed, and not to be
   * declared again.
   */
  readonly declarations: string;
  /** A statement that computes and stores; `at` and `value` are expressions without side effects. */
  statement(at: string, value: string): string;
  /** What the bindings are, from the first binding on. */
  readonly buffers: readonly BufferRef[];
}

export interface EpilogueOptions {
  /** The number of the first binding that is free. */
  readonly firstBinding: number;
  /**
   * `false`: a value is one element of the result and `at` its row-major position. `true`: a value is a vector of four
   * neighbours in row-major order and `at` the position of the first one over 4, which divides it.
   */
  readonly inQuads: boolean;
}

/**
 * A loop without reductions over the elements of `result`, which has been computed but is not in its buffer. Its layouts
 * are over the shape of the result, and it loads the result as a whole: see passes/epilogue.ts.
 */
export function epilogueOf(
  loop: LoopStep,
  result: Slot,
  { firstBinding, inQuads }: EpilogueOptions,
): Epilogue {
  const scope = new Scope(labelOf(loop));
  const block = new Block(scope);
  const given = new Map<Load, string>();
  const element = storageType(result.aval.dtype);
  for (const load of loop.loads) if (load.slot === result) given.set(load, "value");
  const reach = reachesOf(loop);
  const buffers = new Buffers(inQuads ? quadSlots(reach) : new Set(), "e", firstBinding);
  if (inQuads) writeQuad(block, loop, buffers, reach, { at: "at", given });
  else writeElement(block, loop, buffers, { at: "at", given });
  const declarations = [
    scope.declarations(),
    buffers.declarations(),
    `fn finish(at: u32, value: ${inQuads ? `vec4<${element}>` : element}) {`,
    ...block.lines,
    "}",
  ];
  return {
    declarations: declarations.filter((text) => text !== "").join("\n"),
    statement: (at, value) => `finish(${at}, ${value});`,
    buffers: buffers.refs,
  };
}
