/** Wrong command lines: what is said, the exit code, and that nothing is left behind. */

import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseTrainFlags, trainFlags, UsageError } from "../../cli/config.ts";
import { type Ended, PLAIN, SMALL, summaryOf, withPrograms, words } from "./program_support.ts";

// Many programs are started, one after the other.
setDefaultTimeout(120_000);

/** Runs commands one after the other in an empty directory, in which nothing may appear. */
async function refused(
  commands: readonly (readonly string[])[],
  check: (ended: Ended, args: readonly string[]) => void,
  env: Readonly<Record<string, string>> = {},
): Promise<void> {
  await withPrograms(async (dir, start) => {
    for (const args of commands) {
      check(await start(args, env).ended, args);
      expect(readdirSync(dir)).toEqual([]);
    }
  });
}

/** For every flag a value that it does not take, and what the message must name as allowed. */
const wrong: Readonly<Record<string, readonly [value: string, allowed: RegExp]>> = {
  data: ["imagenet", /one of glyphs, fashion-mnist, mnist, cifar10, libsvm, csv is needed/],
  "data-dir": ["", /--data-dir VALUE is needed/],
  "data-file": ["", /--data-file VALUE is needed/],
  "label-column": ["", /--label-column VALUE is needed/],
  features: ["0", /a whole number of at least 1 is needed/],
  "train-limit": ["1.5", /a whole number is needed/],
  "test-limit": ["many", /a whole number is needed/],
  model: ["rnn", /one of mlp, cnn, logistic is needed/],
  hidden: ["64,,2", /sizes such as 64 or 128,64 are needed/],
  l2: ["-1", /a number of at least 0 is needed/],
  optimizer: ["lion", /one of sgd, momentum, .*, fosi-adam, dho2, div-adam, .*, demo is needed/],
  lr: ["0", /a positive number is needed/],
  alpha: ["fast", /a positive number is needed/],
  clip: ["0.5", /a number of at least 1 is needed/],
  k: ["-2", /a whole number of at least 1 is needed/],
  "curvature-every": ["0", /a whole number of at least 1 is needed/],
  "curvature-warmup": ["-1", /a whole number of at least 0 is needed/],
  "curvature-batch": ["x", /a whole number is needed/],
  "curvature-workers": ["0", /a whole number of at least 1 is needed/],
  "curvature-delay": ["-1", /a whole number of at least 0 is needed/],
  late: ["never", /one of wait, keep-old is needed/],
  "precondition-every": ["0", /a whole number of at least 1 is needed/],
  damping: ["0", /a positive number is needed/],
  distribution: ["even", /one of eigenpairs, gradients is needed/],
  admm: ["on", /one of consensus, published, off is needed/],
  layout: ["diagonals", /one of replicated, rows, columns is needed/],
  sigma: ["-0.1", /a number of at least 0 is needed/],
  ratio: ["0.5", /a number of at least 1 is needed/],
  period: ["0", /a whole number of at least 1 is needed/],
  delay: ["-1", /a whole number of at least 0 is needed/],
  "average-momentum": ["maybe", /one of yes, no is needed/],
  "variance-every": ["0", /a whole number of at least 1 is needed/],
  "flush-at-end": ["maybe", /one of yes, no is needed/],
  "residual-weight": ["1.5", /a number from 0 to 1 is needed/],
  "dense-steps": ["0", /a whole number of at least 1 is needed/],
  compressor: ["gzip", /one of block, topk, randomk, sign, qsgd, half, powersgd is needed/],
  "update-compressor": ["gzip", /one of none, block, topk, randomk, sign, qsgd, half, powersgd is needed/],
  "update-ratio": ["0.5", /a number of at least 1 is needed/],
  background: ["int4", /one of float32, int16 is needed/],
  schedule: ["stairs", /one of constant, cosine is needed/],
  partition: ["halves", /iid, dirichlet:ALPHA, shards:CLASSES or exdir:CLASSES:ALPHA is needed/],
  "local-steps": ["0", /a whole number of at least 1 is needed/],
  workers: ["65", /a whole number from 1 to 64 is needed/],
  steps: ["ten", /a whole number is needed/],
  epochs: ["Infinity", /a positive number is needed/],
  batch: ["0", /a whole number of at least 1, or full, is needed/],
  "eval-every": ["0", /a whole number of at least 1 is needed/],
  seed: ["0.5", /a whole number is needed/],
  runtime: ["threads", /one of sockets, local is needed/],
  device: ["tpu", /one of cpu, webgpu is needed/],
  port: ["65536", /a whole number from 0 to 65535 is needed/],
  host: ["", /--host VALUE is needed/],
  launch: ["", /--launch VALUE is needed/],
  out: ["", /--out VALUE is needed/],
  resume: ["", /--resume VALUE is needed/],
};

test("a wrong value is named with its flag and with what is allowed, for every flag", () => {
  expect(Object.keys(wrong).sort()).toEqual(Object.keys(trainFlags).sort());
  for (const [name, [value, allowed]] of Object.entries(wrong)) {
    for (const args of [[`--${name}`, value], [`--${name}=${value}`]]) {
      expect(() => parseTrainFlags(args)).toThrow(UsageError);
      expect(() => parseTrainFlags(args)).toThrow(new RegExp(`^Cannot use --${name}[ :].*${value}`));
      expect(() => parseTrainFlags(args)).toThrow(allowed);
    }
  }
});

test("the program lists all wrong values at once, exits with 2 and writes nothing", async () => {
  const bad = Object.entries(wrong).filter(([name, [value]]) => value !== "" && name !== "epochs");
  await refused([["train", ...bad.flatMap(([name, [value]]) => [`--${name}`, value])]], (ended) => {
    expect(ended.code).toBe(2);
    expect(ended.out).toBe("");
    const lines = ended.err.trimEnd().split("\n");
    expect(lines.length).toBe(bad.length);
    bad.forEach(([name, [value, allowed]], i) => {
      expect(lines[i]).toStartWith(`Cannot use --${name} ${value}: `);
      expect(lines[i]).toMatch(allowed);
    });
  });
});

test("wrong words are named, and slips get a suggestion", async () => {
  const cases: readonly (readonly [args: string, message: RegExp])[] = [
    [
      "trian",
      /^Cannot run "trian": it is not a command, one of train, report, compare, federated, worker, contender is needed$/,
    ],
    ["train --wrokers 3", /^Cannot use "--wrokers": .* did you mean --workers\?/],
    ["train --optimiser adam", /did you mean --optimizer\?/],
    ["train --localsteps=3", /did you mean --local-steps\?/],
    ["train --quantum 3", /^Cannot use "--quantum": it is not a flag; see --help for the flags$/],
    ["train adam", /^Cannot use "adam": it is not a flag; see --help/],
    ["train --lr", /^Cannot use --lr: its value is missing/],
    ["train --lr --k 3", /^Cannot use --lr: its value is missing/],
    ["train --seed=", /^Cannot use --seed: its value is missing/],
    ["train --steps 5 --epochs 2", /^Cannot use --steps with --epochs: .* one of them is needed$/],
    ["train --admm published --sigma 0", /^Cannot use --sigma 0 with --admm published: /],
    ["train --resume nowhere", /^Cannot use the run in nowhere: nowhere\/config\.json does not exist/],
    ["train --train-limit 3 --workers 8", /^Cannot use --workers 8: there are 3 training examples/],
    [
      "train --train-limit 3 --curvature-workers 8",
      /^Cannot use --curvature-workers 8: there are 3 training examples/,
    ],
    [
      "train --partition shards:11",
      /^Cannot use --partition shards:11: .* there are 10 classes, from 1 to 10 for each client/,
    ],
    ["report", /^Cannot report: no run directory is given, at least one is needed$/],
    ["report nowhere", /^Cannot report the run in nowhere: nowhere\/summary\.json does not exist/],
    ["report --title x", /^Cannot use "--title": it is not a flag/],
    ["report --out", /^Cannot use --out: its value is missing/],
    ["report nowhere --out a/b.html", /^Cannot use --out a\/b\.html: the directory a does not exist/],
    ["worker", /^Cannot run a worker: --run DIR and --rank N are needed; train starts workers by itself$/],
  ];
  let i = 0;
  await refused(
    cases.map(([args]) => words(args)),
    (ended) => {
      expect(ended.err.trimEnd()).toMatch(cases[i++]![1]);
      expect(ended).toMatchObject({ code: 2, out: "" });
    },
  );
});

test("a place that is taken is not written to", async () => {
  await withPrograms(async (dir, start) => {
    mkdirSync(join(dir, "full"));
    writeFileSync(join(dir, "full", "thesis.txt"), "");
    writeFileSync(join(dir, "file"), "");
    const full = await start(["train", ...SMALL, "--out", "full"]).ended;
    expect(full.err).toMatch(/^Cannot use --out full: the directory is not empty, .* use --resume full/);
    const file = await start(["train", ...SMALL, "--out", "file"]).ended;
    expect(file.err).toMatch(/^Cannot use --out file: it is a file, a directory is needed\n$/);
    const below = await start(["train", ...SMALL, "--out", "file/run"]).ended;
    expect(below.err).toMatch(/Cannot make the directory file\/run: .* --out DIR names another\n$/);
    expect([full.code, file.code, below.code]).toEqual([2, 2, 2]);
    expect(readdirSync(dir).sort()).toEqual(["file", "full"]);
    expect(readdirSync(join(dir, "full"))).toEqual(["thesis.txt"]);
  });
});

test("data that cannot be downloaded: the error names each file, its place and its source", async () => {
  await withPrograms(async (dir, start) => {
    const cache = join(dir, "cache");
    // Nobody listens on port 9 of this machine, so nothing outside is asked.
    const proxy = "http://127.0.0.1:9";
    const { code, err } = await start(["train", "--data", "fashion-mnist", ...SMALL], {
      COTANGENT_CACHE: cache,
      http_proxy: proxy,
      https_proxy: proxy,
      HTTP_PROXY: proxy,
      HTTPS_PROXY: proxy,
      no_proxy: "",
      NO_PROXY: "",
    }).ended;
    expect(code).toBe(1);
    expect(err).toMatch(/^Cannot load fashion-mnist: .*--data-dir/);
    for (const part of ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"]) {
      expect(err).toContain(`  ${join(cache, "fashion-mnist", `${part}-ubyte.gz`)}\n    from http`);
    }
    expect(readdirSync(dir)).toEqual(["cache"]);
  });
});

test("data that does not fit: what is missing, and no run directory", async () => {
  await withPrograms(async (dir, start) => {
    mkdirSync(join(dir, "data"));
    const missing = await start(words("train --data mnist --data-dir data")).ended;
    expect(missing.code).toBe(1);
    for (const part of ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"]) {
      expect(missing.err).toContain(`${part}-ubyte.gz`);
    }
    writeFileSync(
      join(dir, "data", "pairs.txt"),
      Array.from({ length: 40 }, (_, i) => `${i % 2} 1:${i} 3:1\n`).join(""),
    );
    const cnn = await start(words("train --data libsvm --data-dir data --model cnn")).ended;
    expect(cnn.code).toBe(2);
    expect(cnn.err).toMatch(/^Cannot train a cnn on .*images are needed; use --model mlp\n$/);
    const none = await start(words("train --data csv")).ended;
    expect(none.err).toMatch(/^Cannot load csv data: .*--data-dir/);
    expect(readdirSync(dir)).toEqual(["data"]);
  });
});

test("a device that cannot be opened: the reason, and no run directory, old or new", async () => {
  await withPrograms(async (dir, start) => {
    // Bun has no GPU of its own, on any machine.
    const none = { COTANGENT_WEBGPU: "navigator" };
    const fresh = await start(["train", ...SMALL, ...words("--device webgpu --out run")], none).ended;
    expect(fresh.err).toMatch(/^Cannot open WebGPU: no provider works \(navigator: .*\), one is needed/);
    expect(fresh).toMatchObject({ code: 1, out: "" });
    expect(readdirSync(dir)).toEqual([]);

    const plain = words("--runtime local --steps 10 --optimizer sgd --out run");
    expect((await start(["train", ...PLAIN, ...plain]).ended).code).toBe(0);
    const config = readFileSync(join(dir, "run", "config.json"), "utf8");
    const resumed = await start(words("train --resume run --steps 20 --device webgpu"), none).ended;
    expect(resumed.err).toStartWith("Cannot open WebGPU: ");
    expect(resumed.code).toBe(1);
    expect(readFileSync(join(dir, "run", "config.json"), "utf8")).toBe(config);
    // A run of a version without devices goes on where it was.
    const { device: _, ...earlier } = JSON.parse(config) as Record<string, unknown>;
    writeFileSync(join(dir, "run", "config.json"), JSON.stringify(earlier));
    expect((await start(words("train --resume run --steps 20"), none).ended).code).toBe(0);
    expect(summaryOf(join(dir, "run"))).toMatchObject({ device: "cpu", steps: 20 });
  });
});

test("a flag that would change nothing is refused, with what it needs", async () => {
  await withPrograms(async (dir, start) => {
    const idle: readonly (readonly [flags: string, message: RegExp])[] = [
      [
        "--optimizer adam --k 3",
        /^Cannot use --k: it would change nothing, --optimizer fosi-\* or dho2 is needed$/m,
      ],
      ["--optimizer fosi-hb --admm published", /^Cannot use --admm: .* --optimizer dho2 is needed$/m],
      ["--layout rows", /^Cannot use --layout: .* with --admm published or off/],
      ["--optimizer adam --layout rows", /^Cannot use --layout: .* for rows one with curvature is needed$/m],
      ["--optimizer kfac --layout columns", /^Cannot use --layout: .* a method of vectors .* is needed$/m],
      ["--optimizer shampoo --damping 1", /^Cannot use --damping: .* --optimizer kfac is needed$/m],
      [
        "--optimizer adam --precondition-every 5",
        /^Cannot use --precondition-every: .* --optimizer shampoo or kfac is needed$/m,
      ],
      ["--admm off --sigma 1", /^Cannot use --sigma: .* with --admm consensus or published is needed$/m],
      ["--model logistic --hidden 5", /^Cannot use --hidden: .* --model mlp is needed$/m],
      ["--data-dir .", /^Cannot use --data-dir: .* another --data than glyphs is needed$/m],
      ["--runtime local --port 0", /^Cannot use --port: .* --runtime sockets is needed$/m],
      [
        "--optimizer ef --compressor sign --ratio 4",
        /^Cannot use --ratio: .* with --compressor block, topk or randomk is needed$/m,
      ],
    ];
    for (const [flags, message] of idle) {
      const { code, err } = await start(["train", ...words(flags)]).ended;
      expect(err).toMatch(message);
      expect(code).toBe(2);
    }
    expect(readdirSync(dir)).toEqual([]);
  });
});
