/** The methods of `cotangent compare` on one device, by the name of the command line. */
import type { Method } from "./method.ts";
import { curvatureMethods } from "./methods/curvature.ts";
import { firstOrderMethods } from "./methods/first_order.ts";
import { matrixMethods } from "./methods/matrix.ts";
import { newtonMethods } from "./methods/newton.ts";

export const methods: Readonly<Record<string, Method>> = {
  ...firstOrderMethods,
  ...curvatureMethods,
  ...matrixMethods,
  ...newtonMethods,
};
