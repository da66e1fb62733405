/**
 * Runs over sockets and processes, imported as `cotangent/bun`: they need Bun when they are called, and nothing of it
 * when they are loaded. Saves in files, which every runtime can make, are here because such runs want them.
 */
export {
  type Address,
  addressFromEnvironment,
  runSockets,
  type ServeOptions,
  type SocketOptions,
  type SocketResult,
  type SpawnOptions,
  serveWorker,
  spawnBun,
  type Traffic,
  type WorkerProcess,
} from "./bun.ts";
export { fileStore } from "./file_store.ts";
