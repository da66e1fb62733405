/** The second half of a sum that was cut into parts: their sums, part by part in memory, are added in a fixed order. */
import type { Target } from "./dot_target.ts";
import type { Capabilities, Dispatch, Workspace } from "./kernel.ts";
import { binding, groupsFor, mainHead, type NumberType, word } from "./wgsl.ts";

/** Sums of as many parts side by side, so that errors of long sums do not add up. */
const LANES = 8;
/** With fewer results than this, so many invocations add one of them. */
const FEW_RESULTS = 2048;
const TEAM = 32;

/** Adds `count` sums of each of so many results, which are in memory one part after the other. */
export function sumOfParts(
  space: Workspace,
  count: number,
  results: number,
  type: NumberType,
  target: Target,
  gpu: Capabilities,
): Dispatch {
  const team = results < FEW_RESULTS && count >= 2 * LANES && !gpu.isSoftware ? TEAM : 1;
  const size = 64;
  const inQuads = results % 4 === 0 && team === 1;
  const units = inQuads ? results / 4 : results;
  const element = inQuads ? `vec4<${type}>` : type;
  const head = `${binding(0, "parts", element)}
${target.text(1, inQuads)}`;
  const teams = size / team;
  const groups = groupsFor(units, teams, gpu);
  const lanes = Array.from({ length: Math.min(LANES, count) }, (_, i) => `s${i}`);
  const whole = count - (count % lanes.length);
  const code =
    team === 1
      ? `${head}
${mainHead(units, size, groups)}
${lanes.map((name) => `var ${name} = ${element}();`).join(" ")}
for (var p = 0u; p < ${word(whole)}; p += ${word(lanes.length)}) {
${lanes.map((name, i) => `${name} += parts[(p + ${word(i)}) * ${word(units)} + unit];`).join("\n")}
}
${lanes
  .slice(0, count - whole)
  .map((name, i) => `${name} += parts[${word((whole + i) * units)} + unit];`)
  .join("\n")}
${inQuads ? "storeQuad(unit * 4u" : "store(unit"}, ${pairs(lanes)});
}
`
      : `${head}
var<workgroup> sums: array<${type}, ${size}>;
${mainHead(groups[0] * groups[1], size, groups, "group")}
let result = unit * ${word(teams)} + local / ${word(team)};
let lane = local % ${word(team)};
let at = min(result, ${word(results - 1)});
var sum = ${type}();
for (var p = lane; p < ${word(count)}; p += ${word(team)}) { sum += parts[p * ${word(results)} + at]; }
sums[local] = sum;
for (var apart = ${word(team / 2)}; apart > 0u; apart /= 2u) {
workgroupBarrier();
if (lane < apart) { sums[local] += sums[local + apart]; }
}
if (lane == 0u && result < ${word(results)}) { store(result, sums[local]); }
}
`;
  return { label: "dot", code, buffers: [space, ...target.buffers], groups, operations: 0 };
}

/** The sum of names, in pairs of pairs. */
function pairs(names: readonly string[]): string {
  if (names.length === 1) return names[0]!;
  const half = Math.ceil(names.length / 2);
  return `(${pairs(names.slice(0, half))} + ${pairs(names.slice(half))})`;
}
