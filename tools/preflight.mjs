/**
 * Says in one sentence what is missing before anything else can fail in a less clear way.
 *
 * Plain JavaScript, because it runs before we know that Bun exists. Runs on Node 20 and later.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const NODE_MAJOR = 20;
const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const windows = process.platform === "win32";

/** The output of `<command> --version`, or null where the command does not run. */
function versionOf(command) {
  const child = spawnSync(command, ["--version"], { encoding: "utf8", shell: windows, windowsHide: true });
  return child.status === 0 ? child.stdout.trim() : null;
}

/** True where the npm package "bun" still has the shell script it is published with in place of the program. */
function hasStub() {
  const program = join(root, "node_modules", "bun", "bin", "bun.exe");
  return (
    existsSync(program) && readFileSync(program).subarray(0, 4096).includes("postinstall script was not run")
  );
}

/** The sentence to print, or null where all is well. */
function problem() {
  const node = Number.parseInt(process.versions.node, 10);
  if (node < NODE_MAJOR) {
    return `Cannot start cotangent: Node is ${process.versions.node}, Node ${NODE_MAJOR} or later is needed`;
  }
  if (!existsSync(join(root, "node_modules", "zod"))) {
    return "Cannot start cotangent: the folder node_modules is missing or empty, run `npm ci`";
  }
  if (versionOf("bun") !== null || versionOf(join(root, "node_modules", ".bin", "bun")) !== null) return null;
  if (hasStub()) {
    return [
      "Cannot start Bun: its install script was not run (npm was told to ignore scripts), one of these is needed:",
      "  node node_modules/bun/install.js           # downloads nothing where the platform package is present",
      "  rm -rf node_modules && npm ci              # a clean install with scripts",
      "If your npm blocks install scripts, allow this one first: npm install-scripts approve bun",
    ].join("\n");
  }
  if (!existsSync(join(root, "node_modules", "bun"))) {
    return "Cannot start Bun: the package bun is not in node_modules, run `npm ci`";
  }
  return (
    `Cannot start Bun: node_modules/.bin/bun does not run on ${process.platform} ${process.arch}, ` +
    "a node_modules made on this machine is needed: rm -rf node_modules && npm ci"
  );
}

if (process.versions.bun === undefined) {
  const sentence = problem();
  if (sentence !== null) {
    console.error(sentence);
    process.exitCode = 1;
  }
}
