import { createHash, randomUUID } from "node:crypto";
import { mkdir, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import process from "node:process";
import { DataError } from "./dataset.ts";
import { reason } from "./read_bytes.ts";

/** A file on the network whose every byte is known beforehand. */
export interface RemoteFile {
  readonly url: string;
  /** Of the file as it is served, in hexadecimal. */
  readonly sha256: string;
}

/** How far one download has come. */
export interface DownloadProgress {
  readonly url: string;
  readonly receivedBytes: number;
  /** Undefined if the server does not say. */
  readonly totalBytes: number | undefined;
}

/** A server that is silent this long has failed. */
const SILENCE_MILLISECONDS = 30_000;

/**
 * Downloads a file to `path`, making its directory. The bytes go to a temporary file beside it, which takes the name
 * `path` only when it is complete and its SHA-256 is right: a half-written or changed file is never seen there, and
 * any number of processes may do this at once.
 *
 * @throws {DataError} if the server fails or is silent for 30 seconds, the hash is wrong, or the disk refuses; the
 * temporary file is gone then.
 */
export async function download(
  { url, sha256 }: RemoteFile,
  path: string,
  onProgress?: (progress: DownloadProgress) => void,
): Promise<void> {
  const partial = `${path}.${process.pid}.${randomUUID()}.partial`;
  try {
    await mkdir(dirname(path), { recursive: true });
    const found = await fetchTo(url, partial, onProgress);
    if (found !== sha256) {
      throw new DataError(
        `Cannot download ${url}: its SHA-256 is ${found}, ${sha256} is needed; nothing was kept`,
      );
    }
    await rename(partial, path);
  } catch (error) {
    await rm(partial, { force: true });
    if (error instanceof DataError) throw error;
    throw new DataError(`Cannot download ${url} to "${path}": ${reason(error)}, the whole file is needed`);
  }
}

/** Streams the answer into a new file; returns the SHA-256 of what came. */
async function fetchTo(
  url: string,
  path: string,
  onProgress: ((progress: DownloadProgress) => void) | undefined,
): Promise<string> {
  const silence = new AbortController();
  const stop = (): void =>
    silence.abort(new Error(`no byte came for ${SILENCE_MILLISECONDS / 1000} seconds`));
  let timer = setTimeout(stop, SILENCE_MILLISECONDS);
  try {
    const response = await fetch(url, {
      signal: silence.signal,
      // The hash is of the file as stored, so the transport must not unpack it.
      headers: { "accept-encoding": "identity" },
    });
    if (!response.ok || response.body === null) throw new Error(`the server answered ${response.status}`);
    const length = Number(response.headers.get("content-length"));
    const totalBytes = length > 0 ? length : undefined;
    const hash = createHash("sha256");
    const file = await open(path, "wx");
    try {
      let receivedBytes = 0;
      for await (const chunk of response.body) {
        clearTimeout(timer);
        timer = setTimeout(stop, SILENCE_MILLISECONDS);
        hash.update(chunk);
        await file.writeFile(chunk);
        receivedBytes += chunk.length;
        onProgress?.({ url, receivedBytes, totalBytes });
      }
    } finally {
      await file.close();
    }
    return hash.digest("hex");
  } finally {
    clearTimeout(timer);
  }
}
