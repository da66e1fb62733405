import { bind } from "../../core/trace.ts";
import { Tensor } from "../../core/value.ts";
import { drawCall } from "../support/arbitrary_tensor.ts";
import type { Law } from "../support/laws.ts";
import { assertSameBits } from "../support/tolerance.ts";

/** Traits are true: what is called commutative has equal operands' bits in both orders, what is elementwise works by element. */
export const traits: Law = {
  name: "traits",
  exempt: ({ traits: { commutative, elementwise } }) => (commutative || elementwise ? null : "no such trait"),
  check(primitive, draw) {
    const { args, params } = drawCall(primitive, draw, draw.pick(["float32", "float64"]));
    const [y] = bind(primitive, args, params);
    let checks = 0;
    if (primitive.traits.commutative) {
      assertSameBits(bind(primitive, args.toReversed(), params)[0]!, y!, "the operands exchanged");
      checks++;
    }
    if (primitive.traits.elementwise) {
      // Changing the first element of every operand to the last one's changes the first element only.
      const n = y!.size;
      const moved = args.map((x) => {
        const data = x.dataSync();
        data[0] = data[n - 1]!;
        return new Tensor(x.aval, data);
      });
      const [z] = bind(primitive, moved, params);
      const expected = y!.dataSync();
      expected[0] = expected[n - 1]!;
      assertSameBits(z!, new Tensor(y!.aval, expected), "the first element replaced by the last");
      checks++;
    }
    return checks;
  },
};
