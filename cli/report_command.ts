/** `cotangent report`: one page for several runs. */
import { UsageError } from "./config.ts";
import { writeReport } from "./report.ts";

export const reportHelp = `Usage: cotangent report DIR [DIR ...] [--out FILE]

Writes one self-contained page with the curves of the runs in the given directories.

  --out FILE                  where to write it (default report.html)`;

/** Runs \`report\` and returns the exit code. */
export async function reportCommand(args: readonly string[]): Promise<number> {
  const at = args.indexOf("--out");
  const out = at < 0 ? "report.html" : args[at + 1];
  const directories = at < 0 ? args : args.toSpliced(at, 2);
  if (out === undefined) throw new UsageError("Cannot use --out: its value is missing, --out FILE is needed");
  const flag = directories.find((word) => word.startsWith("-"));
  if (flag !== undefined)
    throw new UsageError(`Cannot use "${flag}": it is not a flag of report, only --out is`);
  if (directories.length === 0)
    throw new UsageError("Cannot report: no run directory is given, at least one is needed");
  await writeReport(out, directories);
  process.stdout.write(`${out}\n`);
  return 0;
}
