/** Lanczos with products on the GPU: the spectra of the host, one read, and the rules for what cannot be done. */
import { afterEach, expect, setDefaultTimeout, test } from "bun:test";
import { hessianOperator, type LinearOperator } from "../../autodiff/operator.ts";
import { webgpuContext } from "../../core/backends/webgpu/open.ts";
import { tensor, zeros } from "../../core/create.ts";
import { devicePut } from "../../core/devices.ts";
import { mul, sum } from "../../core/ops.ts";
import * as random from "../../core/random.ts";
import type { Value } from "../../core/value.ts";
import { jit } from "../../mod.ts";
import { type LanczosOptions, lanczos, lanczosAsync, type Spectrum } from "../../optim/lanczos.ts";
import { linspace, list, maxDifference, orthonormalityError, rowsOf } from "../optim/numbers.ts";
import { countReads, hasGpu, inPlace, onHost } from "./support.ts";

const key = random.key(3);
/** A few units in the last place of float32, for products and bases of it. */
const CLOSE = 5e-6;

const quadratic = jit((x: Value, h: Value): Value => mul(0.5, sum(mul(h, mul(x, x)))));

/** A diagonal Hessian on the host and on the GPU. */
async function both(values: readonly number[]): Promise<readonly [LinearOperator, LinearOperator]> {
  const [x, h] = [zeros([values.length]), tensor(values)];
  const [farX, farH] = await devicePut([x, h] as const, "webgpu");
  return [hessianOperator(quadratic, x, h), hessianOperator(quadratic, farX, farH)];
}

/** The spectrum, by the synchronous form where the host can wait for the device. */
async function spectrumOf(operator: LinearOperator, options: LanczosOptions): Promise<Spectrum> {
  return (await inPlace(() => lanczos(operator, options))) ?? lanczosAsync(operator, options);
}

/** The vectors of a spectrum as plain numbers. */
async function vectorsOf({ vectors }: Spectrum): Promise<number[][]> {
  return rowsOf(await onHost(vectors));
}

/** |H v - value v| for every pair, in float64. */
async function trueResiduals(spectrum: Spectrum, diagonal: readonly number[]): Promise<number[]> {
  const found = list(spectrum.values);
  return (await vectorsOf(spectrum)).map((v, j) =>
    Math.hypot(...v.map((x, i) => (diagonal[i]! - found[j]!) * x)),
  );
}

setDefaultTimeout(60_000);
const gpu = test.skipIf(!hasGpu);
const reads = hasGpu ? countReads() : { count: 0 };
afterEach(() => {
  if (hasGpu) webgpuContext()!.checkOpen();
});

gpu("an operator says where its products are", async () => {
  const [host, far] = await both([1, 2, 3]);
  expect([host.device, far.device]).toEqual(["cpu", "webgpu"]);
  expect(far.apply(tensor([1, 1, 1])).device).toBe("webgpu");
});

gpu("the same spectrum as on the host, with one read", async () => {
  const values = linspace(-3, 30, 101).map((x) => x + 0.02 * x * x);
  const [host, far] = await both(values);
  const options = { k: 5, l: 2, order: 40, key };
  const expected = lanczos(host, options);
  const before = reads.count;
  const found = await spectrumOf(far, options);
  expect(reads.count - before).toBe(1);
  const scale = values.at(-1)!;
  expect(maxDifference(list(found.values), list(expected.values))).toBeLessThan(CLOSE * scale);
  expect(found).toMatchObject({ largest: 5, breakdown: false });
  expect(found.vectors.device).toBe("webgpu");
  expect(String(found.vectors.aval)).toBe("f32[7,101]");
  expect(orthonormalityError(await vectorsOf(found))).toBeLessThan(CLOSE);
  expect(maxDifference(list(found.residuals), await trueResiduals(found, values))).toBeLessThan(
    CLOSE * scale,
  );
});

gpu("two passes keep the basis orthogonal where one pass loses it", async () => {
  // One large eigenvalue over a geometric tail: what remains of a product is a small part of it.
  const order = 12;
  const values = [200, ...Array.from({ length: 99 }, (_, i) => 1.5 ** -i)];
  const [, far] = await both(values);
  const all = await spectrumOf(far, { k: order, order, start: tensor(values.map(() => 1)) });
  expect(all.breakdown).toBe(false);
  expect(orthonormalityError(await vectorsOf(all))).toBeLessThan(CLOSE);
});

gpu("the asynchronous form has the bits of the synchronous one", async () => {
  const [, far] = await both(linspace(1, 9, 40));
  const options = { k: 3, order: 12, key };
  const [now, later] = [await spectrumOf(far, options), await lanczosAsync(far, options)];
  expect(list(later.values)).toEqual(list(now.values));
  expect(await vectorsOf(later)).toEqual(await vectorsOf(now));
  const [host] = await both(linspace(1, 9, 40));
  expect(list((await lanczosAsync(host, options)).vectors)).toEqual(list(lanczos(host, options).vectors));
});

gpu("a space that is exhausted early: the exact pairs, no ghosts", async () => {
  const values = [1, 2, 3, 1, 2, 3, 1, 2, 3, 3];
  const [, far] = await both(values);
  for (const order of [5, 10]) {
    const spectrum = await spectrumOf(far, { k: 3, order, key });
    expect(spectrum.breakdown).toBe(true);
    expect(spectrum.tridiagonal.diagonal).toHaveLength(3);
    expect(maxDifference(list(spectrum.values), [1, 2, 3])).toBeLessThan(CLOSE * 3);
    expect(Math.max(...(await trueResiduals(spectrum, values)))).toBeLessThan(CLOSE * 3);
  }
  // An eigenvector to start from, on the host and on the device, and a Hessian of zeros.
  const start = tensor([0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
  for (const from of [start, await devicePut(start, "webgpu")]) {
    const single = await spectrumOf(far, { k: 2, order: 3, start: from });
    expect([list(single.values), single.breakdown]).toEqual([[3], true]);
    expect((await vectorsOf(single))[0]![2]).toBe(1);
  }
  const [, zero] = await both([0, 0, 0]);
  expect(list((await spectrumOf(zero, { k: 1, key })).values)).toEqual([0]);
});

gpu("what cannot be done is refused as on the host", async () => {
  const [host, far] = await both([1, 2, 3]);
  const broken = (operator: LinearOperator): LinearOperator => ({
    ...operator,
    apply: (v) => mul(operator.apply(v), Number.NaN),
  });
  const cases: readonly (readonly [LanczosOptions, of?: (operator: LinearOperator) => LinearOperator])[] = [
    [{ k: 3, l: 1, key }],
    [{ k: 1 }],
    [{ k: 1, start: zeros([3]) }],
    [{ k: 1, start: tensor([1, 1]) }],
    [{ k: 1, start: tensor([1, Number.NaN, 1]) }],
    [{ k: 1, key }, broken],
  ];
  const messageOf = async (call: () => unknown): Promise<string> => {
    try {
      await call();
    } catch (error) {
      if (error instanceof RangeError) return error.message;
      throw error;
    }
    return "";
  };
  for (const [options, of = (operator: LinearOperator) => operator] of cases) {
    const message = await messageOf(() => lanczos(of(host), options));
    expect(message).toStartWith("Cannot ");
    expect(await messageOf(() => spectrumOf(of(far), options))).toBe(message);
  }
  await expect(lanczosAsync(far, { k: 1, start: zeros([3]) })).rejects.toThrow(/norm 0/);
});
