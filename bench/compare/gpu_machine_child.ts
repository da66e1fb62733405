/**
 * What this device can do at best: multiplications and additions that stay in registers, and copies of memory. The
 * shaders share nothing with the library's but the way to run them.
 */
import { BufferUsage, type GpuBuffer } from "../../core/backends/webgpu/api.ts";
import { openDevice } from "../../core/backends/webgpu/device.ts";
import { queued } from "./gpu_queue.ts";
import { FMA_ACCUMULATORS, FMA_TURNS, GROUP } from "./gpu_works.ts";
import { type Prepared, serve, type Works } from "./protocol.ts";

const adapter = process.env["COMPARE_ADAPTER"];
const device = await openDevice(adapter === undefined ? {} : { adapter });
const USAGE: number = BufferUsage.STORAGE | BufferUsage.COPY_SRC | BufferUsage.COPY_DST;

/** The words of a buffer. */
async function wordsOf(buffer: GpuBuffer): Promise<Uint32Array> {
  const [bytes] = await device.read([{ buffer, offset: 0, bytes: buffer.size }]);
  return new Uint32Array(bytes!.buffer, bytes!.byteOffset, buffer.size / 4);
}

const numbered = (count: number, line: (i: number) => string): string =>
  Array.from({ length: count }, (_, i) => line(i)).join("\n");

/** `x <- x / 2 + 1` on accumulators of four, whose sum must end at 2 each; a compiler cannot know the constants. */
function arithmetic(invocations: number, step: (x: string) => string): Prepared {
  const code = `
@group(0) @binding(0) var<storage, read> constants: array<f32>;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;
@compute @workgroup_size(${GROUP}) fn main(@builtin(global_invocation_id) id: vec3u) {
  let a = vec4f(constants[0]);
  let b = vec4f(constants[1]);
  ${numbered(FMA_ACCUMULATORS, (i) => `var x${i} = vec4f(f32((id.x + ${i}u) & 7u));`)}
  for (var turn = 0u; turn < ${FMA_TURNS}u; turn++) {
    ${numbered(FMA_ACCUMULATORS, (i) => `x${i} = ${step(`x${i}`)};`)}
  }
  sums[id.x] = dot(${Array.from({ length: FMA_ACCUMULATORS }, (_, i) => `x${i}`).join(" + ")}, vec4f(1.0));
}`;
  const constants = device.createBuffer(8, USAGE, "constants");
  const sums = device.createBuffer(4 * invocations, USAGE, "sums");
  device.write(constants, 0, Float32Array.of(0.5, 1));
  const dispatch = device.pipeline(code, "main", "arithmetic");
  const group = device.bindGroup(dispatch, [{ buffer: constants }, { buffer: sums }]);
  return {
    mode: "",
    run: () => device.submit([{ dispatch, group, x: invocations / GROUP }]),
    show: async () => {
      device.submit([{ dispatch, group, x: invocations / GROUP }]);
      const all = new Float32Array((await wordsOf(sums)).buffer);
      return [all.reduce((x, y) => Math.min(x, y)), all.reduce((x, y) => Math.max(x, y))];
    },
    release() {
      device.destroyBuffer(constants);
      device.destroyBuffer(sums);
    },
  };
}

/** Each invocation moves four times 16 bytes, neighbours beside each other. */
const COPY = `
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;
@compute @workgroup_size(${GROUP})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = group.x * ${4 * GROUP}u + lane;
  ${numbered(4, (i) => `y[start + ${i * GROUP}u] = x[start + ${i * GROUP}u];`)}
}`;

function copy(bytes: number, how: "shader" | "buffer"): Prepared {
  const [from, to] = [device.createBuffer(bytes, USAGE, "from"), device.createBuffer(bytes, USAGE, "to")];
  device.write(
    from,
    0,
    Uint32Array.from({ length: bytes / 4 }, (_, i) => i),
  );
  const dispatch = device.pipeline(COPY, "main", "copy");
  const group = device.bindGroup(dispatch, [{ buffer: from }, { buffer: to }]);
  const command =
    how === "shader"
      ? { dispatch, group, x: bytes / (64 * GROUP) }
      : { copy: from, fromOffset: 0, to, toOffset: 0, bytes };
  return {
    mode: "",
    run: () => device.submit([command]),
    show: async () => {
      device.submit([command]);
      return [(await wordsOf(to)).every((word, i) => word === i) ? 1 : 0];
    },
    release() {
      device.destroyBuffer(from);
      device.destroyBuffer(to);
    },
  };
}

const works: Works = {
  "device-fma": (invocations = 2 ** 14) => arithmetic(invocations, (x) => `fma(${x}, a, b)`),
  "device-mul-add": (invocations = 2 ** 14) => arithmetic(invocations, (x) => `${x} * a + b`),
  "device-copy-shader": (bytes = 2 ** 25) => copy(bytes, "shader"),
  "device-copy-buffer": (bytes = 2 ** 25) => copy(bytes, "buffer"),
};

const queue = { isSoftware: device.isSoftware, settle: () => device.done() };
await serve(works, { device: device.name, adapt: (prepared) => queued(prepared, queue) });
