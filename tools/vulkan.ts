/**
 * A Vulkan driver for machines that have none: SwiftShader, which computes on the processor, unpacked from the package
 * `@sparticuz/chromium` into node_modules/.cache. Nothing is installed and no root is needed.
 *
 * `bun tools/vulkan.ts <command ...>` runs a command with the driver, `bun tools/vulkan.ts` says which adapter programs
 * get. A driver of the system that works is used in its place; `COTANGENT_VULKAN` is `system` or `software` to insist.
 * The package's loader also serves a driver of the system that has none.
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { brotliDecompressSync } from "node:zlib";

const root: string = join(import.meta.dirname, "..");
const PACKAGE: string = join(root, "node_modules", "@sparticuz", "chromium");
/** Where files are unpacked. */
export const CACHE: string = join(root, "node_modules", ".cache", "cotangent");
/** The loader, the driver, and the file that tells the first of the second. */
export const SWIFTSHADER: Contents = {
  "swiftshader.tar.br": ["libvulkan.so.1", "libvk_swiftshader.so", "vk_swiftshader_icd.json"],
};
/** Written last: the sizes that the files must have. */
const LIST = "sizes.json";

export type Driver = "system" | "software";

export interface Vulkan {
  readonly driver: Driver;
  /** Variables that a process needs from its start: the system reads some of them only then. */
  readonly environment: Readonly<Record<string, string>>;
  /** The adapter that programs get, or why they get none. */
  readonly adapter: string;
  readonly isUsable: boolean;
}

/** The driver to use, tried out in a process of its own. */
export function vulkan(wanted: string = process.env["COTANGENT_VULKAN"] ?? ""): Vulkan {
  if (wanted !== "" && wanted !== "system" && wanted !== "software") {
    throw new RangeError(`Cannot use COTANGENT_VULKAN="${wanted}": one of system, software is needed`);
  }
  if (wanted !== "software") {
    const system = systemDriver();
    if (system.isUsable || wanted === "system") return system;
  }
  try {
    const environment = softwareEnvironment();
    return { driver: "software", environment, ...tryOut(environment) };
  } catch (error) {
    const adapter = error instanceof Error ? error.message : String(error);
    return { driver: "software", environment: {}, adapter, isUsable: false };
  }
}

/** The driver of the system: as programs find it, or else by the loader from the package. */
function systemDriver(): Vulkan {
  const plain: Vulkan = { driver: "system", environment: {}, ...tryOut({}) };
  if (plain.isUsable) return plain;
  for (const environment of loaderEnvironments()) {
    const found: Vulkan = { driver: "system", environment, ...tryOut(environment) };
    if (found.isUsable) return found;
  }
  return plain;
}

/** Where loaders look for the descriptions of drivers, in folders `vulkan/icd.d`. */
const DESCRIBED_IN: readonly string[] = ["/etc", "/usr/local/etc", "/usr/local/share", "/usr/share"];
/** Where containers have NVIDIA's driver, which loaders do not know. */
const NVIDIA = "/usr/local/nvidia";
/** Its library that needs no X11, which the one of its own description does. */
const HEADLESS = "libEGL_nvidia.so.0";
const LIBRARIES: readonly string[] = [
  `${NVIDIA}/lib64`,
  `${NVIDIA}/lib`,
  "/usr/lib/x86_64-linux-gnu",
  "/usr/lib64",
  "/usr/lib",
];

/**
 * Variables for machines that have a driver and no loader, as a server with NVIDIA's driver alone: first the loader from
 * the package, then also drivers that it would not find.
 */
function* loaderEnvironments(): Generator<Record<string, string>> {
  const described = [...DESCRIBED_IN, ...(process.env["XDG_DATA_DIRS"]?.split(delimiter) ?? [])];
  const isNamed = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "VK_ADD_DRIVER_FILES"].some((v) => process.env[v]);
  const headless = LIBRARIES.map((folder) => join(folder, HEADLESS)).find((path) => existsSync(path));
  const hidden = join(NVIDIA, "share", "vulkan", "icd.d", "nvidia_icd.json");
  const isHidden = existsSync(hidden);
  const isDescribed = described.some((folder) => existsSync(join(folder, "vulkan", "icd.d")));
  if (!isNamed && !isDescribed && !isHidden && headless === undefined) return;
  let folder: string;
  try {
    folder = unpacked(CACHE, "vulkan", SWIFTSHADER);
  } catch {
    return; // no package, or another kind of machine
  }
  const places = [folder, ...LIBRARIES.filter((path) => path.startsWith(NVIDIA) && existsSync(path))];
  const loader = { LD_LIBRARY_PATH: libraryPath(...places) };
  const drivenBy = (path: string): Record<string, string> => ({
    ...loader,
    VK_DRIVER_FILES: path,
    VK_ICD_FILENAMES: path,
  });
  if (isNamed || isDescribed) yield loader;
  if (isHidden) yield drivenBy(hidden);
  if (headless === undefined) return;
  const description = join(CACHE, "nvidia_headless_icd.json");
  const ICD = { library_path: headless, api_version: "1.3.0" };
  writeFileSync(description, JSON.stringify({ file_format_version: "1.0.0", ICD }));
  yield drivenBy(description);
}

function libraryPath(...folders: readonly string[]): string {
  return [...folders, process.env["LD_LIBRARY_PATH"] ?? ""].filter((path) => path !== "").join(delimiter);
}

/** The variables with which a process finds SwiftShader, unpacked where it is not yet. */
export function softwareEnvironment(cache: string = CACHE): Record<string, string> {
  const folder = unpacked(cache, "vulkan", SWIFTSHADER);
  const driver = join(folder, "vk_swiftshader_icd.json");
  // The second name is the one that older loaders read.
  return { LD_LIBRARY_PATH: libraryPath(folder), VK_DRIVER_FILES: driver, VK_ICD_FILENAMES: driver };
}

/** What a program needs of the package: files by the archive they are in. One that is no tar is one file. */
export type Contents = Readonly<Record<string, readonly string[]>>;

/** The folder with the files, whole: it gets its name when everything in it is written. */
export function unpacked(cache: string, title: string, contents: Contents): string {
  if (process.platform !== "linux" || process.arch !== "x64") {
    throw new Error(
      `Cannot unpack ${title} for ${process.platform} ${process.arch}: there is one for linux x64 only, one of the system is needed`,
    );
  }
  if (!existsSync(PACKAGE)) {
    throw new Error(
      `Cannot unpack ${title}: the package @sparticuz/chromium is missing, \`npm ci\` is needed`,
    );
  }
  const { version } = JSON.parse(readFileSync(join(PACKAGE, "package.json"), "utf8")) as { version: string };
  const folder = join(cache, `${title}-${version}`);
  if (isWhole(folder, contents)) return folder;
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(cache, { recursive: true });
  const fresh = mkdtempSync(join(cache, "unpacking-"));
  const sizes: Record<string, number> = {};
  for (const [archive, wanted] of Object.entries(contents)) {
    const data = brotliDecompressSync(readFileSync(join(PACKAGE, "bin", archive)));
    const files = archive.endsWith(".tar.br") ? filesOf(data) : [{ name: wanted[0]!, data }];
    for (const file of files) {
      if (!wanted.includes(file.name)) continue;
      mkdirSync(dirname(join(fresh, file.name)), { recursive: true });
      writeFileSync(join(fresh, file.name), file.data, { mode: 0o755 });
      sizes[file.name] = file.data.byteLength;
    }
  }
  writeFileSync(join(fresh, LIST), JSON.stringify(sizes));
  if (!isWhole(fresh, contents)) {
    rmSync(fresh, { recursive: true, force: true });
    throw new Error(
      `Cannot unpack ${title}: the archives of ${PACKAGE} do not hold ${Object.values(contents).flat().join(", ")}, a whole package is needed`,
    );
  }
  try {
    renameSync(fresh, folder);
  } catch (error) {
    // Another process was faster.
    rmSync(fresh, { recursive: true, force: true });
    if (!isWhole(folder, contents)) throw error;
  }
  return folder;
}

function isWhole(folder: string, contents: Contents): boolean {
  const list = join(folder, LIST);
  if (!existsSync(list)) return false;
  const sizes = JSON.parse(readFileSync(list, "utf8")) as Record<string, number>;
  return Object.values(contents)
    .flat()
    .every((name) => {
      const path = join(folder, name);
      return existsSync(path) && statSync(path).size === sizes[name];
    });
}

const TAR_BLOCK = 512;

/** The plain files of a tar archive. */
export function* filesOf(
  archive: Uint8Array,
): Generator<{ readonly name: string; readonly data: Uint8Array }> {
  const text = (from: number, to: number): string =>
    new TextDecoder().decode(archive.subarray(from, to)).split("\0")[0]!;
  for (let at = 0; at + TAR_BLOCK <= archive.byteLength && archive[at] !== 0; ) {
    const bytes = Number.parseInt(text(at + 124, at + 136), 8);
    const kind = text(at + 156, at + 157);
    const start = at + TAR_BLOCK;
    if (kind === "0" || kind === "") {
      yield { name: text(at, at + 100), data: archive.subarray(start, start + bytes) };
    }
    at = start + Math.ceil(bytes / TAR_BLOCK) * TAR_BLOCK;
  }
}

/** Opens a device as a program would. */
function tryOut(environment: Readonly<Record<string, string>>): Pick<Vulkan, "adapter" | "isUsable"> {
  const device = JSON.stringify(join(root, "core", "backends", "webgpu", "device.ts"));
  const code = `const { openDevice } = await import(${device});
    const device = await openDevice().catch((error) => error);
    console.log(device instanceof Error ? device.message : device.name + " through " + device.host);
    process.exit(device instanceof Error ? 1 : 0);`;
  const { stdout, exitCode } = Bun.spawnSync([process.execPath, "-e", code], {
    cwd: root,
    env: { ...process.env, ...environment },
    stderr: "ignore",
  });
  return { adapter: stdout.toString().trim().split("\n").at(-1) ?? "", isUsable: exitCode === 0 };
}

/** Runs a command with the driver and gives its exit code. */
async function run(command: readonly string[]): Promise<number> {
  const { driver, environment, adapter, isUsable } = vulkan();
  console.error(`vulkan: ${driver} driver: ${adapter}`);
  if (command.length === 0) return isUsable ? 0 : 1;
  // `bun` is the one that runs this, also where it is not on the path.
  const [program, ...rest] = command;
  const own = dirname(process.execPath);
  const child = Bun.spawn([program === "bun" ? process.execPath : program!, ...rest], {
    env: { ...process.env, ...environment, PATH: `${own}${delimiter}${process.env["PATH"] ?? ""}` },
    stdio: ["inherit", "inherit", "inherit"],
  });
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => child.kill(signal));
  return child.exited;
}

if (import.meta.main) process.exitCode = await run(process.argv.slice(2));
