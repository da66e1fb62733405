/** A worker process of a test: `toy_worker.ts <rank> <folder> <toy as JSON>`, the address in the environment. */
import "../../../core/backends/select.ts";
import { addressFromEnvironment, serveWorker } from "../../../dist/runtime/bun.ts";
import { fileStore } from "../../../dist/runtime/file_store.ts";
import { type Toy, toySetup } from "./toy.ts";

const rank = Number(process.argv[2]);
const { setup } = toySetup(JSON.parse(process.argv[4]!) as Toy);
await serveWorker({
  rank,
  address: addressFromEnvironment(),
  config: setup.config,
  jobs: setup.jobs.worker(rank),
  store: fileStore(process.argv[3]!),
  deadlineMs: 2000,
});
process.exit(0);
