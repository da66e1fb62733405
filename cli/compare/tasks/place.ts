/** Where the files of a data set are. */
import { stat } from "node:fs/promises";
import { join } from "node:path";

/** The folder `name` in a directory of data sets, or the directory itself if it has no such folder. */
export async function placeOf(dataDir: string, name: string): Promise<string> {
  const folder = join(dataDir, name);
  const isFolder = await stat(folder).then(
    (found) => found.isDirectory(),
    () => false,
  );
  return isFolder ? folder : dataDir;
}
