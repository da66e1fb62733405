/** What a compiled function was made for: the structure of its arguments, the tensors by shape and element type. */
import type { Aval } from "../core/aval.ts";
import { dataName, isRecord } from "../core/identity.ts";
import { Value } from "../core/value.ts";

/**
 * A node of the arguments. Lists and plain objects are looked into; what else is not a tensor is the same by value, and
 * functions and instances of classes by identity.
 */
export type Signature =
  | {
      readonly k: "tensor";
      /** Replaced by an equal one of the latest call, which is then the same object in the next. */
      aval: Aval;
    }
  | { readonly k: "static"; readonly value: unknown }
  | {
      readonly k: "list";
      readonly items: readonly Signature[];
      /** The list itself where no tensor is in it. */
      readonly whole: unknown;
    }
  | {
      readonly k: "record";
      readonly keys: readonly string[];
      readonly items: readonly Signature[];
      readonly whole: unknown;
    };

/** The signature of a node; its tensors are added to `leaves`. Keys are sorted, as in every tree. */
export function signatureOf(node: unknown, leaves: Value[]): Signature {
  if (node instanceof Value) {
    leaves.push(node);
    return { k: "tensor", aval: node.aval };
  }
  const before = leaves.length;
  const whole = (): unknown => (leaves.length === before ? node : undefined);
  if (Array.isArray(node)) {
    const items = Array.from(node, (item) => signatureOf(item, leaves));
    return { k: "list", items, whole: whole() };
  }
  if (typeof node === "object" && node !== null && isRecord(node)) {
    const keys = Object.keys(node).sort();
    const items = keys.map((key) => signatureOf(node[key], leaves));
    return { k: "record", keys, items, whole: whole() };
  }
  return { k: "static", value: node };
}

/** Whether a node has the signature; if so, its tensors are in `leaves`. The way of every call: nothing is made. */
export function matches(signature: Signature, node: unknown, leaves: Value[]): boolean {
  switch (signature.k) {
    case "tensor": {
      if (!(node instanceof Value)) return false;
      const { aval } = node;
      if (aval !== signature.aval) {
        if (!aval.equals(signature.aval)) return false;
        signature.aval = aval;
      }
      leaves.push(node);
      return true;
    }
    case "static":
      return Object.is(signature.value, node);
    case "list": {
      const { items } = signature;
      if (!Array.isArray(node) || node.length !== items.length) return false;
      for (let i = 0; i < items.length; i++) if (!matches(items[i]!, node[i], leaves)) return false;
      return true;
    }
    case "record": {
      if (typeof node !== "object" || node === null || !isRecord(node)) return false;
      const { keys, items } = signature;
      let count = 0;
      for (const _ in node) count++;
      if (count !== keys.length) return false;
      for (let i = 0; i < keys.length; i++) {
        const key = keys[i]!;
        if (!Object.hasOwn(node, key) || !matches(items[i]!, node[key], leaves)) return false;
      }
      return true;
    }
    default:
      return signature satisfies never;
  }
}

/** Equal texts exactly for equal signatures. */
export function signatureName(signature: Signature): string {
  switch (signature.k) {
    case "tensor":
      return String(signature.aval);
    case "static":
      return dataName(signature.value);
    case "list":
      return `[${signature.items.map(signatureName).join()}]`;
    case "record":
      return `{${signature.items.map((item, i) => `${JSON.stringify(signature.keys[i])}:${signatureName(item)}`).join()}}`;
    default:
      return signature satisfies never;
  }
}

/** The arguments with other tensors in the places of their tensors; parts without tensors are the objects themselves. */
export function filledIn(signature: Signature, leaves: readonly Value[]): unknown {
  let next = 0;
  const build = (node: Signature): unknown => {
    switch (node.k) {
      case "tensor":
        return leaves[next++];
      case "static":
        return node.value;
      case "list":
        return node.whole ?? node.items.map(build);
      case "record":
        return node.whole ?? Object.fromEntries(node.keys.map((key, i) => [key, build(node.items[i]!)]));
      default:
        return node satisfies never;
    }
  };
  return build(signature);
}
