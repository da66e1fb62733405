/** Every program in examples/ runs to its end with tiny settings. */
import { expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dir, "../..");
const folder = join(root, "examples");
const programs = existsSync(folder)
  ? readdirSync(folder)
      .filter((name) => name.endsWith(".ts"))
      .sort()
  : [];

test("there are examples", () => {
  console.log(`examples: ${programs.length}`);
  expect(programs.length).toBeGreaterThan(0);
});

for (const name of programs) {
  test(`examples/${name} ends well`, async () => {
    const child = Bun.spawn([process.execPath, join("examples", name)], {
      cwd: root,
      env: { ...process.env, COTANGENT_TINY: "1" },
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    const [output, errors] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ]);
    if ((await child.exited) !== 0)
      throw new Error(`examples/${name} ended with ${child.exitCode}\n${output}\n${errors}`);
    expect(output.length).toBeGreaterThan(0);
  });
}
