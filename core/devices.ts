/** Devices: where the elements of tensors are. Computation follows its operands. */
import { DeviceError } from "./errors.ts";
import { openDevice, setHome } from "./trace.ts";
import { flatten, unflatten } from "./tree.ts";
import { remoteOf, Tensor, type Value } from "./value.ts";

/**
 * Chooses the device on which new tensors are made; "cpu" at first. Tensors that exist stay where they are, and
 * computation follows its operands: one operand on a GPU is enough, and tensors of the host join it there.
 *
 * Shapes: none.
 *
 * @throws {DeviceError} if the device is not open
 * @example The device of the host
 * ```ts
 * ct.setDefaultDevice("cpu");
 * assert(ct.tensor([1]).device === "cpu");
 * ```
 * @since 0.3.0
 */
export function setDefaultDevice(device: string): void {
  setHome(openDevice(device));
}

/**
 * The same tree with its tensors on a device; all that come from one device come in one transfer.
 *
 * Shapes: as `tree`.
 * Units: none.
 *
 * @throws {DeviceError} if the device is not open, lost, or has no room or no such element type
 * @example To where it is
 * ```ts
 * const { w } = await ct.devicePut({ w: ct.tensor([1, 2]) }, "cpu");
 * assertClose(w, [1, 2]);
 * ```
 * @since 0.3.0
 */
export async function devicePut<T>(tree: T, device: string): Promise<T> {
  const target = openDevice(device);
  const [leaves, def] = flatten(tree);
  const moving = leaves.filter((x) => x.device !== device);
  const moved = new Map<Value, Tensor>();
  const toHost = await fetched(moving);
  for (const x of moving) moved.set(x, toHost.get(x) ?? asTensor(x));
  if (target?.transfers) for (const [x, host] of moved) moved.set(x, target.transfers.put(host));
  return unflatten(
    def,
    leaves.map((x) => moved.get(x) ?? x),
  ) as T;
}

function asTensor(x: Value): Tensor {
  if (x instanceof Tensor) return x;
  throw new DeviceError(
    "invalid",
    String(x.aval),
    `Cannot put ${x.aval} on a device: it is traced, a tensor is needed; call devicePut outside the function`,
  );
}

/**
 * The same tensors on the host, at once; those that come from one device come in one transfer.
 *
 * @throws {DeviceError} where the host cannot wait for the device
 */
export function fetchSync(values: readonly Value[]): Value[] {
  const results = new Map<Value, Tensor>();
  for (const [name, xs] of byDevice(values)) {
    pairUp(results, xs, openDevice(name)!.transfers!.toHostSync(xs));
  }
  return values.map((x) => results.get(x) ?? x);
}

/** The one element of each value, as `item` gives it, in one transfer. */
export function itemsOf(values: readonly Value[]): number[] {
  return fetchSync(values).map((x) => x.item());
}

/** The tensors that devices hold, on the host. */
async function fetched(values: readonly Value[]): Promise<Map<Value, Tensor>> {
  const results = new Map<Value, Tensor>();
  for (const [name, xs] of byDevice(values)) {
    pairUp(results, xs, await openDevice(name)!.transfers!.toHost(xs));
  }
  return results;
}

/** The tensors that devices hold, by device. */
function byDevice(values: readonly Value[]): Map<string, Tensor[]> {
  const remote = values.map(asTensor).filter((x) => remoteOf(x) !== null);
  return Map.groupBy(remote, (x) => x.device);
}

function pairUp(results: Map<Value, Tensor>, xs: readonly Tensor[], hosts: readonly Tensor[]): void {
  xs.forEach((x, i) => {
    results.set(x, hosts[i]!);
  });
}
