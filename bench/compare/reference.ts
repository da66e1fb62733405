/**
 * What the right answers are: plain loops in float64, sharing nothing with any engine. `expected(work)` gives the
 * numbers that `probe` shows of a right result.
 */
import {
  adam,
  type ConvSpec,
  cnn,
  convInputs,
  convs,
  DISPATCHES,
  longInput,
  mlp,
  type NetworkSpec,
  networkInputs,
  networks,
  probe,
  ROWS,
  rowsCotangent,
  rowsInput,
  SMALL,
  STAGE_CALLS,
  stageMatrix,
  TURNS,
  type Turned,
  uniform,
} from "./inputs.ts";
import { partsOf } from "./works.ts";

type Numbers = ArrayLike<number>;

/** `a[m, k] b[k, n]`, by rows. */
function multiply(a: Numbers, b: Numbers, m: number, k: number, n: number): Float64Array {
  const c = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < k; j++) {
      const x = a[i * k + j]!;
      if (x === 0) continue;
      for (let l = 0; l < n; l++) c[i * n + l]! += x * b[j * n + l]!;
    }
  }
  return c;
}

function transposed(a: Numbers, rows: number, columns: number): Float64Array {
  const t = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) t[j * rows + i] = a[i * columns + j]!;
  return t;
}

interface Windows extends ConvSpec {
  readonly stride: number;
  readonly padding: number;
}
const outputSize = ({ s, stride, padding }: Windows): number =>
  Math.floor((s + 2 * padding - 3) / stride) + 1;

/** The windows of a 3x3 convolution as pairs of positions: in `[n t t, c 9]` and in `x` `[n, c, s, s]`. */
function eachWindowElement(windows: Windows, visit: (column: number, element: number) => void): void {
  const { n, c, s, stride, padding } = windows;
  const t = outputSize(windows);
  for (let row = 0; row < n * t * t; row++) {
    const [image, y, x] = [Math.floor(row / (t * t)), Math.floor(row / t) % t, row % t];
    for (let k = 0; k < c * 9; k++) {
      const [channel, v, u] = [
        Math.floor(k / 9),
        y * stride + (Math.floor(k / 3) % 3) - padding,
        x * stride + (k % 3) - padding,
      ];
      if (v < 0 || u < 0 || v >= s || u >= s) continue;
      visit(row * c * 9 + k, ((image * c + channel) * s + v) * s + u);
    }
  }
}

/** `[n, o, t, t]` from `[n t t, o]`, and back. */
function channelsFirst(a: Numbers, n: number, area: number, o: number): Float64Array {
  const out = new Float64Array(n * area * o);
  for (let i = 0; i < n; i++)
    out.set(
      transposed(Array.prototype.slice.call(a, i * area * o, (i + 1) * area * o), area, o),
      i * area * o,
    );
  return out;
}
const channelsLast = (a: Numbers, n: number, area: number, o: number): Float64Array =>
  channelsFirst(a, n, o, area);

/** A bilinear layer `y = f(x, w)` with its two transposes. */
interface Layer {
  apply(x: Numbers, w: Numbers): Float64Array;
  toInput(ct: Numbers, w: Numbers): Float64Array;
  toWeight(ct: Numbers, x: Numbers): Float64Array;
  /** Elements of the result that share a bias are at `[., outputs, area]`. */
  readonly outputs: number;
  readonly area: number;
}

function convLayer(spec: Windows): Layer {
  const { n, c, s, o } = spec;
  const t = outputSize(spec);
  const [rows, depth, area] = [n * t * t, c * 9, t * t];
  const unrolled = (x: Numbers): Float64Array => {
    const columns = new Float64Array(rows * depth);
    eachWindowElement(spec, (column, element) => {
      columns[column] = x[element]!;
    });
    return columns;
  };
  return {
    outputs: o,
    area,
    apply: (x, w) =>
      channelsFirst(multiply(unrolled(x), transposed(w, o, depth), rows, depth, o), n, area, o),
    toInput(ct, w) {
      const columns = multiply(channelsLast(ct, n, area, o), w, rows, o, depth);
      const dx = new Float64Array(n * c * s * s);
      eachWindowElement(spec, (column, element) => {
        dx[element]! += columns[column]!;
      });
      return dx;
    },
    toWeight: (ct, x) =>
      multiply(transposed(channelsLast(ct, n, area, o), rows, o), unrolled(x), o, rows, depth),
  };
}

function denseLayer(n: number, inputs: number, outputs: number): Layer {
  return {
    outputs,
    area: 1,
    apply: (x, w) => multiply(x, w, n, inputs, outputs),
    toInput: (ct, w) => multiply(ct, transposed(w, inputs, outputs), n, outputs, inputs),
    toWeight: (ct, x) => multiply(transposed(x, n, inputs), ct, inputs, n, outputs),
  };
}

function layersOf({ batch, input, convs, dense }: NetworkSpec): Layer[] {
  const layers: Layer[] = [];
  let [c, s] = input;
  for (const { outputs, stride } of convs) {
    layers.push(convLayer({ n: batch, c, s, o: outputs, stride, padding: 1 }));
    [c, s] = [outputs, Math.ceil(s / stride)];
  }
  let size = c * s * s;
  for (const outputs of dense) {
    layers.push(denseLayer(batch, size, outputs));
    size = outputs;
  }
  return layers;
}

const added = (a: Numbers, b: Numbers): Float64Array => Float64Array.from(a, (x, i) => x + b[i]!);

function withBias(y: Float64Array, b: Numbers, { outputs, area }: Layer): Float64Array {
  return y.map((v, i) => v + b[Math.floor(i / area) % outputs]!);
}

function biasSum(ct: Numbers, { outputs, area }: Layer): Float64Array {
  const sums = new Float64Array(outputs);
  for (let i = 0; i < ct.length; i++) sums[Math.floor(i / area) % outputs]! += ct[i]!;
  return sums;
}

interface Curvature {
  readonly loss: number;
  readonly gradient: readonly Float64Array[];
  /** The derivative of the gradient along the direction (Pearlmutter's R operator). */
  readonly product: readonly Float64Array[];
}

/** Mean cross-entropy of a network: value, gradient, Hessian-vector product; R marks derivatives along the direction. */
function curvature(
  spec: NetworkSpec,
  x: Numbers,
  labels: Numbers,
  params: readonly Numbers[],
  direction?: readonly Numbers[],
): Curvature {
  const layers = layersOf(spec);
  const tape: { readonly x: Numbers; readonly Rx: Numbers | null; readonly isPositive: Numbers | null }[] =
    [];
  let [y, Ry]: [Numbers, Numbers | null] = [x, null];
  layers.forEach((layer, i) => {
    const [w, b] = [params[2 * i]!, params[2 * i + 1]!];
    const z = withBias(layer.apply(y, w), b, layer);
    let Rz: Float64Array | null = null;
    if (direction) {
      Rz = withBias(layer.apply(y, direction[2 * i]!), direction[2 * i + 1]!, layer);
      if (Ry) Rz = added(Rz, layer.apply(Ry, w));
    }
    const isLast = i === layers.length - 1;
    const isPositive = isLast ? null : z.map((v) => (v > 0 ? 1 : 0));
    tape.push({ x: y, Rx: Ry, isPositive });
    y = isPositive ? z.map((v, j) => v * isPositive[j]!) : z;
    Ry = Rz && isPositive ? Rz.map((v, j) => v * isPositive[j]!) : Rz;
  });
  // p = softmax(z); d loss / dz = (p - onehot) / n;  R p = p (Rz - p . Rz)
  const classes = layers.at(-1)!.outputs;
  const n = spec.batch;
  let loss = 0;
  let ct: Float64Array = new Float64Array(n * classes);
  let Rct: Float64Array | null = direction ? new Float64Array(n * classes) : null;
  for (let row = 0; row < n; row++) {
    const z = Array.from({ length: classes }, (_, j) => y[row * classes + j]!);
    const top = Math.max(...z);
    const total = z.reduce((sum, v) => sum + Math.exp(v - top), 0);
    const p = z.map((v) => Math.exp(v - top) / total);
    loss -= Math.log(p[labels[row]!]!) / n;
    const Rz = Ry ? p.map((_, j) => Ry![row * classes + j]!) : null;
    const mean = Rz ? Rz.reduce((sum, v, j) => sum + v * p[j]!, 0) : 0;
    for (let j = 0; j < classes; j++) {
      ct[row * classes + j] = (p[j]! - (labels[row] === j ? 1 : 0)) / n;
      if (Rct && Rz) Rct[row * classes + j] = (p[j]! * (Rz[j]! - mean)) / n;
    }
  }
  const gradient: Float64Array[] = [];
  const product: Float64Array[] = [];
  for (let i = layers.length - 1; i >= 0; i--) {
    const [layer, { x: input, Rx }] = [layers[i]!, tape[i]!];
    gradient.unshift(layer.toWeight(ct, input), biasSum(ct, layer));
    if (Rct) {
      const Rw = layer.toWeight(Rct, input);
      product.unshift(Rx ? added(Rw, layer.toWeight(ct, Rx)) : Rw, biasSum(Rct, layer));
    }
    if (i === 0) break;
    const mask = tape[i - 1]!.isPositive!;
    const back = (v: number, j: number): number => v * mask[j]!;
    if (Rct) Rct = added(layer.toInput(Rct, params[2 * i]!), layer.toInput(ct, direction![2 * i]!)).map(back);
    ct = layer.toInput(ct, params[2 * i]!).map(back);
  }
  return { loss, gradient, product };
}

/** The loss that Adam's step number `adam.steps` sees, steps counted from 1. */
function lossUnderAdam(spec: NetworkSpec): number {
  const { x, labels, params } = networkInputs(spec);
  const p = params.map((leaf) => Float64Array.from(leaf));
  const m = p.map((leaf) => new Float64Array(leaf.length));
  const s = p.map((leaf) => new Float64Array(leaf.length));
  for (let t = 1; ; t++) {
    const { loss, gradient } = curvature(spec, x, labels, p);
    if (t === adam.steps) return loss;
    const [c1, c2] = [1 - adam.beta1 ** t, 1 - adam.beta2 ** t];
    gradient.forEach((leaf, l) => {
      leaf.forEach((g, i) => {
        m[l]![i] = adam.beta1 * m[l]![i]! + (1 - adam.beta1) * g;
        s[l]![i] = adam.beta2 * s[l]![i]! + (1 - adam.beta2) * g * g;
        p[l]![i]! -= (adam.rate * (m[l]![i]! / c1)) / (Math.sqrt(s[l]![i]! / c2) + adam.epsilon);
      });
    });
  }
}

/** The formula of the fused chain: sqrt(exp(-x²) + x²) / 2 + x / (1 + |x|). */
const chain = (x: number): number => 0.5 * Math.sqrt(Math.exp(-x * x) + x * x) + x / (1 + Math.abs(x));

function rowwise(f: (row: Float64Array, start: number) => void, rows: number = ROWS): void {
  const x = rowsInput(rows);
  for (let start = 0; start < x.length; start += rows)
    f(new Float64Array(x.subarray(start, start + rows)), start);
}

const mean = (list: Float64Array): number => list.reduce((sum, v) => sum + v, 0) / list.length;

function softmaxOfRows(rows: number = ROWS): Float64Array {
  const y = new Float64Array(rows * rows);
  rowwise((row, start) => {
    const e = row.map(Math.exp);
    const total = e.reduce((sum, v) => sum + v, 0);
    y.set(
      e.map((v) => v / total),
      start,
    );
  }, rows);
  return y;
}

/** (x - mean) / sqrt(variance + 1e-5). */
function normalizedRows(rows: number = ROWS): Float64Array {
  const y = new Float64Array(rows * rows);
  rowwise((row, start) => {
    const m = mean(row);
    const rate = 1 / Math.sqrt(mean(row.map((v) => (v - m) ** 2)) + 1e-5);
    y.set(
      row.map((v) => (v - m) * rate),
      start,
    );
  }, rows);
  return y;
}

/** y = (x - mean) / sqrt(variance + 1e-5) with scale 1 and offset 0, and the cotangents of x, scale and offset. */
function layerNormOfRows(): Float64Array[] {
  const [ct, y, dx] = [rowsCotangent(), new Float64Array(ROWS * ROWS), new Float64Array(ROWS * ROWS)];
  const [dScale, dOffset] = [new Float64Array(ROWS), new Float64Array(ROWS)];
  rowwise((row, start) => {
    const m = mean(row);
    const rate = 1 / Math.sqrt(mean(row.map((v) => (v - m) ** 2)) + 1e-5);
    const unit = row.map((v) => (v - m) * rate);
    const back = unit.map((_, i) => ct[start + i]!);
    // dx = rate (ct - mean(ct) - unit mean(ct unit))
    const [c0, c1] = [mean(back), mean(back.map((v, i) => v * unit[i]!))];
    y.set(unit, start);
    dx.set(
      back.map((v, i) => rate * (v - c0 - unit[i]! * c1)),
      start,
    );
    for (let i = 0; i < ROWS; i++) {
      dScale[i]! += back[i]! * unit[i]!;
      dOffset[i]! += back[i]!;
    }
  });
  return [y, dx, dScale, dOffset];
}

/** Elements (0, 0), (n/2, n-1) and (n-1, 1) of the product. */
export function productElements(n: number, at: (row: number, column: number) => number): number[] {
  return [at(0, 0), at(n / 2, n - 1), at(n - 1, 1)];
}

function product(n: number, turned: Turned = ""): number[] {
  const [a, b] = [uniform(1, n * n, -1, 1), uniform(2, n * n, -1, 1)];
  const at = (i: number, j: number, isTurned: boolean): number => (isTurned ? j * n + i : i * n + j);
  return productElements(n, (row, column) => {
    let sum = 0;
    for (let k = 0; k < n; k++) sum += a[at(row, k, turned === "tn")]! * b[at(k, column, turned === "nt")]!;
    return sum;
  });
}

function batchedProduct(count: number): Float64Array {
  const area = SMALL * SMALL;
  const [a, b] = [uniform(1, count * area, -1, 1), uniform(2, count * area, -1, 1)];
  const y = new Float64Array(count * area);
  for (let at = 0; at < y.length; at += area) {
    y.set(multiply(a.subarray(at, at + area), b.subarray(at, at + area), SMALL, SMALL, SMALL), at);
  }
  return y;
}

/** `x <- x y`. */
function afterStages(count: number): Float64Array {
  let x = new Float64Array(uniform(1, 64));
  const y = stageMatrix();
  for (let i = 0; i < count; i++) x = new Float64Array(multiply(x, y, 8, 8, 8));
  return x;
}

const norm = (leaves: readonly Numbers[]): number => Math.hypot(...leaves.map((leaf) => probe(leaf).at(-1)!));

/** The numbers that a right engine shows for a work. */
export function expected(work: string): number[] {
  const networkProduct = (spec: NetworkSpec): number[] => {
    const { x, labels, params, direction } = networkInputs(spec);
    return [norm(curvature(spec, x, labels, params, direction).product)];
  };
  const { name: full, size } = partsOf(work);
  const [name = "", part] = full.split(":");
  const long = (f: (x: number) => number): number[] => {
    const y = new Float64Array(longInput(name, size));
    for (let i = 0; i < y.length; i++) y[i] = f(y[i]!);
    return probe(y);
  };
  if (name === "matmul-batched") return probe(batchedProduct(size ?? 64));
  if (name === "matmul-tn" || name === "matmul-nt")
    return product(size ?? 512, name === "matmul-tn" ? "tn" : "nt");
  if (name.startsWith("matmul-")) return product(Number(name.slice(7)));
  if (name in convs) {
    const spec = convs[name]!;
    const { x, w, ct } = convInputs(spec);
    const layer = convLayer({ ...spec, stride: 1, padding: 0 });
    const y = layer.apply(x, w);
    return part === "backward" ? probe(y, layer.toInput(ct, w), layer.toWeight(ct, x)) : probe(y);
  }
  switch (name) {
    // Every turn adds 1, and float32 still counts that far.
    case "peak-madd":
    case "peak-mul-add":
      return [TURNS, TURNS];
    // 8 accumulators of 4 numbers that end at 2.
    case "device-fma":
    case "device-mul-add":
      return [64, 64];
    case "device-copy-shader":
    case "device-copy-buffer":
      return [1];
    case "triad":
      return [7, 7];
    case "copy":
      return [1, 1];
    case "affine":
      return long((x) => x * 2 + 1);
    case "tanh":
      return long(Math.tanh);
    case "exp":
      return long(Math.exp);
    case "chain":
      return long(chain);
    case "sum":
      return [longInput(name, size).reduce((sum, x) => sum + x, 0)];
    case "softmax":
      return probe(softmaxOfRows(size));
    case "layer-norm-forward":
      return probe(normalizedRows(size));
    case "layer-norm":
      return probe(...layerNormOfRows());
    case "adam":
    case "cnn-adam":
      return [lossUnderAdam(networks[name]!(size))];
    case "stages":
      return probe(afterStages(STAGE_CALLS * (size ?? 100)));
    case "read":
      return [uniform(1, 64).reduce((sum, x) => sum + x, 0)];
    case "gradient": {
      const { x, labels, params } = networkInputs(mlp);
      return [norm(curvature(mlp, x, labels, params).gradient)];
    }
    case "hvp":
      return networkProduct(mlp);
    case "compile":
      return networkProduct(cnn);
    case "dispatch": {
      // x <- x + y, or x <- (x + y) / 2: after many rounds x = y
      const [x, y] = [uniform(1, 64), uniform(2, 64)];
      return part === "jit" ? probe(y) : probe(x.map((v, i) => v + (size ?? DISPATCHES) * y[i]!));
    }
    default:
      throw new Error(`Cannot check "${work}": it is not known, a work of the table is needed`);
  }
}
