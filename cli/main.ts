#!/usr/bin/env bun
import "../core/backends/select.ts";
import { DeviceError, PlanError } from "../core/errors.ts";
/** The command-line program. */
import { compare } from "./compare/command.ts";
import { compareFlags, methodLines as compareMethodLines, taskLines } from "./compare/config.ts";
import { contender } from "./compare/contender.ts";
import { trainFlags, UsageError } from "./config.ts";
import { DataError } from "./data/dataset.ts";
import { exitCodes } from "./ending.ts";
import { federated } from "./federated/command.ts";
import { federatedFlags } from "./federated/config.ts";
import { methodLines } from "./plan.ts";
import { reportCommand, reportHelp } from "./report_command.ts";
import { train } from "./train.ts";
import { worker } from "./worker.ts";

interface Command {
  readonly summary: string;
  readonly help: string;
  run(args: readonly string[]): Promise<number>;
}

/** The flags as aligned lines. */
function flagLines(
  flags: Readonly<Record<string, { readonly value: string; readonly help: string }>>,
): string {
  return Object.entries(flags)
    .map(([name, { value, help }]) => {
      const flag = `  --${name} ${value}`;
      return flag.length < 30 ? `${flag.padEnd(30)}${help}` : `${flag}\n${" ".repeat(30)}${help}`;
    })
    .join("\n");
}

const commands: Readonly<Record<string, Command>> = {
  train: {
    summary: "train a model, by default with DHO2 on two worker processes",
    help: `Usage: cotangent train [flags]

Trains a model and leaves a directory with config.json, plan.txt, metrics.jsonl, summary.json,
checkpoint.safetensors and report.html. Ctrl-C finishes the round, saves, and exits with 130.

${flagLines(trainFlags)}

Rates by method, unless given:
${methodLines()}

Exit codes: 0 done, 1 failed, 2 wrong flags, 130 stopped by Ctrl-C. COTANGENT_CACHE names the directory of
downloads (default ~/.cache/cotangent), COTANGENT_WEBGPU the provider of --device webgpu. A worker process that
has ended is started again at once, one that hangs after four minutes.

Examples:
  cotangent train
  cotangent train --data fashion-mnist --hidden 128 --epochs 5
  cotangent train --optimizer adam --workers 1 --out runs/adam
  cotangent train --model cnn --device webgpu
  cotangent train --resume runs/adam --epochs 20`,
    run: train,
  },
  report: {
    summary: "put the curves of several runs on one page",
    help: reportHelp,
    run: reportCommand,
  },
  compare: {
    summary: "the same task with several methods: time to a target, with its spread over seeds",
    help: `Usage: cotangent compare [flags]

Trains a task with several methods. Each method gets its learning rate from a search, by runs with a seed that is not
compared, and then runs with every seed, in a process of its own. Leaves a directory with config.json, runs.jsonl (every
run with its curve), results.json and report.html. Ctrl-C keeps the runs that are done; --resume goes on.

${flagLines(compareFlags)}

Tasks:
${taskLines()}

Methods, with what can be set and its default:
${compareMethodLines(1)}

With --workers N, designs for N worker processes (time counts from the end of the first round):
${compareMethodLines(2)}

Examples:
  cotangent compare
  cotangent compare --task quadratic-b --optimizers momentum,fosi-momentum --budget steps:500
  cotangent compare --task mlp --optimizers adam,fosi-adam:k=16,shampoo --seeds 3 --budget wall:20
  cotangent compare --task mlp --workers 2 --optimizers adam,momentum,dho2
  cotangent compare --resume runs/compare-mlp --seeds 10`,
    run: compare,
  },
  federated: {
    summary: "clients with examples of their own learn together without giving them away",
    help: `Usage: cotangent federated [flags]

Spreads the training data over clients and trains models by a federated method: one of all clients, with personalized
methods also one of each, and for comparison what each client would have learned alone. Every client is tested on its share
of the test data: of each class the part that it has of the training data. Leaves a directory with config.json,
summary.json (accuracy, bytes and the rest for every client), metrics.jsonl (a line for every round), model.safetensors (the
model of all), clients/client-000.safetensors and so on (own models), checkpoint.safetensors (the server's state) and
report.html. Ctrl-C finishes the round, saves, and exits with 130; --resume goes on from there, with the same results.

Clients of afl that were away come in a later round, if there are more --rounds. Those of --forget leave after the last one; the
accuracy before and after is printed, and how far the model is from one fitted without them. --masked shows that the sum of what
clients send is enough: a round in which it would be that of one client is refused. Its keys come from --seed, so it hides
nothing from who knows that.

${flagLines(federatedFlags)}

Examples:
  cotangent federated
  cotangent federated --method fedavg --rounds 50 --partition shards:2
  cotangent federated --method ditto --lambda 0.1 --absent 0.3 --workers 4
  cotangent federated --resume runs/federated-glyphs-ditto --rounds 40
  cotangent federated --method afl --data fashion-mnist --clients 100 --partition dirichlet:0.1
  cotangent federated --method afl --absent 0.3 --rounds 4 --forget 5,7
  cotangent federated --groups 3 --own-layers all --filters shared
  cotangent federated --method fedacnnl --masked yes`,
    run: federated,
  },
  worker: {
    summary: "run one worker (started by train)",
    help: "Usage: cotangent worker --run DIR --rank N\n\nStarted by train, which tells it by environment where the hub is.",
    run: worker,
  },
  contender: {
    summary: "make one run of a comparison (started by compare)",
    help: "Usage: cotangent contender JSON\n\nStarted by compare, which tells it what to run.",
    run: contender,
  },
};

const overview = `Usage: cotangent COMMAND [flags]

${Object.entries(commands)
  .map(([name, { summary }]) => `  ${name.padEnd(10)}${summary}`)
  .join("\n")}

cotangent COMMAND --help explains a command.`;

/** What the system refuses: a full disk, a file that may not be written, a port in use. */
function isSystemError(error: unknown): error is Error {
  return error instanceof Error && "syscall" in error && "code" in error;
}

async function main(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args;
  if (name === undefined || name === "--help" || name === "-h" || name === "help") {
    process.stdout.write(`${overview}\n`);
    return name === undefined ? exitCodes.usage : exitCodes.done;
  }
  const command = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (!command)
    throw new UsageError(
      `Cannot run "${name}": it is not a command, one of ${Object.keys(commands).join(", ")} is needed`,
    );
  if (rest.includes("--help") || rest.includes("-h")) {
    process.stdout.write(`${command.help}\n`);
    return exitCodes.done;
  }
  return command.run(rest);
}

/** What a person can mend: it is shown without a stack. */
function isForPeople(error: unknown): error is Error {
  const kinds = [UsageError, DataError, PlanError, DeviceError];
  return kinds.some((kind) => error instanceof kind) || isSystemError(error);
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!isForPeople(error)) throw error;
  process.stderr.write(`${error.message}\n`);
  // A plan is made of flags.
  const isUsage = error instanceof UsageError || error instanceof PlanError;
  process.exitCode = isUsage ? exitCodes.usage : exitCodes.failed;
}
