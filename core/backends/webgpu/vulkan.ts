/**
 * Whether Linux has a Vulkan driver, found out under Bun before Dawn is asked: without one Dawn prints a warning of its
 * own, which no program can turn off, before we can say what is missing.
 */
type Call = (...args: readonly unknown[]) => unknown;

/** What `bun:ffi` has. */
interface Ffi {
  dlopen(
    path: string,
    symbols: Readonly<Record<string, { readonly args: readonly string[]; readonly returns: string }>>,
  ): { readonly symbols: Readonly<Record<string, Call>>; close(): void };
  ptr(data: ArrayBufferView): number;
}

const LOADER = "libvulkan.so.1";
/** VK_ERROR_INCOMPATIBLE_DRIVER: there is a loader, and nothing to load. */
const NO_DRIVER = -9;
/** VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO. */
const CREATE_INFO = 1n;

/** Whether Dawn may find a driver: false only where there is no loader, or the loader says that there is none. */
export async function mayHaveVulkan(load: (name: string) => Promise<unknown>): Promise<boolean> {
  if (!("Bun" in globalThis) || process.platform !== "linux") return true;
  const ffi = (await load("bun:ffi")) as Ffi;
  // Dawn looks beside the program too.
  return [LOADER, process.execPath.replace(/[^/]*$/, LOADER)].some((path) => hasDriver(ffi, path));
}

/** Makes and destroys an instance: about a millisecond. */
function hasDriver({ dlopen, ptr }: Ffi, path: string): boolean {
  const pointers = ["ptr", "ptr", "ptr"];
  let library: ReturnType<Ffi["dlopen"]>;
  try {
    library = dlopen(path, {
      vkCreateInstance: { args: pointers, returns: "i32" },
      vkDestroyInstance: { args: ["u64", "ptr"], returns: "void" },
    });
  } catch {
    return false;
  }
  // {type, next, flags, application, layers: count and names, extensions: count and names}, in words of eight bytes.
  const [info, instance] = [new BigUint64Array(8), new BigUint64Array(1)];
  info[0] = CREATE_INFO;
  const { vkCreateInstance, vkDestroyInstance } = library.symbols;
  const result = vkCreateInstance!(ptr(info), null, ptr(instance));
  if (instance[0] !== 0n) vkDestroyInstance!(instance[0], null);
  library.close();
  return result !== NO_DRIVER;
}
