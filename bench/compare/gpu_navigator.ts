/** `navigator.gpu` for libraries that expect a browser: Dawn of the package `webgpu`, the one this library uses too. */
import { loadPeer } from "./peers.ts";

interface AdapterInfo {
  readonly vendor: string;
  readonly architecture: string;
  readonly device: string;
  readonly description: string;
}
interface Device {
  addEventListener(
    type: "uncapturederror",
    listener: (event: { readonly error: { readonly message: string } }) => void,
  ): void;
}
interface Adapter {
  readonly info: AdapterInfo;
  requestDevice(descriptor?: object): Promise<Device>;
}
interface Gpu {
  requestAdapter(options?: object): Promise<Adapter | null>;
}
interface Dawn {
  create(flags: readonly string[]): Gpu;
  readonly globals: Readonly<Record<string, unknown>>;
}

export interface NavigatorGpu {
  /** The name of the adapter that was asked for last. */
  readonly name: string;
  /** @throws what a device refused, which libraries only log: their times are of work that was not done */
  check(): void;
}

/** An object with some of its methods replaced; the others run on the object itself, as native ones must. */
function withMethods<T extends object>(target: T, methods: Partial<T>): T {
  return new Proxy(target, {
    get(_, key) {
      const value: unknown = Reflect.get(key in methods ? methods : target, key);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

/** Makes it. */
export async function provideNavigator(): Promise<NavigatorGpu> {
  const { create, globals } = await loadPeer<Dawn>("webgpu");
  Object.assign(globalThis, globals);
  const wanted = process.env["COMPARE_ADAPTER"];
  const gpu = create(wanted === undefined ? [] : [`adapter=${wanted}`]);
  let name = "";
  let refused: string | undefined;
  const requestAdapter = async (options?: object): Promise<Adapter | null> => {
    const adapter = await gpu.requestAdapter(options);
    if (adapter === null) return null;
    const { description, device, vendor, architecture } = adapter.info;
    name = [description || device, vendor, architecture].filter((part) => part !== "").join(", ");
    const requestDevice = async (descriptor?: object): Promise<Device> => {
      const opened = await adapter.requestDevice(descriptor);
      opened.addEventListener("uncapturederror", ({ error }) => {
        refused ??= error.message.split("\n")[0]!;
      });
      return opened;
    };
    return withMethods(adapter, { requestDevice });
  };
  const value = withMethods(gpu, { requestAdapter });
  Object.defineProperty(globalThis.navigator, "gpu", { value, configurable: true });
  return {
    get name() {
      return name;
    },
    check() {
      if (refused === undefined) return;
      const message = refused;
      refused = undefined;
      throw new Error(`the device refused a command: ${message}`);
    },
  };
}
