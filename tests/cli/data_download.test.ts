import { afterAll, beforeEach, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import type { DownloadProgress, RemoteFile } from "../../cli/data/download.ts";
import { download } from "../../cli/data/download.ts";
import { fashionMnist, mnist } from "../../cli/data/image_sets.ts";
import { loadData } from "../../cli/data/registry.ts";
import type { RemoteSet } from "../../cli/data/remote_set.ts";
import { cacheDirectory, fetchSet } from "../../cli/data/remote_set.ts";
import { messageOf, withDirectory } from "./data_support.ts";

/** Large enough to come in several pieces. */
const content = Uint8Array.from({ length: 3_000_000 }, (_, i) => (i * 7 + (i >>> 8)) & 255);
const sha256 = createHash("sha256").update(content).digest("hex");

let requests: string[] = [];
beforeEach(() => {
  requests = [];
});
const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  fetch(request) {
    const { pathname } = new URL(request.url);
    requests.push(pathname);
    if (pathname.startsWith("/good")) return new Response(content);
    if (pathname === "/cut") return new Response(content.subarray(0, 1000));
    return new Response("not here", { status: 404 });
  },
});
/** Promises more than it sends, then closes the connection. */
const breaking = Bun.listen({
  hostname: "127.0.0.1",
  port: 0,
  socket: {
    data(socket) {
      socket.write("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this");
      socket.end();
    },
  },
});
afterAll(() => {
  server.stop(true);
  breaking.stop(true);
});

const at = (path: string): RemoteFile => ({ url: `http://127.0.0.1:${server.port}${path}`, sha256 });
const setOf = (...paths: readonly string[]): RemoteSet => ({
  name: "stand-in",
  files: Object.fromEntries(paths.map((path) => [`${path.slice(1)}.gz`, at(path)])),
});

describe("download", () => {
  test("keeps the bytes of the server, makes the directory and tells how far it is", async () => {
    await withDirectory(async (dir) => {
      const seen: DownloadProgress[] = [];
      await download(at("/good"), join(dir, "new", "file"), (progress) => seen.push(progress));
      expect(Buffer.compare(await readFile(join(dir, "new", "file")), content)).toBe(0);
      expect(await readdir(join(dir, "new"))).toEqual(["file"]);
      expect(seen.at(-1)).toEqual({
        url: at("/good").url,
        receivedBytes: content.length,
        totalBytes: content.length,
      });
      for (let i = 1; i < seen.length; i++) {
        expect(seen[i]!.receivedBytes).toBeGreaterThan(seen[i - 1]!.receivedBytes);
      }
    });
  });

  test("a wrong hash names both, and nothing is kept", async () => {
    await withDirectory(async (dir) => {
      const wrong = { ...at("/cut"), sha256 };
      const message = await messageOf(() => download(wrong, join(dir, "file")));
      expect(message).toContain(sha256);
      expect(message).toContain(createHash("sha256").update(content.subarray(0, 1000)).digest("hex"));
      expect(await readdir(dir)).toEqual([]);
    });
  });

  test("an answer of 404, a connection that breaks and a server that is not there keep nothing", async () => {
    await withDirectory(async (dir) => {
      expect(await messageOf(() => download(at("/absent"), join(dir, "file")))).toContain("answered 404");
      const breaks = { url: `http://127.0.0.1:${breaking.port}/file`, sha256 };
      expect(await messageOf(() => download(breaks, join(dir, "file")))).toContain(
        "the whole file is needed",
      );
      // Port 1 is reserved and no one listens there.
      const nobody = { url: "http://127.0.0.1:1/file", sha256 };
      expect(await messageOf(() => download(nobody, join(dir, "file")))).toContain("http://127.0.0.1:1/file");
      expect(await readdir(dir)).toEqual([]);
    });
  });

  test("a file that is there stays as it was when a download fails", async () => {
    await withDirectory(async (dir) => {
      await writeFile(join(dir, "file"), "mine");
      await messageOf(() => download(at("/cut"), join(dir, "file")));
      expect(await readFile(join(dir, "file"), "utf8")).toBe("mine");
    });
  });

  test("several at once end with one whole file", async () => {
    await withDirectory(async (dir) => {
      await Promise.all([1, 2, 3].map(() => download(at("/good"), join(dir, "file"))));
      expect(await readdir(dir)).toEqual(["file"]);
      expect(Buffer.compare(await readFile(join(dir, "file")), content)).toBe(0);
    });
  });
});

describe("fetchSet", () => {
  test("downloads once, then reads the cache, offline too", async () => {
    await withDirectory(async (cacheDir) => {
      const set = setOf("/good1", "/good2");
      const dir = await fetchSet(set, { cacheDir });
      expect(dir).toBe(join(cacheDir, "stand-in"));
      expect((await readdir(dir)).sort()).toEqual(["good1.gz", "good2.gz"]);
      expect(await fetchSet(set, { cacheDir, offline: true })).toBe(dir);
      expect(requests).toEqual(["/good1", "/good2"]);
    });
  });

  test("a file put there without .gz counts, only the others are fetched", async () => {
    await withDirectory(async (cacheDir) => {
      await mkdir(join(cacheDir, "stand-in"));
      await writeFile(join(cacheDir, "stand-in", "good1"), "by hand");
      await fetchSet(setOf("/good1", "/good2"), { cacheDir });
      expect(requests).toEqual(["/good2"]);
    });
  });

  test("offline names every missing path and its source, and asks no one", async () => {
    await withDirectory(async (cacheDir) => {
      const message = await messageOf(() => fetchSet(setOf("/good1", "/good2"), { cacheDir, offline: true }));
      for (const path of ["/good1", "/good2"]) {
        expect(message).toContain(join(cacheDir, "stand-in", `${path.slice(1)}.gz`));
        expect(message).toContain(at(path).url);
      }
      expect(message).toContain("--data-dir");
      expect(requests).toEqual([]);
    });
  });

  test("a failed download names what is still missing and why", async () => {
    await withDirectory(async (cacheDir) => {
      const message = await messageOf(() => fetchSet(setOf("/good1", "/absent", "/good2"), { cacheDir }));
      expect(message).toContain("answered 404");
      expect(message).toContain(join(cacheDir, "stand-in", "absent.gz"));
      expect(message).toContain(join(cacheDir, "stand-in", "good2.gz"));
      expect(message).not.toContain("good1.gz");
      expect(await readdir(join(cacheDir, "stand-in"))).toEqual(["good1.gz"]);
    });
  });

  test("each published set is refused offline from an empty cache, with its own paths", async () => {
    await withDirectory(async (cacheDir) => {
      for (const [name, file] of [
        ["fashion-mnist", "t10k-labels-idx1-ubyte.gz"],
        ["mnist", "train-images-idx3-ubyte.gz"],
        ["cifar10", "cifar-10-binary.tar.gz"],
      ] as const) {
        const message = await messageOf(() => loadData({ name, seed: 0, cacheDir, offline: true }));
        expect(message).toContain(join(cacheDir, name, file));
      }
    });
  });
});

test("published files have distinct addresses and well-formed distinct hashes", () => {
  const files = [fashionMnist, mnist].flatMap((set) => Object.values(set.files));
  expect(files.length).toBe(8);
  for (const { sha256: hash } of files) expect(hash).toMatch(/^[0-9a-f]{64}$/);
  expect(new Set(files.flatMap(({ url, sha256: hash }) => [url, hash])).size).toBe(16);
});

test("the cache is where the environment says", () => {
  expect(cacheDirectory({ COTANGENT_CACHE: "/a", XDG_CACHE_HOME: "/b" })).toBe("/a");
  expect(cacheDirectory({ COTANGENT_CACHE: "", XDG_CACHE_HOME: "/b" })).toBe(join("/b", "cotangent"));
  const home = join(homedir(), ".cache", "cotangent");
  expect(cacheDirectory({ XDG_CACHE_HOME: "relative" })).toBe(home);
  expect(cacheDirectory({})).toBe(home);
});
