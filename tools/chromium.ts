/**
 * A browser for tests: headless Chromium from the package `@sparticuz/chromium`, unpacked into node_modules/.cache with
 * the libraries it needs. Nothing is installed and no root is needed. `COTANGENT_CHROMIUM` names another one to use.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { CACHE, type Contents, SWIFTSHADER, unpacked } from "./vulkan.ts";

/** The browser, its own graphics drivers, and libraries that bare systems lack. */
const CHROMIUM: Contents = {
  "swiftshader.tar.br": [...SWIFTSHADER["swiftshader.tar.br"]!, "libEGL.so", "libGLESv2.so"],
  "chromium.br": ["chromium"],
  "al2023.tar.br": [
    "expat.so.1",
    "freebl3.so",
    "freeblpriv3.so",
    "nspr4.so",
    "nss3.so",
    "nssutil3.so",
    "plc4.so",
    "plds4.so",
    "softokn3.so",
  ].map((name) => `lib/lib${name}`),
};

/** The second because root runs it where tests run in containers, the third because its adapter is a program. */
const FLAGS: readonly string[] = ["--headless", "--no-sandbox", "--enable-unsafe-webgpu"];

/** A browser with a page open. */
export interface Page {
  /** Settles if it ends by itself: its last words. */
  readonly ended: Promise<string>;
  /** Ends it and removes what it wrote. */
  close(): Promise<void>;
}

/**
 * Opens a page.
 *
 * @throws {Error} if there is no browser for this machine; the message says why
 */
export function openPage(url: string): Page {
  const { path, environment } = browser();
  const profile = mkdtempSync(join(tmpdir(), "cotangent-chromium-"));
  const clean = (): void => rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  try {
    const child = Bun.spawn([path, ...FLAGS, `--user-data-dir=${profile}`, url], {
      env: { ...process.env, ...environment },
      stdin: "ignore",
      stdout: "ignore",
      stderr: "pipe",
    });
    const words = new Response(child.stderr).text();
    const lastWords = async (code: number): Promise<string> =>
      `exit code ${code}, ${(await words).trim().split("\n").at(-1)}`;
    return {
      ended: child.exited.then(lastWords),
      async close() {
        child.kill("SIGKILL");
        await child.exited;
        clean();
      },
    };
  } catch (error) {
    clean();
    throw error;
  }
}

/** The program with the variables it needs from its start. */
function browser(): {
  readonly path: string;
  readonly environment: Readonly<Record<string, string>>;
} {
  const own = process.env["COTANGENT_CHROMIUM"] ?? "";
  if (own !== "") return { path: own, environment: {} };
  const folder = unpacked(CACHE, "chromium", CHROMIUM);
  const libraries = [join(folder, "lib"), process.env["LD_LIBRARY_PATH"] ?? ""].filter((one) => one !== "");
  return { path: join(folder, "chromium"), environment: { LD_LIBRARY_PATH: libraries.join(delimiter) } };
}
