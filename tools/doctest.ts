/**
 * Examples as programs: takes the `ts` blocks out of docstrings and Markdown files and makes a module of each.
 *
 * An example uses the library as `ct` and may use `assert`, `assertClose` and `assertThrows`. An import of the library
 * may stand in its first lines, as a reader would write it; it is taken out. A Markdown block that cannot run alone is
 * tagged `typescript`, which no tool reads.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { filesUnder, lineAt, plain } from "./source.ts";

/** One example and where it stands. */
export interface Block {
  readonly file: string;
  readonly line: number;
  /** What follows `@example`, or the nearest heading. */
  readonly title: string;
  readonly code: string;
}

/** Folders whose docstrings hold examples of the library. */
const SOURCES: readonly string[] = ["core", "autodiff", "optim", "dist"];

/** Every example of the project, in the order of the files. */
export function collect(root: string): Block[] {
  const present = (path: string): boolean => existsSync(join(root, path));
  const sources = SOURCES.filter(present)
    .flatMap((folder) => filesUnder(root, folder))
    .filter((file) => file.endsWith(".ts"));
  const pages = [...(present("docs") ? filesUnder(root, "docs") : []), "README.md"].filter((file) =>
    file.endsWith(".md"),
  );
  const read = (file: string): string => readFileSync(join(root, file), "utf8");
  return [
    ...["mod.ts", ...sources].filter(present).flatMap((file) => fromDocstrings(file, read(file))),
    ...pages.filter(present).flatMap((file) => fromMarkdown(file, read(file))),
  ];
}

/** The fenced `ts` blocks after each `@example` of each docstring. */
export function fromDocstrings(file: string, source: string): Block[] {
  const blocks: Block[] = [];
  for (const comment of source.matchAll(/^[ \t]*\/\*\*[\s\S]*?\*\//gm)) {
    for (const example of plain(comment[0].trim())
      .split(/^@example\b/m)
      .slice(1)) {
      const own = example.split(/^@\w+/m)[0]!; // up to the next tag
      const title = own.split("\n")[0]!.trim();
      const line = lineAt(source, comment.index);
      for (const code of fences(own)) blocks.push({ file, line, title, code: code.text });
    }
  }
  return blocks;
}

/** The fenced `ts` blocks of a Markdown file. */
export function fromMarkdown(file: string, text: string): Block[] {
  return fences(text).map(({ text: code, index }) => {
    const heading = [...text.slice(0, index).matchAll(/^#+ +(.*)$/gm)].at(-1)?.[1] ?? "";
    return { file, line: lineAt(text, index), title: heading, code };
  });
}

function fences(text: string): { text: string; index: number }[] {
  return [...text.matchAll(/^```ts[ \t]*\n([\s\S]*?)^```/gm)].map((m) => ({ text: m[1]!, index: m.index }));
}

/** A module whose `run` executes the example. */
export function moduleOf(root: string, block: Block): string {
  const body = block.code.replace(/^import \* as ct from "[^"]*";?[ \t]*$/gm, "");
  return [
    `// ${block.file}:${block.line}`,
    `import * as ct from ${JSON.stringify(join(root, "mod.ts"))};`,
    `import { assert, assertClose, assertThrows } from ${JSON.stringify(join(root, "tools/assert.ts"))};`,
    "export async function run(): Promise<void> {",
    body,
    "  void [ct, assert, assertClose, assertThrows];",
    "}",
    "",
  ].join("\n");
}

/** A module on disk and the example it was made from. */
export interface Written {
  readonly block: Block;
  readonly path: string;
}

/** Writes a module for each example into a new temporary folder, with a tsconfig.json that type-checks them. */
export function write(
  root: string,
  blocks: readonly Block[],
): { readonly folder: string; readonly modules: Written[] } {
  const folder = mkdtempSync(join(tmpdir(), "cotangent-doctest-"));
  mkdirSync(folder, { recursive: true });
  const modules = blocks.map((block, i) => {
    const path = join(folder, `example_${String(i).padStart(3, "0")}.ts`);
    writeFileSync(path, moduleOf(root, block));
    return { block, path };
  });
  const packages = join(root, "node_modules");
  const compilerOptions = {
    noUnusedLocals: false,
    noUnusedParameters: false,
    isolatedDeclarations: false,
    typeRoots: [packages, join(packages, "@types")],
  };
  const config = { extends: join(root, "tsconfig.json"), compilerOptions, include: [join(folder, "*.ts")] };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(config, null, 2));
  return { folder, modules };
}
