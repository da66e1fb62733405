/**
 * The library in a browser: the bundle asks for nothing that only a server has, and headless Chromium trains on its GPU
 * as Bun does on the processor. Where no browser starts, or it has no adapter, the tests are skipped and the reason is
 * printed; with COTANGENT_NEED_WEBGPU=1, as in CI, that is a failure.
 */
import { describe, expect, test } from "bun:test";
import { basename, join } from "node:path";
import { openPage, type Page } from "../../tools/chromium.ts";
import { assertNumbersClose } from "../support/tolerance.ts";
import { type Answer, EVERY, losses } from "./page.ts";

const root = join(import.meta.dir, "../..");
const ANSWER_TIMEOUT_MS = 90_000;
/** Two hundred steps of Adam carry the differences of two devices on; measured: 2e-6. */
const STEPS_TOLERANCE = { relative: 1e-4 };

/** The files of a bundle for browsers, by name. */
async function bundle(entry: string, minify = false): Promise<ReadonlyMap<string, Blob>> {
  const { outputs } = await Bun.build({ entrypoints: [join(root, entry)], target: "browser", minify });
  return new Map(outputs.map((one) => [basename(one.path), one as Blob]));
}

// --------------------------------------------------------------------------------------------------- the bundle

test("the bundle imports no module of a server, nor a stand-in for one", async () => {
  const [file] = (await bundle("mod.ts")).values();
  const text = await file!.text();
  expect(text).toContain("// core/trace.ts"); // files are told apart by such lines, also those that the bundler adds
  expect(text.match(/^\/\/ (?:node|bun):.*$/gm)).toBeNull();
  expect(new Bun.Transpiler({ loader: "js" }).scanImports(text)).toEqual([]);
  const [small] = (await bundle("mod.ts", true)).values();
  const compressed = Bun.gzipSync(await small!.arrayBuffer(), { level: 9 });
  console.log(`bundle: ${small!.size} bytes, ${compressed.length} compressed`);
  expect(compressed.length).toBeLessThan(300_000);
});

// --------------------------------------------------------------------------------------------------- the browser

/** Tells the server what goes wrong before the program of a page runs. */
const ON_ERROR = `<script>
  addEventListener("error", ({ message }) =>
    fetch("/answer", { method: "POST", body: JSON.stringify({ error: message }) }));
</script>`;

/** What the page said, or why there was no browser to open it. */
interface Visit<A> {
  readonly answer?: A;
  readonly reason?: string;
}

/** Serves files to a page of the browser until it answers. */
async function visit<A>(path: string, files: ReadonlyMap<string, Blob>): Promise<Visit<A>> {
  const { promise, resolve, reject } = Promise.withResolvers<Visit<A>>();
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request) {
      const name = basename(new URL(request.url).pathname);
      if (name === "answer") resolve({ answer: (await request.json()) as A });
      const file = files.get(name);
      return new Response(file ?? null, { status: file === undefined && name !== "answer" ? 404 : 200 });
    },
  });
  let page: Page | null = null;
  const late = setTimeout(() => reject(new Error(`no answer in ${ANSWER_TIMEOUT_MS} ms`)), ANSWER_TIMEOUT_MS);
  try {
    page = openPage(new URL(path, server.url).href);
    void page.ended.then((words) => resolve({ reason: `the browser ended: ${words}` }));
  } catch (error) {
    resolve({ reason: error instanceof Error ? error.message : String(error) });
  }
  try {
    return await promise;
  } finally {
    clearTimeout(late);
    await page?.close();
    await server.stop(true);
  }
}

const html = (text: string): Blob => new Blob([text], { type: "text/html" });

const pageFiles = new Map(await bundle("tests/browser/page.ts"));
pageFiles.set("index.html", html(`${ON_ERROR}<script type="module" src="page.js"></script>`));
const { answer: told, reason: missing } = await visit<Answer>("index.html", pageFiles);
/** Why there is nothing to test. */
const reason: string | null = missing ?? (told!.isAbsent ? told!.error : null);
if (reason === null) console.log(`browser: Chromium, ${told!.adapter}`);
else console.log(`skipped: browser: ${reason}`);

test("a browser with WebGPU is there, or tests were skipped", () => {
  if (process.env["COTANGENT_NEED_WEBGPU"] === "1") expect(reason).toBeNull();
});

/** What the page of the example tells in its element "status". */
interface Shown {
  readonly end?: string;
  readonly loss?: string;
}

describe.skipIf(reason !== null)("in a browser", () => {
  test("the GPU agrees with the reference", () => {
    expect(told!.error).toBeNull();
    console.log(`browser: ${told!.compared} results agree; on the processor: ${told!.processor["products"]}`);
    expect(told!.compared).toBeGreaterThan(100);
  });

  test("training on its GPU and on its processor ends where Bun does", async () => {
    const expected = await losses("cpu");
    expect(expected.at(-1)!).toBeLessThan(expected[0]! / 10);
    for (const device of ["cpu", "webgpu"] as const) {
      assertNumbersClose(told!.losses[device], expected, `losses on ${device} in a browser`, STEPS_TOLERANCE);
    }
  });

  test("the page of the example trains and says how far it came", async () => {
    const files = new Map(await bundle("examples/browser/index.html"));
    const watch = `${ON_ERROR}<script>
      const { dataset } = document.getElementById("status");
      new MutationObserver(() => {
        if (dataset.end) fetch("/answer", { method: "POST", body: JSON.stringify(dataset) });
      }).observe(document.getElementById("status"), { attributes: true });
    </script>`;
    files.set(
      "index.html",
      html((await files.get("index.html")!.text()).replace("</body>", `${watch}</body>`)),
    );
    const { answer: shown } = await visit<Shown>(`index.html?steps=${EVERY}`, files);
    expect(shown).toMatchObject({ end: "well" });
    assertNumbersClose(
      [Number(shown!.loss)],
      [told!.losses.cpu[0]!],
      "the loss of the page",
      STEPS_TOLERANCE,
    );
  });
});
