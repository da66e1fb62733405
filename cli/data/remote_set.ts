import { access } from "node:fs/promises";
import { homedir } from "node:os";
import { isAbsolute, join } from "node:path";
import process from "node:process";
import { DataError } from "./dataset.ts";
import type { DownloadProgress, RemoteFile } from "./download.ts";
import { download } from "./download.ts";
import { reason } from "./read_bytes.ts";

/** A published data set: its name and, for each file name, where it is served and what its bytes must be. */
export interface RemoteSet {
  readonly name: string;
  readonly files: Readonly<Record<string, RemoteFile>>;
}

/** Where a published data set may come from. */
export interface RemoteSetOptions {
  /** Holds the files of every data set in a directory of its name; {@link cacheDirectory} unless told. */
  readonly cacheDir?: string | undefined;
  /** Never reach for the network. */
  readonly offline?: boolean | undefined;
  readonly onProgress?: ((progress: DownloadProgress) => void) | undefined;
}

/** `$COTANGENT_CACHE`, else `$XDG_CACHE_HOME/cotangent`, else `~/.cache/cotangent`. */
export function cacheDirectory(
  environment: Readonly<Record<string, string | undefined>> = process.env,
): string {
  const own = environment["COTANGENT_CACHE"];
  if (own !== undefined && own !== "") return own;
  const shared = environment["XDG_CACHE_HOME"];
  // The XDG rules say that a relative path there means nothing.
  if (shared !== undefined && isAbsolute(shared)) return join(shared, "cotangent");
  return join(homedir(), ".cache", "cotangent");
}

/**
 * The path of `name` in `dir`, with or without `.gz`, whichever is there; undefined if neither is.
 *
 * @example
 * ```ts
 * await findFile("/data", "train-images-idx3-ubyte.gz"); // "/data/train-images-idx3-ubyte"
 * ```
 */
export async function findFile(dir: string, name: string): Promise<string | undefined> {
  for (const candidate of [name, name.endsWith(".gz") ? name.slice(0, -".gz".length) : `${name}.gz`]) {
    const path = join(dir, candidate);
    const exists = await access(path).then(
      () => true,
      () => false,
    );
    if (exists) return path;
  }
  return undefined;
}

/**
 * Makes sure that every file of the set is in its cache directory, downloading what is missing, and returns that
 * directory.
 *
 * @throws {DataError} if a file is missing and cannot be had; the message lists each missing path and its source.
 */
export async function fetchSet(set: RemoteSet, options: RemoteSetOptions = {}): Promise<string> {
  const dir = join(options.cacheDir ?? cacheDirectory(), set.name);
  const missing: string[] = [];
  for (const name of Object.keys(set.files)) {
    if ((await findFile(dir, name)) === undefined) missing.push(name);
  }
  const cannotLoad = (cause: string, names: readonly string[]): DataError => {
    const lines = names.map((name) => `  ${join(dir, name)}\n    from ${set.files[name]!.url}`);
    return new DataError(
      `Cannot load ${set.name}: ${cause}, these files are needed there, ` +
        `or a directory that holds them with --data-dir:\n${lines.join("\n")}`,
    );
  };
  if (missing.length > 0 && options.offline === true) {
    throw cannotLoad("files are missing and the network is not to be used", missing);
  }
  for (const [done, name] of missing.entries()) {
    try {
      await download(set.files[name]!, join(dir, name), options.onProgress);
    } catch (error) {
      throw cannotLoad(`the download failed (${reason(error)})`, missing.slice(done));
    }
  }
  return dir;
}
