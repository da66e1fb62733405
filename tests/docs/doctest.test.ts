/** Every example in the documentation type-checks and runs. */
import { afterAll, expect, test } from "bun:test";
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { collect, fromDocstrings, fromMarkdown, write } from "../../tools/doctest.ts";

const root = join(import.meta.dir, "../..");
const blocks = collect(root);
const { folder, modules } = write(root, blocks);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("the extractor finds blocks after @example and in Markdown, and nothing else", () => {
  const fence = "```";
  const source = `/**\n * Adds.\n * ${fence}ts\n * no();\n * ${fence}\n * @example Two\n * ${fence}ts\n * yes();\n * ${fence}\n * @since 1\n */\n`;
  expect(fromDocstrings("a.ts", source)).toEqual([{ file: "a.ts", line: 1, title: "Two", code: "yes();\n" }]);
  const page = `# Tour\n\n${fence}ts\nyes();\n${fence}\n${fence}typescript\nno();\n${fence}\n`;
  expect(fromMarkdown("a.md", page)).toEqual([{ file: "a.md", line: 3, title: "Tour", code: "yes();\n" }]);
});

test("there are examples", () => {
  console.log(
    `doctest: ${blocks.length} examples in ${new Set(blocks.map((block) => block.file)).size} files`,
  );
  expect(blocks.length).toBeGreaterThan(0);
  expect(existsSync(join(root, "mod.ts"))).toBe(true);
});

test("every example type-checks", async () => {
  const tsc = join(root, "node_modules/typescript/bin/tsc");
  const child = Bun.spawn([process.execPath, tsc, "--noEmit", "-p", folder], { cwd: folder, stdout: "pipe" });
  let report = await new Response(child.stdout).text();
  for (const { block, path } of modules) {
    report = report.replaceAll(path.slice(folder.length + 1), `${block.file}:${block.line} "${block.title}"`);
  }
  expect(report).toBe("");
  expect(await child.exited).toBe(0);
});

for (const { block, path } of modules) {
  test(`${block.file}:${block.line} ${block.title}`, async () => {
    const { run } = (await import(path)) as { run: () => Promise<void> };
    await run();
  });
}
