/** `cotangent report`: one page for several runs. */
import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { readFlags, UsageError } from "./config.ts";
import { writeReport } from "./report.ts";

export const reportHelp = `Usage: cotangent report DIR [DIR ...] [--out FILE]

Writes one self-contained page with the curves of the runs in the given directories.

  --out FILE                  where to write it (default report.html)`;

/** Runs `report` and returns the exit code. */
export async function reportCommand(args: readonly string[]): Promise<number> {
  const directories: string[] = [];
  const flags: string[] = [];
  for (let i = 0; i < args.length; i++) {
    if (!args[i]!.startsWith("-")) directories.push(args[i]!);
    // A flag takes the next word with it.
    else flags.push(...(args[i]!.includes("=") ? [args[i]!] : args.slice(i, ++i + 1)));
  }
  const { out = "report.html" } = readFlags(flags, { out: true });
  if (directories.length === 0)
    throw new UsageError("Cannot report: no run directory is given, at least one is needed");
  if (!existsSync(dirname(out)))
    throw new UsageError(
      `Cannot use --out ${out}: the directory ${dirname(out)} does not exist, an existing one is needed`,
    );
  await writeReport(out, directories);
  process.stdout.write(`${out}\n`);
  return 0;
}
