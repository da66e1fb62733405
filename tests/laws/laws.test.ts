/** Every law for every primitive of the registry. A law is a file beside this one. */
import { testLaws } from "../support/laws.ts";
import { batch } from "./batch.ts";
import { halves } from "./halves.ts";
import { jvp } from "./jvp.ts";
import { linearity } from "./linearity.ts";
import { precision } from "./precision.ts";
import { shape } from "./shape.ts";
import { symbolicZero } from "./symbolic_zero.ts";
import { traits } from "./traits.ts";
import { transpose } from "./transpose.ts";

testLaws([shape, jvp, transpose, batch, linearity, symbolicZero, precision, halves, traits]);
