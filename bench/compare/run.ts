/**
 * This library against jax-js, TensorFlow.js, PyTorch, OpenBLAS, onnxruntime and the machine, in one interleaved run:
 *
 *     cd bench/compare && npm install && bun run.ts
 *
 * --only matmul,softmax     works whose names start so
 * --engines cotangent,jax   families or single engines
 * --rounds 5                samples of each engine on each work
 * --retries 0               further samples of a round while other processes disturb them
 * --json out.json           the samples as well, written after each work
 * --table out.json          measure nothing, print the table of an earlier run
 *
 * For each work every engine prepares its inputs, shows a result (which is compared with plain float64 loops) and warms
 * up; then the rounds go through all engines in turn. One process works at a time. Markdown goes to standard output,
 * progress to standard error.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";
import { parseArgs } from "node:util";
import { bestCoreType, Child, type Engine, engines } from "./engines.ts";
import { expected } from "./reference.ts";
import { measure, minutes, names, say, wholeNumber } from "./session.ts";
import { type Cell, markdown, type Run } from "./table.ts";
import { groups } from "./works.ts";

const { values: options } = parseArgs({
  options: {
    only: { type: "string", default: "" },
    engines: { type: "string", default: "" },
    rounds: { type: "string", default: "5" },
    retries: { type: "string", default: "0" },
    json: { type: "string" },
    table: { type: "string" },
  },
});
const rounds = wholeNumber("rounds", options.rounds, 1);
const retries = wholeNumber("retries", options.retries, 0);

async function runAll(): Promise<Run> {
  if (!existsSync(new URL("./node_modules/mitata", import.meta.url))) {
    throw new Error(
      'Cannot compare: the other libraries are not installed, "npm install" in bench/compare is needed',
    );
  }
  const only = names(options.only);
  const wanted = names(options.engines);
  const works = groups
    .flatMap((group) => group.works)
    .filter(({ id }) => only.length === 0 || only.some((start) => id.startsWith(start)));
  const isWanted = ({ id, family }: Engine): boolean =>
    wanted.length === 0 || wanted.includes(id) || wanted.includes(family);
  say("which kernels OpenBLAS runs best with...");
  const coreType = await bestCoreType();
  const children = engines(coreType)
    .filter(isWanted)
    .map((engine) => new Child(engine));
  if (works.length === 0 || children.length === 0) {
    throw new Error(
      `Cannot measure: works [${options.only}] and engines [${options.engines}] select nothing, names of both are needed`,
    );
  }
  const cells: Cell[] = [];
  const result = (): Run => ({
    machine: `${cpus()[0]?.model.trim() ?? "?"}, ${availableParallelism()} cores, Bun ${Bun.version}, OpenBLAS kernels ${coreType ?? "as found"}`,
    rounds,
    engines: children.map(({ engine: { id, family, label } }) => ({ id, family, label })),
    cells,
  });
  const start = performance.now();
  for (const [i, work] of works.entries()) {
    cells.push(...(await measure(work, children, { rounds, retries, expected })));
    if (options.json) writeFileSync(options.json, JSON.stringify(result(), null, 1));
    const spent = (performance.now() - start) / 1000;
    say(
      `${i + 1}/${works.length} ${work.id}: ${minutes(spent)} spent, about ${minutes((spent / (i + 1)) * (works.length - i - 1))} left`,
    );
  }
  for (const child of children) child.stop();
  return result();
}

const run: Run = options.table ? JSON.parse(readFileSync(options.table, "utf8")) : await runAll();
console.log(markdown(run));
