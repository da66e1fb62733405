/**
 * The file of a tuning table: one for each adapter, in the folder of caches. Nothing here fails: a table that cannot be
 * read or written says so in its notes.
 */
import type { TuningChoice } from "../../backend.ts";
import { environment } from "../../environment.ts";
import { messageOf } from "./refusals.ts";
import type { ChoiceTable } from "./tuning_table.ts";

/** Where the table of an adapter is kept; null where the host has no files for us. */
export function tablePath(adapter: string): string | null {
  if (fileSystem() === undefined) return null;
  const home = environment("HOME") ?? environment("USERPROFILE");
  const folder = environment("XDG_CACHE_HOME") ?? (home && `${home}/.cache`);
  if (folder === undefined) return null;
  const name = adapter
    .toLowerCase()
    .replace(/[^a-z0-9.]+/g, "-")
    .slice(0, 100);
  const path = `${folder}/cotangent/tuning-${name}.json`;
  return isPermitted(folder) ? path : null;
}

/** Whether files below a folder may be read and written without a question to the person at the screen. */
function isPermitted(path: string): boolean {
  const { Deno } = globalThis as {
    readonly Deno?: {
      readonly permissions: {
        querySync(query: { name: "read" | "write"; path: string }): { readonly state: string };
      };
    };
  };
  if (Deno === undefined) return true;
  return (["read", "write"] as const).every(
    (name) => Deno.permissions.querySync({ name, path }).state === "granted",
  );
}

/** Asked for when it is used: an import would keep the library out of browsers. */
function fileSystem() {
  return globalThis.process?.getBuiltinModule?.("node:fs/promises");
}

/** Adds to the table what its file has. */
export async function loadTable(table: ChoiceTable): Promise<void> {
  for (const [key, choice] of await kept(table)) table.set(key, choice);
}

/** The choices in the file of a table. */
async function kept(table: ChoiceTable): Promise<ReadonlyMap<string, TuningChoice>> {
  const files = fileSystem();
  if (table.path === null || files === undefined) return new Map();
  try {
    return table.decode(await files.readFile(table.path, "utf8"));
  } catch (error) {
    const isAbsent = (error as { readonly code?: unknown }).code === "ENOENT";
    if (!isAbsent) table.note(`the file is ignored: ${messageOf(error)}`);
    return new Map();
  }
}

/** Writes the file, whole or not at all: beside it first, then renamed. */
export async function saveTable(table: ChoiceTable): Promise<void> {
  const files = fileSystem();
  if (table.path === null || files === undefined) return;
  const draft = `${table.path}.${globalThis.process.pid}.tmp`;
  try {
    const text = table.encode(await kept(table));
    await files.mkdir(table.path.slice(0, table.path.lastIndexOf("/")), { recursive: true });
    await files.writeFile(draft, text);
    await files.rename(draft, table.path);
  } catch (error) {
    table.note(`the file is not written: ${messageOf(error)}`);
  }
}
