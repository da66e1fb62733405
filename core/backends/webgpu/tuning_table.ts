/** What was found by trying on one adapter: which way to compute a product is the fastest. */
import type { TuningChoice, TuningTable } from "../../backend.ts";
import type { Variant } from "./kernel.ts";

/** Of files: tables in another form, or of shaders that have changed since, are not read. */
const FORMAT = 1;

export class ChoiceTable implements TuningTable {
  readonly adapter: string;
  readonly path: string | null;
  readonly notes: string[] = [];
  /** Grows whenever a choice changes: programs that were made with another one are made again. */
  version = 0;
  readonly #choices = new Map<string, TuningChoice>();

  constructor(adapter: string, path: string | null) {
    this.adapter = adapter;
    this.path = path;
  }

  get choices(): Readonly<Record<string, TuningChoice>> {
    return Object.fromEntries([...this.#choices].sort(([a], [b]) => (a < b ? -1 : 1)));
  }

  has(key: string): boolean {
    return this.#choices.has(key);
  }

  set(key: string, choice: TuningChoice): void {
    const isNew = (this.#choices.get(key)?.variant ?? choice.usual) !== choice.variant;
    this.#choices.set(key, choice);
    if (isNew) this.version += 1;
  }

  /** The variant that was the fastest, where it is one of these; else the first. */
  choose<V extends Variant>(key: string, variants: readonly V[]): V {
    const wanted = this.#choices.get(key)?.variant;
    return variants.find(({ name }) => name === wanted) ?? variants[0]!;
  }

  note(text: string): void {
    if (!this.notes.includes(text)) this.notes.push(text);
  }

  /** The text of the file, with what another process has found and this one has not tried. */
  encode(others: ReadonlyMap<string, TuningChoice>): string {
    const choices = Object.fromEntries([...others, ...this.#choices].sort(([a], [b]) => (a < b ? -1 : 1)));
    return `${JSON.stringify({ format: FORMAT, adapter: this.adapter, choices }, null, 1)}\n`;
  }

  /**
   * The choices of a file.
   *
   * @throws {SyntaxError} if it is none of this adapter
   */
  decode(text: string): Map<string, TuningChoice> {
    const { format, adapter, choices } = record(JSON.parse(text));
    if (format !== FORMAT || adapter !== this.adapter) {
      throw new SyntaxError(
        `Cannot read a table: it is of format ${format} and adapter ${JSON.stringify(adapter)}, ${FORMAT} and ${JSON.stringify(this.adapter)} are needed`,
      );
    }
    return new Map(
      Object.entries(record(choices)).map(([key, choice]): [string, TuningChoice] => {
        const { variant, microseconds, usual, usualMicroseconds } = record(choice);
        return [
          key,
          {
            variant: word(variant),
            microseconds: number(microseconds),
            usual: word(usual),
            usualMicroseconds: number(usualMicroseconds),
          },
        ];
      }),
    );
  }

  toString(): string {
    const rows = Object.entries(this.choices).map(
      ([key, { variant, microseconds, usual, usualMicroseconds }]) => [
        key,
        variant,
        microseconds.toFixed(1),
        usual,
        usualMicroseconds.toFixed(1),
        `${(usualMicroseconds / microseconds).toFixed(2)}x`,
      ],
    );
    const head = ["product", "fastest", "us", "usual", "us", "gain"];
    const all = rows.length === 0 ? [] : [head, ...rows];
    const widths = head.map((_, c) => Math.max(0, ...all.map((row) => row[c]!.length)));
    const isNumber = (c: number): boolean => c === 2 || c === 4 || c === 5;
    const lines = all.map((row) =>
      row
        .map((cell, c) => (isNumber(c) ? cell.padStart(widths[c]!) : cell.padEnd(widths[c]!)))
        .join("  ")
        .trimEnd(),
    );
    return [
      `tuning of ${this.adapter}: ${rows.length} products, ${this.path ?? "not kept in a file"}`,
      ...lines,
      ...this.notes.map((note) => `note: ${note}`),
    ].join("\n");
  }
}

function record(value: unknown): Readonly<Record<string, unknown>> {
  if (typeof value === "object" && value !== null && !Array.isArray(value))
    return value as Readonly<Record<string, unknown>>;
  throw new SyntaxError(`Cannot read a table: it holds ${JSON.stringify(value)}, an object is needed`);
}

function word(value: unknown): string {
  if (typeof value === "string") return value;
  throw new SyntaxError(`Cannot read a table: it holds ${JSON.stringify(value)}, a text is needed`);
}

function number(value: unknown): number {
  if (typeof value === "number" && value > 0) return value;
  throw new SyntaxError(
    `Cannot read a table: it holds ${JSON.stringify(value)}, a positive number is needed`,
  );
}
