/** The namespace `tree`: what people do with trees of tensors. */
export { ravel } from "./ravel.ts";
export { flatten, leaves, map, paths, type TreeDef, unflatten } from "./tree.ts";
