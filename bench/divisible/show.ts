/** Numbers as people read them. */

/** A fraction in percent. */
export const percent = (x: number): string => (100 * x).toFixed(2);

/** Mean and standard deviation over seeds, of one seed the number alone. */
export function spreadOf(x: readonly number[], show: (x: number) => string): string {
  const mean = x.reduce((sum, each) => sum + each, 0) / x.length;
  if (x.length < 2) return show(mean);
  const squares = x.reduce((sum, each) => sum + (each - mean) ** 2, 0);
  return `${show(mean)} ± ${show(Math.sqrt(squares / (x.length - 1)))}`;
}

/** Three significant digits. */
export const kilobytes = (bytes: number): string => `${Number((bytes / 1000).toPrecision(3))} kB`;

/** A row of a table. */
export const row = (cells: readonly (string | number)[]): void => console.log(`| ${cells.join(" | ")} |`);

/** The first row of a table and the line below it. */
export function heading(names: readonly (string | number)[]): void {
  row(names);
  row(names.map(() => "-"));
}

/** Says on standard error how a sequence of runs goes on; `done` and `total` are work in any unit. */
export function progressOf(total: number): (done: number, text: string) => void {
  const start = performance.now();
  return (done, text) => {
    const left = ((performance.now() - start) / 1000) * (total / done - 1);
    console.error(`${text}, ${Math.floor(left / 60)} min ${Math.floor(left % 60)} s left`);
  };
}
