/**
 * Rules about the source text itself: who imports whom, which calls and forms are not used, what every public name
 * brings along. Each check says how many things it examined, and fails if there were none.
 *
 * The data come first. To change a rule, change the data and say why in the change.
 */
import { expect, test } from "bun:test";
import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import {
  type Declaration,
  declarationsOf,
  filesUnder,
  type Import,
  importsOf,
  lineAt,
  only,
  reexportsOf,
} from "../tools/source.ts";

// ---------------------------------------------------------------------------------------------------------- data

/** Every folder with TypeScript in it. */
const FOLDERS: readonly string[] = "core autodiff optim dist cli bench examples docs tests tools".split(" ");

interface Layer {
  /** The files this row is about: the longest prefix wins. */
  readonly from: string;
  /** Prefixes of what they may import; their own `from` is always allowed. */
  readonly may: readonly string[];
  /** Packages and built-in modules they may import; a final `*` is any ending. */
  readonly packages: readonly string[];
}

const CORE_BASE: readonly string[] = [
  "arithmetic",
  "aval",
  "dtype",
  "eigen",
  "errors",
  "factor",
  "primitive",
  "shape",
  "strided",
  "tree",
  "value",
].map((name) => `core/${name}.ts`);
/** How elements are computed, for the records that say it and the generators that do it. */
const KERNELS: readonly string[] = ["core/expr.ts", "core/functions.ts", "core/half.ts", "core/kernel.ts"];
/** All of core except the backends. */
const CORE = "core/ except backends";
const SYSTEM: readonly string[] = ["node:*", "bun:*", "bun"];

/** core <- autodiff <- optim <- dist <- mod.ts <- the programs. */
const LAYERS: readonly Layer[] = [
  { from: "core/prims/", may: [...CORE_BASE, ...KERNELS, "core/trace.ts"], packages: [] },
  {
    from: "core/backends/",
    may: [
      ...CORE_BASE,
      ...KERNELS,
      "core/backend.ts",
      "core/backends/eager.ts",
      "core/program.ts",
      "core/memory.ts",
      "core/reclaim.ts",
      "core/passes/",
      "core/prims/",
      "core/trace.ts",
      "core/environment.ts",
      "core/identity.ts",
    ],
    packages: SYSTEM,
  },
  { from: "core/", may: [CORE], packages: [] },
  { from: "autodiff/", may: [CORE], packages: [] },
  { from: "optim/", may: [CORE, "autodiff/"], packages: [] },
  { from: "dist/protocol/", may: [], packages: [] },
  { from: "dist/runtime/", may: [CORE, "autodiff/", "optim/", "dist/"], packages: [...SYSTEM, "zod"] },
  { from: "dist/", may: [CORE, "autodiff/", "optim/", "dist/"], packages: ["zod"] },
  { from: "mod.ts", may: ["core/", "autodiff/", "optim/", "dist/"], packages: [] },
  {
    from: "cli/",
    may: ["core/", "autodiff/", "optim/", "dist/", "mod.ts"],
    packages: [...SYSTEM, "zod", "uplot"],
  },
  {
    from: "bench/",
    // The program itself is measured as a process.
    may: ["core/", "autodiff/", "optim/", "dist/", "mod.ts", "cli/data/", "cli/main.ts", "tools/vulkan.ts"],
    packages: SYSTEM,
  },
  { from: "examples/", may: ["mod.ts", "cli/data/"], packages: SYSTEM },
  // The teaching path imports nothing at all.
  { from: "docs/", may: [], packages: [] },
  { from: "tools/", may: [], packages: SYSTEM },
  { from: "tests/runtime/", may: ["mod.ts"], packages: [] },
  { from: "tests/", may: [""], packages: [...SYSTEM, "fast-check", "zod"] },
];

/** Single imports that the table forbids, each with its reason. */
const LAYER_EXCEPTIONS: readonly { readonly from: string; readonly to: string; readonly why: string }[] = [
  {
    from: "core/backends/select.ts",
    to: "core/backends/cpu/backend.ts",
    why: "the one place that knows which backends there are",
  },
  {
    from: "core/backends/select.ts",
    to: "core/backends/webgpu/open.ts",
    why: "the one place that knows which backends there are",
  },
];

/** Folders whose behaviour is decided by their arguments alone: no clock, no chance, no output, no host. */
const PURE: readonly string[] = ["core/", "autodiff/", "optim/", "dist/protocol/"];
const BANNED_CALLS: readonly RegExp[] = [
  /\bDate\.now\b|\bnew Date\(\s*\)/g,
  /\bMath\.random\b/g,
  /\bperformance\.now\b/g,
  /\bcrypto\.(?:random\w*|getRandomValues)\b/g,
  /\b(?:setTimeout|setInterval|setImmediate)\b/g,
  /\bconsole\.\w+/g,
  /(?<![.\w])fetch\(/g,
  /(?<![.\w])(?:Bun|Deno)\.\w+/g,
  /(?<![.\w])process\.\w+/g,
  /\bgetBuiltinModule\b/g,
];
/** Files in pure folders that meet the host, each with what it may use. */
const CALL_EXCEPTIONS: readonly { readonly file: string; readonly calls: RegExp; readonly why: string }[] = [
  {
    file: "core/backends/",
    calls: /^(?:performance\.now|Bun\.\w+|Deno\.\w+|process\.\w+|setTimeout|getBuiltinModule)$/,
    why: "devices belong to a host",
  },
  {
    file: "core/reclaim.ts",
    calls: /^(?:performance\.now|getBuiltinModule)$/,
    why: "how often garbage is collected depends on how long that takes",
  },
  {
    file: "core/io.ts",
    calls: /^getBuiltinModule$/,
    why: "files are what it is for; an import would keep the library out of browsers",
  },
  {
    file: "core/profile.ts",
    calls: /^performance\.now$/,
    why: "a profile says how long things took",
  },
  {
    file: "core/environment.ts",
    calls: /^Deno\.(?:permissions|env)$/,
    why: "the one place that reads environment variables",
  },
];

/** Public functions, by file and name, that no tensor enters or leaves. */
const NO_SHAPES: readonly RegExp[] = [/^core\/.* (?:definePrimitive|invariant|primitives)$/, /^dist\//];

/** Forms no file uses. */
const BANNED_FORMS: readonly { readonly what: string; readonly pattern: RegExp }[] = [
  {
    what: "an enum (use a union of strings)",
    pattern: /^[ \t]*(?:export\s+)?(?:declare\s+)?(?:const\s+)?enum\s+\w+/gm,
  },
  {
    what: "a namespace (use a module)",
    pattern: /^[ \t]*(?:export\s+)?(?:declare\s+)?(?:namespace|module)\s+[\w.]+\s*\{/gm,
  },
  { what: "a default export (name it)", pattern: /^[ \t]*export\s+default\b/gm },
  {
    what: "a random comparator (draw keys, then sort)",
    pattern: /\.(?:sort|toSorted)\(\s*\([^)]*\)\s*=>[^\n]*(?:random|rnd|rng)/gi,
  },
];
const BANNED_NAMES: readonly string[] = ["utils.ts", "util.ts", "helpers.ts", "misc.ts", "common.ts"];

/** Where a walk over the imports starts. The library must be reachable from what people import or run. */
const ENTRIES_OF_LIBRARY: readonly RegExp[] = [
  /^mod\.ts$/,
  /^dist\/runtime\/mod_bun\.ts$/, // imported as cotangent/bun
  /^cli\/main\.ts$/,
];
const ENTRIES: readonly RegExp[] = [
  ...ENTRIES_OF_LIBRARY,
  /\.test\.ts$/,
  /^(?:examples|bench|docs)\/[^/]+\.ts$/,
  /^bench\/compare\/(?:run|memory|\w+_child)\.ts$/,
  /^tests\/support\/(?:preload|deno\/tests)\.ts$/, // the second stands for bun:test under Deno
  /^tests\/(?:runtime|process)\/[^/]+\.ts$/,
  /^tools\/(?:check|assert)\.ts$/, // the second is imported by the modules that doctest.ts writes
];
const LIBRARY: readonly string[] = ["core/", "autodiff/", "optim/", "dist/", "cli/"];

/** No file is larger. */
const LARGEST_BYTES = 200_000;
const TEXT = /\.(?:ts|mjs|js|json|toml|md|txt|html|css|wgsl)$|^\.ci\/run$|^LICENSE$|^\.gitignore$/;

/** Notes of unfinished work must name an issue: `(#12)` right after the word. */
const UNFINISHED = new RegExp(`\\b(?:TO${""}DO|FIX${""}ME|XX${""}X)\\b(?!\\(#\\d+\\))`, "g");

/** Paths of one machine; a default of an environment variable in a test or a loader may hold one. */
const FOREIGN = new RegExp(`(?<![\\w.-])/${"work"}/|\\b${"shared"}/`, "g");
const FOREIGN_ALLOWED = /\b(?:process\.env|Bun\.env|env)\b/;

/** Own error classes use the format in full. A built-in error may be a cause inside another sentence: only its end counts. */
const BUILT_IN_ERRORS: readonly string[] = ["Error", "TypeError", "RangeError", "SyntaxError"];
const MESSAGE_FORMAT = /^(?:Cannot|Invariant broken) ?\S.*: .+|^Invariant broken: /s;
const CONTRACTION = /\b(?:\w+n't|it's|that's|there's|you're|they're|we're|i'm|let's)\b/i;

// --------------------------------------------------------------------------------------------------------- reading

const root = join(import.meta.dir, "..");
const all = filesUnder(root);
const text = new Map<string, string>();
const read = (file: string): string => {
  let source = text.get(file);
  if (source === undefined) {
    source = readFileSync(join(root, file), "utf8");
    text.set(file, source);
  }
  return source;
};
const sources = all.filter(
  (file) => file.endsWith(".ts") && (file === "mod.ts" || FOLDERS.includes(file.split("/")[0]!)),
);
const imports = new Map<string, readonly Import[]>(
  sources.map((file) => [file, importsOf(file, read(file))]),
);
const within = (file: string, prefixes: readonly string[]): boolean =>
  prefixes.some((prefix) => file.startsWith(prefix));

/** Prints how much was examined, and fails on findings or on nothing examined. */
function verdict(examined: number, things: string, findings: readonly string[]): void {
  console.log(`tidy: ${examined} ${things}`);
  if (findings.length > 0) throw new Error(`${findings.length} findings:\n  ${findings.join("\n  ")}`);
  expect(examined).toBeGreaterThan(0);
}

// ---------------------------------------------------------------------------------------------------------- checks

test("every import follows the layer table", () => {
  let examined = 0;
  const findings: string[] = [];
  for (const [file, list] of imports) {
    const layer = LAYERS.filter((row) => file.startsWith(row.from)).sort(
      (a, b) => b.from.length - a.from.length,
    )[0];
    if (layer === undefined) findings.push(`${file}: belongs to no layer`);
    else {
      for (const one of list) {
        examined++;
        if (!allowed(file, layer, one))
          findings.push(`${file}:${one.line} imports ${one.target}, which ${layer.from} may not`);
      }
    }
  }
  verdict(examined, "imports against the layer table", findings);
});

function allowed(file: string, layer: Layer, { specifier, target }: Import): boolean {
  if (!specifier.startsWith(".")) {
    return layer.packages.some((name) =>
      name.endsWith("*") ? specifier.startsWith(name.slice(0, -1)) : specifier === name,
    );
  }
  if (LAYER_EXCEPTIONS.some(({ from, to }) => from === file && to === target)) return true;
  const own = layer.from === "core/backends/" ? `${file.split("/").slice(0, 3).join("/")}/` : layer.from;
  if (target.startsWith(own) && !(own === "core/" && target.startsWith("core/backends/"))) return true;
  return layer.may.some((prefix) =>
    prefix === CORE
      ? target.startsWith("core/") && !target.startsWith("core/backends/")
      : target.startsWith(prefix),
  );
}

test("every relative import has the name of an existing file, with its ending", () => {
  const relatives = [...imports].flatMap(([file, list]) =>
    list.filter((one) => one.specifier.startsWith(".")).map((one) => ({ file, ...one })),
  );
  const findings = relatives
    .filter(({ target }) => !existsSync(join(root, target)) || !statSync(join(root, target)).isFile())
    .map(({ file, line, specifier }) => `${file}:${line} imports ${specifier}, which does not exist`);
  verdict(relatives.length, "relative imports", findings);
});

test("no cycle of imports at run time", () => {
  const state = new Map<string, "open" | "done">();
  const findings: string[] = [];
  const visit = (file: string, path: readonly string[]): void => {
    if (state.get(file) === "done") return;
    if (state.get(file) === "open") {
      findings.push([...path.slice(path.indexOf(file)), file].join(" -> "));
      return;
    }
    state.set(file, "open");
    for (const { target, typeOnly, isUrl } of imports.get(file) ?? [])
      if (!typeOnly && !isUrl) visit(target, [...path, file]);
    state.set(file, "done");
  };
  for (const file of imports.keys()) visit(file, []);
  verdict(imports.size, "files in the graph of imports", findings);
});

test("pure folders call no clock, chance, output or host", () => {
  const pure = sources.filter((file) => within(file, PURE));
  const findings: string[] = [];
  for (const file of pure) {
    const code = only(read(file), "code");
    const excused = CALL_EXCEPTIONS.filter((exception) => file.startsWith(exception.file));
    for (const pattern of BANNED_CALLS) {
      for (const match of code.matchAll(pattern)) {
        if (excused.some(({ calls }) => calls.test(match[0]))) continue;
        findings.push(`${file}:${lineAt(code, match.index)} uses ${match[0]}`);
      }
    }
  }
  verdict(pure.length, "files in pure folders", findings);
});

test("no enum, namespace, default export, random comparator or drawer file", () => {
  const findings: string[] = [];
  for (const file of sources) {
    const code = only(read(file), "code");
    for (const { what, pattern } of BANNED_FORMS) {
      for (const match of code.matchAll(pattern))
        findings.push(`${file}:${lineAt(code, match.index)} has ${what}`);
    }
    if (BANNED_NAMES.includes(basename(file)))
      findings.push(`${file} is named after nothing (name it after what it does)`);
    if (!/^[a-z0-9_]+(?:\.[a-z0-9_]+)*\.ts$/.test(basename(file)))
      findings.push(`${file} is not in snake_case`);
  }
  verdict(sources.length, "TypeScript files for forms and names", findings);
});

test("every file is reachable from an entry point, the library from what people import or run", () => {
  const reach = (entries: readonly RegExp[]): Set<string> => {
    const seen = new Set<string>();
    const waiting = sources.filter((file) => entries.some((entry) => entry.test(file)));
    for (let file = waiting.pop(); file !== undefined; file = waiting.pop()) {
      if (seen.has(file)) continue;
      seen.add(file);
      waiting.push(...(imports.get(file) ?? []).map(({ target }) => target));
    }
    return seen;
  };
  const fromAnywhere = reach(ENTRIES);
  const fromLibrary = reach(ENTRIES_OF_LIBRARY);
  const dead = sources.filter((file) => !(within(file, LIBRARY) ? fromLibrary : fromAnywhere).has(file));
  verdict(
    sources.length,
    "files for reachability",
    dead.map((file) => `${file} is not reachable`),
  );
});

test("no unfinished note without an issue, no path of one machine", () => {
  const files = all.filter((file) => TEXT.test(file) && basename(file) !== "package-lock.json");
  const findings: string[] = [];
  for (const file of files) {
    const source = read(file);
    for (const match of source.matchAll(UNFINISHED))
      findings.push(`${file}:${lineAt(source, match.index)} has ${match[0]} without (#issue)`);
    for (const match of source.matchAll(FOREIGN)) {
      const line = lineAt(source, match.index);
      const excused = file.startsWith("tests/") && FOREIGN_ALLOWED.test(source.split("\n")[line - 1]!);
      if (!excused) findings.push(`${file}:${line} names the path ${match[0]}`);
    }
  }
  verdict(files.length, "text files for notes and paths", findings);
});

test("no file is too large to be source", () => {
  const large = all.filter((file) => statSync(join(root, file)).size > LARGEST_BYTES);
  verdict(
    all.length,
    "files for size",
    large.map(
      (file) => `${file} has ${statSync(join(root, file)).size} bytes, at most ${LARGEST_BYTES} are allowed`,
    ),
  );
});

test("error messages have the one format", () => {
  let examined = 0;
  const findings: string[] = [];
  for (const file of sources.filter((name) => within(name, LIBRARY))) {
    for (const { kind, message, line } of messagesIn(read(file))) {
      examined++;
      const wrong = faultOf(kind, message);
      if (wrong !== null) findings.push(`${file}:${line} ${kind} ${wrong}: ${message}`);
    }
  }
  verdict(examined, "error messages", findings);
});

/** The literal messages given to `new SomethingError(...)`; an interpolation reads as `*`. */
function messagesIn(source: string): { kind: string; message: string; line: number }[] {
  const found: { kind: string; message: string; line: number }[] = [];
  const code = only(source, "code");
  for (const match of code.matchAll(/\bnew (\w*Error)\(/g)) {
    const open = match.index + match[0].length;
    let depth = 1;
    let end = open;
    for (; end < code.length && depth > 0; end++) {
      if ("([{".includes(code[end]!)) depth++;
      else if (")]}".includes(code[end]!)) depth--;
    }
    const longest = literalsIn(source.slice(open, end - 1)).sort((a, b) => b.length - a.length)[0];
    if (longest?.includes(" "))
      found.push({ kind: match[1]!, message: longest, line: lineAt(source, match.index) });
  }
  return found;
}

/** String and template literals of an argument list; literals joined by `+` are one. */
function literalsIn(list: string): string[] {
  const pattern = /"((?:[^"\\\n]|\\.)*)"|'((?:[^'\\\n]|\\.)*)'|`((?:[^`\\]|\\.)*)`/g;
  const found: string[] = [];
  let end = -1;
  for (const match of list.matchAll(pattern)) {
    const value = (match[1] ?? match[2] ?? match[3]!)
      .replace(/\$\{(?:[^{}]|\{[^{}]*\})*\}/g, "*")
      .replaceAll('\\"', '"');
    const joined = end >= 0 && /^\s*\+\s*$/.test(list.slice(end, match.index));
    if (joined) found[found.length - 1] += value;
    else found.push(value);
    end = match.index + match[0].length;
  }
  return found;
}

function faultOf(kind: string, message: string): string | null {
  if (message.endsWith(".")) return "ends with a period";
  if (CONTRACTION.test(message)) return "has a contraction";
  if (BUILT_IN_ERRORS.includes(kind) || message.startsWith("*")) return null;
  if (!/^[A-Z]/.test(message)) return "does not start with a capital";
  return MESSAGE_FORMAT.test(message) ? null : 'is not "Cannot <verb> <object>: <what is>, <what is needed>"';
}

test("the check of error messages can fail", () => {
  const bad = "throw new ShapeError('add', 'shapes do not fit ' + 'and so on.');";
  expect(messagesIn(bad).map(({ kind, message }) => faultOf(kind, message))).toEqual(["ends with a period"]);
  expect(faultOf("ShapeError", "Shapes differ")).not.toBeNull();
  expect(faultOf("ShapeError", "Cannot add *: the shapes differ, equal shapes are needed")).toBeNull();
});

test("package.json and deno.json agree, and CHANGELOG.md has Unreleased", () => {
  const npm = JSON.parse(read("package.json"));
  const deno = JSON.parse(read("deno.json"));
  expect(deno.version).toBe(npm.version);
  expect(deno.exports).toEqual(npm.exports);
  for (const path of Object.values(npm.exports as Record<string, string>))
    expect(existsSync(join(root, path))).toBe(true);
  const pairs = Object.entries(deno.imports as Record<string, string>);
  for (const [name, target] of pairs) expect(target).toBe(`npm:${name}@${npm.dependencies[name]}`);
  expect(read("CHANGELOG.md")).toMatch(/^## \[Unreleased\]$/m);
  expect(read("CHANGELOG.md")).toContain(npm.version);
  verdict(
    2 + pairs.length + Object.keys(npm.exports).length - 1,
    "entries shared by package.json and deno.json",
    [],
  );
});

test("every primitive has a sentence of documentation and a domain", async () => {
  const { primitives } = await import("../mod.ts");
  const findings = primitives().flatMap((primitive) => [
    ...(/^\S.{7,}/.test(primitive.doc) ? [] : [`${primitive.name} has no doc`]),
    ...(typeof primitive.domain === "function" ? [] : [`${primitive.name} has no domain`]),
  ]);
  verdict(primitives().length, "primitives", findings);
});

test("every public name has a docstring; a function says Shapes, a value has an example, all have @since", () => {
  const findings: string[] = [];
  const names = ["mod.ts", "dist/runtime/mod_bun.ts"].flatMap((file) => publicNames(file, new Set()));
  for (const { name, file, declaration } of names) {
    const missing: string[] = [];
    if (declaration === undefined) missing.push("declaration (is it exported where it is declared?)");
    else if (declaration.doc === "") missing.push("docstring");
    else {
      const isType = declaration.kind === "interface" || declaration.kind === "type";
      if (!isType && !declaration.doc.includes("@example")) missing.push("@example");
      const meetsTensors =
        declaration.kind === "function" && !NO_SHAPES.some((one) => one.test(`${file} ${name}`));
      if (meetsTensors && !declaration.doc.includes("Shapes:")) missing.push("Shapes:");
      if (!declaration.doc.includes("@since")) missing.push("@since");
    }
    if (missing.length > 0)
      findings.push(`${file}:${declaration?.line ?? 1} ${name} has no ${missing.join(", no ")}`);
  }
  verdict(names.length, "public names", findings);
});

interface Public {
  readonly name: string;
  readonly file: string;
  readonly declaration: Declaration | undefined;
}

/** The names a file makes public, each with the declaration behind it, through any number of re-exports. */
function publicNames(file: string, seen: Set<string>): Public[] {
  if (seen.has(file) || !existsSync(join(root, file))) return [];
  seen.add(file);
  const source = read(file);
  const found: Public[] = declarationsOf(source).map((declaration) => ({
    name: declaration.name,
    file,
    declaration,
  }));
  for (const { name, local, from } of reexportsOf(file, source)) {
    if (local === "*") found.push(...publicNames(from, seen));
    else {
      const origin = publicNames(from, new Set()).find((one) => one.name === local);
      found.push({ name, file: origin?.file ?? from, declaration: origin?.declaration });
    }
  }
  return found;
}

test("sizes, for information", () => {
  const lines = (file: string): number => read(file).split("\n").length;
  for (const folder of FOLDERS) {
    const files = sources.filter((file) => file.startsWith(`${folder}/`));
    const total = files.reduce((sum, file) => sum + lines(file), 0);
    console.log(
      `tidy: ${folder.padEnd(9)} ${String(files.length).padStart(4)} files ${String(total).padStart(7)} lines`,
    );
  }
  const longest = [...sources].sort((a, b) => lines(b) - lines(a)).slice(0, 8);
  console.log(`tidy: longest: ${longest.map((file) => `${file} ${lines(file)}`).join(", ")}`);
  expect(new Set(sources.map(dirname)).size).toBeGreaterThan(0);
});
