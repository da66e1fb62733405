import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { adoptArray, tensor } from "../../core/create.ts";
import { decode } from "../../core/safetensors.ts";
import type { Value } from "../../core/value.ts";
import { fileStore } from "../../dist/runtime/file_store.ts";

const folder = mkdtempSync(join(tmpdir(), "cotangent-store-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const values = {
  tree: { layers: [{ w: tensor([[1, 2.5]]), b: tensor([3], { dtype: "int32" }) }] },
  special: adoptArray(new Float64Array([Number.NaN, -0, 5e-324])),
  none: null,
  absent: undefined,
};

test("a save comes back as it was: trees, special numbers and empty values", async () => {
  const own = join(folder, "whole", "deep");
  await fileStore(own).put("hub", 3, { round: 3, attempt: 7 }, values);
  const saved = await fileStore(own).get("hub", 3);
  expect(saved?.state).toEqual({ round: 3, attempt: 7 });
  expect(Object.keys(saved!.values).sort()).toEqual(Object.keys(values).sort());
  expect(saved!.values["none"]).toBeNull();
  expect(saved!.values["absent"]).toBeUndefined();
  const { layers } = saved!.values["tree"] as { layers: [{ w: Value; b: Value }] };
  expect(layers[0].w.toArray()).toEqual([[1, 2.5]]);
  expect([layers[0].b.dtype, layers[0].b.toArray()]).toEqual(["int32", [3]]);
  const special = saved!.values["special"] as Value;
  expect(new BigUint64Array(special.dataSync().buffer)).toEqual(
    new BigUint64Array(values.special.dataSync().buffer),
  );
  // Other programs can read the file too.
  const file = readFileSync(join(own, "hub.3.safetensors"));
  expect(decode<typeof values>(file).tree.special.shape).toEqual([3]);
});

test("rounds are listed by name, in order, and dropped one by one", async () => {
  const store = fileStore(join(folder, "rounds"));
  expect(await store.rounds("worker-1")).toEqual([]);
  expect(await store.get("worker-1", 0)).toBeNull();
  for (const round of [10, 9]) await store.put("worker-1", round, { round, attempt: 0 }, {});
  await store.put("worker-11", 4, { round: 4, attempt: 0 }, {});
  await store.put("worker-1", 9, { round: 9, attempt: 5 }, {});
  expect(await store.rounds("worker-1")).toEqual([9, 10]);
  expect((await store.get("worker-1", 9))?.state.attempt).toBe(5);
  await store.drop("worker-1", 9);
  expect(await store.rounds("worker-1")).toEqual([10]);
  expect(await store.rounds("worker-11")).toEqual([4]);
});

test("a damaged save is not listed, whichever byte was changed or cut off, and the one before it is", async () => {
  const own = join(folder, "damage");
  const first = fileStore(own);
  await first.put("hub", 1, { round: 1, attempt: 1 }, values);
  await first.put("hub", 2, { round: 2, attempt: 1 }, values);
  const path = join(own, "hub.2.safetensors");
  const whole = readFileSync(path);
  expect(await fileStore(own).rounds("hub")).toEqual([1, 2]);
  let changes = 0;
  for (let at = 0; at < whole.length; at++) {
    const damaged = Buffer.from(whole);
    damaged[at]! ^= 1 << (at % 8);
    writeFileSync(path, damaged);
    expect(await fileStore(own).rounds("hub")).toEqual([1]);
    expect(await fileStore(own).get("hub", 2)).toBeNull();
    changes++;
  }
  expect(changes).toBeGreaterThan(300);
  for (const length of [0, 7, 8, 100, whole.length - 1]) {
    writeFileSync(path, whole);
    truncateSync(path, length);
    expect(await fileStore(own).rounds("hub")).toEqual([1]);
    // The store that has written it looks again when the file has changed.
    expect(await first.rounds("hub")).toEqual([1]);
  }
});

test("a save that was interrupted is never seen, and no draft is left by a whole one", async () => {
  const own = join(folder, "drafts");
  const store = fileStore(own);
  await store.put("hub", 1, { round: 1, attempt: 1 }, values);
  expect(readdirSync(own)).toEqual(["hub.1.safetensors"]);
  writeFileSync(join(own, "hub.2.safetensors.123.draft"), readFileSync(join(own, "hub.1.safetensors")));
  expect(await store.rounds("hub")).toEqual([1]);
  await store.put("hub", 3, { round: 3, attempt: 1 }, values);
  expect(readdirSync(own).sort()).toEqual(["hub.1.safetensors", "hub.3.safetensors"]);
});

test("what is not a tree of tensors cannot be saved, and nothing appears", async () => {
  const own = join(folder, "refused");
  const store = fileStore(own);
  await expect((async () => store.put("hub", 1, { round: 1, attempt: 1 }, { f: () => 1 }))()).rejects.toThrow(
    /a function/,
  );
  expect(await store.rounds("hub")).toEqual([]);
});
