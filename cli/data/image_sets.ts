import type { Dataset } from "./dataset.ts";
import { DataError } from "./dataset.ts";
import type { NamedBytes } from "./idx.ts";
import { idxSplit } from "./idx.ts";
import { readBytes } from "./read_bytes.ts";
import type { RemoteSet } from "./remote_set.ts";
import { findFile } from "./remote_set.ts";

const TRAIN_IMAGES = "train-images-idx3-ubyte.gz";
const TRAIN_LABELS = "train-labels-idx1-ubyte.gz";
const TEST_IMAGES = "t10k-images-idx3-ubyte.gz";
const TEST_LABELS = "t10k-labels-idx1-ubyte.gz";

/** The four standard files at one address, each with its SHA-256. */
function idxFiles(base: string, sha256: Readonly<Record<string, string>>): RemoteSet["files"] {
  return Object.fromEntries(
    Object.entries(sha256).map(([name, hash]) => [name, { url: base + name, sha256: hash }]),
  );
}

/** Images of clothes by Zalando (MIT licence). */
export const fashionMnist: RemoteSet = {
  name: "fashion-mnist",
  files: idxFiles("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", {
    [TRAIN_IMAGES]: "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    [TRAIN_LABELS]: "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    [TEST_IMAGES]: "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    [TEST_LABELS]: "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
  }),
};

/** Images of written digits by LeCun, Cortes and Burges. */
export const mnist: RemoteSet = {
  name: "mnist",
  files: idxFiles("https://ossci-datasets.s3.amazonaws.com/mnist/", {
    [TRAIN_IMAGES]: "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    [TRAIN_LABELS]: "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    [TEST_IMAGES]: "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    [TEST_LABELS]: "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
  }),
};

/** Both sets have ten classes. */
const CLASSES = 10;

/**
 * Loads the four standard IDX files, each packed or not, from `dir`.
 *
 * @throws {DataError} if any is missing (all missing ones are named) or malformed, or the splits differ in shape.
 */
export async function loadIdxSet(
  name: string,
  dir: string,
  limits: { readonly train?: number | undefined; readonly test?: number | undefined } = {},
): Promise<Dataset> {
  const names = [TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS];
  const paths = await Promise.all(names.map((file) => findFile(dir, file)));
  const missing = names.filter((_, i) => paths[i] === undefined);
  if (missing.length > 0) {
    throw new DataError(
      `Cannot load ${name} from "${dir}": ${missing.join(", ")} ${missing.length === 1 ? "is" : "are"} not there, ` +
        "all four files, with or without .gz, are needed",
    );
  }
  const read = async (index: number): Promise<NamedBytes> => ({
    path: paths[index]!,
    bytes: await readBytes(paths[index]!),
  });
  const train = idxSplit(await read(0), await read(1), CLASSES, limits.train);
  const test = idxSplit(await read(2), await read(3), CLASSES, limits.test);
  if (train.shape.join() !== test.shape.join()) {
    throw new DataError(
      `Cannot load ${name} from "${dir}": the training images are [${train.shape}] and the test images ` +
        `[${test.shape}], equal shapes are needed`,
    );
  }
  return { name, exampleShape: train.shape, classes: CLASSES, train: train.split, test: test.split };
}
