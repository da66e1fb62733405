/** The check before `npm start` and `npm test`, with node_modules in the states that people meet. */
import { expect, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

const root = new URL("../..", import.meta.url).pathname;
const node = Bun.which("node");
if (node === null)
  console.log("preflight: there is no node on PATH, the checks of its messages are left out");

/** A project folder with the preflight and whatever `prepare` puts there; returns what node prints and its exit code. */
async function preflight(
  prepare: (folder: string) => void,
): Promise<{ readonly code: number; readonly err: string }> {
  const folder = mkdtempSync(join(tmpdir(), "cotangent-preflight-"));
  try {
    mkdirSync(join(folder, "tools"));
    cpSync(join(root, "tools/preflight.mjs"), join(folder, "tools/preflight.mjs"));
    prepare(folder);
    // No Bun on PATH but the one in node_modules.
    const empty = join(folder, "empty");
    mkdirSync(empty);
    const child = Bun.spawn([node!, join(folder, "tools/preflight.mjs")], {
      env: { PATH: `${join(folder, "node_modules/.bin")}:${empty}` },
      stdout: "ignore",
      stderr: "pipe",
    });
    return { err: await new Response(child.stderr).text(), code: await child.exited };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A file of a package. */
function put(folder: string, path: string, text: string): void {
  const file = join(folder, "node_modules", path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, text, { mode: 0o755 });
}

test.skipIf(node === null)("without node_modules it names the command that makes them", async () => {
  const { code, err } = await preflight(() => {});
  expect(err).toContain("run `npm ci`");
  expect(code).toBe(1);
});

test.skipIf(node === null)("packages installed without scripts: it says what to run", async () => {
  const stub = '#!/bin/sh\necho "Bun\'s postinstall script was not run" >&2\nexit 1\n';
  const { code, err } = await preflight((folder) => {
    put(folder, "zod/package.json", "{}");
    put(folder, "bun/bin/bun.exe", stub);
    put(folder, ".bin/bun", stub);
  });
  expect(err).toContain("node node_modules/bun/install.js");
  expect(code).toBe(1);
});

test.skipIf(node === null)("with a Bun that runs it says nothing", async () => {
  const { code, err } = await preflight((folder) => {
    put(folder, "zod/package.json", "{}");
    put(folder, ".bin/bun", "#!/bin/sh\necho 1.4.5\n");
  });
  expect(err).toBe("");
  expect(code).toBe(0);
});
