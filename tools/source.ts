/**
 * Reads TypeScript source text just well enough for the tools: what is code, comment or string, what is imported,
 * what is exported with which docstring. (The TypeScript 7 package offers no parser to programs.)
 */
import { readdirSync } from "node:fs";
import { dirname, join, relative } from "node:path";

const SKIPPED: ReadonlySet<string> = new Set(["node_modules", ".git", "runs", "coverage"]);

/** Paths of all files under `root/folder`, relative to `root`, sorted; installed packages and outputs left out. */
export function filesUnder(root: string, folder = "."): string[] {
  const found: string[] = [];
  const walk = (path: string): void => {
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      if (SKIPPED.has(entry.name)) continue;
      const full = join(path, entry.name);
      if (entry.isDirectory()) walk(full);
      else if (entry.isFile()) found.push(relative(root, full));
    }
  };
  walk(join(root, folder));
  return found.sort();
}

/** The kinds of text in a source file. A template's `${...}` is code. */
export type Kind = "code" | "comment" | "string";

/**
 * A copy of the source in which every character of the kinds not kept is a space. Line breaks stay, so that positions
 * and line numbers are those of the source; quotes count as string.
 */
export function only(source: string, ...kept: readonly Kind[]): string {
  const kinds = classify(source);
  let text = "";
  for (let i = 0; i < source.length; i++) {
    text += source[i] === "\n" || kept.includes(kinds[i]!) ? source[i] : " ";
  }
  return text;
}

/** The kind of each character. */
function classify(source: string): Kind[] {
  const kinds = new Array<Kind>(source.length).fill("code");
  const braces: number[] = []; // open braces inside each template expression we are in
  let i = 0;
  const mark = (end: number, kind: Kind): void => {
    kinds.fill(kind, i, Math.min(end, source.length));
    i = end;
  };
  /** From after a backtick or a closing `}` to after the next backtick or `${`. */
  const template = (from: number): void => {
    let end = from;
    while (end < source.length && source[end] !== "`" && !source.startsWith("${", end)) {
      end += source[end] === "\\" ? 2 : 1;
    }
    const opens = source[end] === "$";
    if (opens) braces.push(0);
    mark(end + (opens ? 2 : 1), "string");
  };
  while (i < source.length) {
    const c = source[i]!;
    if (source.startsWith("//", i)) mark(endOf(source, "\n", i), "comment");
    else if (source.startsWith("/*", i)) mark(endOf(source, "*/", i + 2) + 2, "comment");
    else if (c === '"' || c === "'") mark(closing(source, i, c), "string");
    else if (c === "`") template(i + 1);
    else if (c === "/" && startsRegExp(source, kinds, i)) mark(closing(source, i, "/"), "string");
    else if (c === "{" && braces.length > 0) {
      braces[braces.length - 1]!++;
      i++;
    } else if (c === "}" && braces.length > 0) {
      if (braces.at(-1) === 0) {
        braces.pop();
        template(i + 1);
      } else {
        braces[braces.length - 1]!--;
        i++;
      }
    } else i++;
  }
  return kinds;
}

function endOf(source: string, text: string, from: number): number {
  const at = source.indexOf(text, from);
  return at < 0 ? source.length : at;
}

/** The position after the quote (or slash) that closes the literal opened at `from`, or the end of the line. */
function closing(source: string, from: number, quote: string): number {
  let inClass = false;
  for (let i = from + 1; i < source.length; i++) {
    const c = source[i];
    if (c === "\\") i++;
    else if (c === "\n") return i;
    else if (quote === "/" && c === "[") inClass = true;
    else if (quote === "/" && c === "]") inClass = false;
    else if (c === quote && !inClass) return i + 1;
  }
  return source.length;
}

/** Whether the slash at `at` starts a regular expression: it does unless a value ends before it. */
function startsRegExp(source: string, kinds: readonly Kind[], at: number): boolean {
  let i = at - 1;
  while (i >= 0 && (kinds[i] === "comment" || /\s/.test(source[i]!))) i--;
  if (i < 0) return true;
  if (kinds[i] === "string") return false;
  if (/[)\]}]/.test(source[i]!)) return false;
  const word = /[\w$]+$/.exec(source.slice(Math.max(0, i - 20), i + 1));
  return word === null || /^(return|typeof|case|in|of|do|else|void|yield|await)$/.test(word[0]);
}

/** One import or re-export of a file. */
export interface Import {
  /** As written: `"./aval.ts"`, `"node:path"`. */
  readonly specifier: string;
  /** A file that another process or thread runs; this module does not evaluate it. */
  readonly isUrl: boolean;
  /** Erased before the program runs. */
  readonly typeOnly: boolean;
  /** Where it points: a path from the root for a relative one, otherwise the specifier. */
  readonly target: string;
  readonly line: number;
}

/** Every static import, re-export, dynamic import of a literal, and `new URL("./x.ts", import.meta.url)`. */
export function importsOf(file: string, source: string): Import[] {
  const text = only(source, "code", "string");
  const bare = only(source, "code");
  const found: Import[] = [];
  const add = (index: number, specifier: string, typeOnly: boolean, isUrl = false): void => {
    const target = specifier.startsWith(".") ? join(dirname(file), specifier) : specifier;
    found.push({ specifier, typeOnly, isUrl, target, line: lineAt(source, index) });
  };
  const statement = /^[ \t]*(import|export)\b([^;"']*?)(?:\bfrom\s*)?["']([^"'\n]+)["']/gm;
  for (const match of text.matchAll(statement)) {
    const keyword = match.index + match[0].indexOf(match[1]!);
    if (bare.slice(keyword, keyword + match[1]!.length) !== match[1]) continue; // inside a string
    const clause = match[2]!;
    const hasFrom = /\bfrom\s*["']/.test(match[0]);
    if (match[1] === "export" && (!hasFrom || !/^\s*(type\s*)?[{*]/.test(clause))) continue;
    if (match[1] === "import" && !hasFrom && clause.trim() !== "") continue;
    const names =
      /\{([^}]*)\}/
        .exec(clause)?.[1]
        ?.split(",")
        .map((name) => name.trim())
        .filter(Boolean) ?? [];
    const allTypes =
      names.length > 0 && names.every((name) => name.startsWith("type ")) && /^\s*\{/.test(clause);
    add(match.index, match[3]!, /^\s*type\b/.test(clause) || allTypes);
  }
  const calls = /\bimport\(\s*["']([^"'\n]+)["']|\bnew URL\(\s*["'](\.[^"'\n]*\.ts)["']/g;
  for (const match of text.matchAll(calls)) {
    if (bare[match.index] === " ") continue;
    add(match.index, (match[1] ?? match[2])!, isTypeImport(text, match.index), match[2] !== undefined);
  }
  return found;
}

/** `import("x").Name` in a type position: after a colon, an angle bracket, an equals sign of a type, or `typeof`. */
function isTypeImport(text: string, index: number): boolean {
  return /(\btypeof|[:<|&])\s*$/.test(text.slice(Math.max(0, index - 30), index));
}

/** The line number, from 1, of a position. */
export function lineAt(source: string, index: number): number {
  let line = 1;
  for (let i = 0; i < index; i++) if (source[i] === "\n") line++;
  return line;
}

/** One exported declaration. */
export interface Declaration {
  readonly name: string;
  readonly kind: "function" | "const" | "class" | "interface" | "type";
  /** The text of the docstring right before it without stars, or "" where there is none. */
  readonly doc: string;
  readonly line: number;
}

/** The declarations a file exports where it declares them. The first of several overloads counts. */
export function declarationsOf(source: string): Declaration[] {
  const bare = only(source, "code");
  const pattern =
    /^export\s+(?:declare\s+)?(?:async\s+)?(?:abstract\s+)?(function|const|let|class|interface|type)\b\s*\*?\s*([\w$]+)/gm;
  const found = new Map<string, Declaration>();
  for (const match of bare.matchAll(pattern)) {
    const name = match[2]!;
    const kind = (match[1] === "let" ? "const" : match[1]) as Declaration["kind"];
    const earlier = found.get(name);
    const doc = docBefore(source, match.index);
    if (earlier === undefined || (earlier.doc === "" && doc !== "")) {
      found.set(name, { name, kind, doc, line: lineAt(source, match.index) });
    }
  }
  return [...found.values()];
}

/** The text of the docstring that ends right before a position; line comments may stand in between. */
function docBefore(source: string, index: number): string {
  const before = source
    .slice(0, index)
    .replace(/(?:\s*\/\/[^\n]*\n)+\s*$/, "\n")
    .trimEnd();
  if (!before.endsWith("*/")) return "";
  const start = before.lastIndexOf("/**");
  return start < 0 ? "" : plain(before.slice(start));
}

/** The text of a docstring without its stars. */
export function plain(comment: string): string {
  return comment
    .replace(/^\/\*\*?/, "")
    .replace(/\*\/$/, "")
    .split("\n")
    .map((line) => line.replace(/^\s*\* ?/, ""))
    .join("\n")
    .trim();
}

/** One name that a file makes public, and where the name comes from. */
export interface PublicName {
  readonly name: string;
  /** The name in `from`; `"*"` where the whole of `from` is made public, under `name` or under its own names. */
  readonly local: string;
  readonly from: string;
}

/** The names a file re-exports: `export { a as b } from`, `export * as nn from`, `export * from` (name `"*"`). */
export function reexportsOf(file: string, source: string): PublicName[] {
  const text = only(source, "code", "string");
  const found: PublicName[] = [];
  for (const match of text.matchAll(
    /^export\s+(?:type\s+)?(?:\{([^}]*)\}|\*(?:\s+as\s+([\w$]+))?)\s*from\s*["']([^"']+)["']/gm,
  )) {
    const from = join(dirname(file), match[3]!);
    if (match[1] === undefined) {
      found.push({ name: match[2] ?? "*", local: "*", from });
      continue;
    }
    for (const part of match[1].split(",")) {
      const [, local, name] = /^\s*(?:type\s+)?([\w$]+)(?:\s+as\s+([\w$]+))?\s*$/.exec(part) ?? [];
      if (local !== undefined) found.push({ name: name ?? local, local, from });
    }
  }
  return found;
}
