/**
 * Loops with reductions. A row is what one result is joined from, whichever axes it lies along; a team of invocations
 * walks along it, each with every so-manyth element, and joins what they have: neighbours directly where the device can,
 * the rest by way of workgroup memory. What depends on the result of a reduction is computed in another pass over the row.
 */
import { type Expr, iota } from "../../expr.ts";
import type { Layout } from "../../kernel.ts";
import type { Load, LoopStep, Reduction, Store } from "../../passes/fuse.ts";
import { stridesOf } from "../../shape.ts";
import { Block, operations, Scope } from "./expressions.ts";
import type { Capabilities, Dispatch } from "./kernel.ts";
import { Workspace } from "./kernel.ts";
import {
  Buffers,
  labelOf,
  loaded,
  partLayout,
  quadLayout,
  quadType,
  type Reach,
  reachOf,
  stored,
} from "./loops_access.ts";
import { isFloatSum, type Joining, joinedInPairs, joiningOf } from "./loops_join.ts";
import {
  NEIGHBOURS,
  type Phase,
  type Plan,
  phasesOf,
  planOf,
  type Rows,
  rowsOf,
  spreadOf,
} from "./loops_plan.ts";
import { elementIndex, groupsFor, lineSize, mainHead, WORD_BYTES } from "./wgsl.ts";

/** A body of more operations is written once per pass, not four times. */
const LONGEST_REPEATED = 100;
/** Sums of float32 begin again after so many terms, and are joined in parts: what they lose stays small. */
const BLOCK_TERMS = 64;
/** Members of a team whose values one invocation joins. */
const FAN = 16;
/** Reductions that wait at the same barriers: each has workgroup memory of its own. */
const MOST_AT_ONCE = 4;

const components = ["x", "y", "z", "w"] as const;

/** The dispatches of a loop that reduces axes; none where there is nothing to store. */
export function reductionDispatches(step: LoopStep, gpu: Capabilities): readonly Dispatch[] {
  const rows = rowsOf(step);
  if (rows.count === 0) return [];
  const phases = phasesOf(step);
  const plan = planOf(step, rows, phases, gpu);
  if (plan.pieces === 1) return [written({ step, rows, phases, plan, gpu, partials: null }, "whole")];
  const partials = partialsOf(step.reductions, rows.count * plan.pieces, plan);
  const pieces = written({ step, rows, phases, plan, gpu, partials }, "pieces");
  // What the pieces gave is joined as a row of its own, whose neighbours are where the pieces left them.
  const joined = { ...rows, length: plan.pieces };
  const across = plan.isAcross && rows.count >= NEIGHBOURS;
  const joins: Plan = { ...spreadOf(joined, across, false, gpu), isAcross: across, held: 0 };
  return [pieces, written({ step, rows: joined, phases, plan: joins, gpu, partials }, "joined")];
}

/** The shader of some rows; by teams of one where larger ones would need more workgroup memory than there is. */
function written(work: RowWork, role: Role): Dispatch {
  const writer = new RowWriter(work);
  const dispatch = writer.dispatch(role);
  if (writer.workgroupBytes <= work.gpu.limits.maxWorkgroupBytes) return dispatch;
  return new RowWriter({ ...work, plan: { ...work.plan, team: 1, held: 0 } }).dispatch(role);
}

/** Where the results of pieces are, in words: those of one reduction after those of another. */
interface Partials {
  readonly workspace: Workspace;
  readonly starts: ReadonlyMap<Reduction, number>;
  /** How far apart the results for neighbouring rows are, and for neighbouring pieces; times the words of each. */
  readonly rowStride: number;
  readonly pieceStride: number;
}

function partialsOf(reductions: readonly Reduction[], count: number, { pieces, isAcross }: Plan): Partials {
  const starts = new Map<Reduction, number>();
  let words = 0;
  for (const reduction of reductions) {
    starts.set(reduction, words);
    words += count * joiningOf(reduction, new Scope("")).words;
  }
  const [rowStride, pieceStride] = isAcross ? [1, count / pieces] : [pieces, 1];
  return { workspace: new Workspace(Math.max(1, words) * WORD_BYTES), starts, rowStride, pieceStride };
}

/**
 * `whole`: rows from the operands to the results. `pieces`: parts of rows from the operands to the partials. `joined`:
 * rows of partials to the results.
 */
type Role = "whole" | "pieces" | "joined";

interface RowWork {
  readonly step: LoopStep;
  readonly rows: Rows;
  readonly phases: readonly Phase[];
  readonly plan: Plan;
  readonly gpu: Capabilities;
  readonly partials: Partials | null;
}

/** An accumulator: its variable, and how it is joined. */
interface Kept {
  readonly reduction: Reduction;
  readonly joining: Joining;
  readonly name: string;
}

/** Elements that are computed side by side: where each is, and whether it is in the row. */
interface Lane {
  readonly block: Block;
  /** Number of the vector and component, or of the element in the row. */
  readonly index: string;
  readonly component: number | null;
}

class RowWriter {
  readonly #step: LoopStep;
  readonly #rows: Rows;
  readonly #phases: readonly Phase[];
  readonly #plan: Plan;
  readonly #gpu: Capabilities;
  readonly #partials: Partials | null;
  readonly #scope: Scope;
  readonly #block: Block;
  readonly #size: number;
  /** Rows that a workgroup has. */
  readonly #slots: number;
  readonly #inQuads: boolean;
  readonly #reach: ReadonlyMap<Load | Store, Reach>;
  readonly #buffers: Buffers;
  readonly #lanesOfRow = new Map<string, Lane>();
  readonly #workgroup = new Map<string, { readonly type: string; readonly bytes: number }>();
  readonly #declarations = new Set<string>();
  #hasOutside = false;
  #joins = 0;
  #pieceCount = 1;

  constructor({ step, rows, phases, plan, gpu, partials }: RowWork) {
    this.#step = step;
    this.#rows = rows;
    this.#phases = phases;
    this.#plan = plan;
    this.#gpu = gpu;
    this.#partials = partials;
    this.#scope = new Scope(labelOf(step));
    this.#block = new Block(this.#scope);
    this.#size = Math.max(plan.team, Math.min(256, lineSize(gpu)));
    this.#slots = this.#size / plan.team;
    const full = [...step.loads, ...step.stores].filter(({ level }) => level === "full");
    this.#reach = new Map(full.map((access) => [access, this.#reachOf(access)]));
    this.#inQuads =
      !plan.isAcross && this.#isShort() && full.some((access) => this.#reach.get(access) === "quad");
    const quads = full.filter((access) => this.#reach.get(access) === "quad").map(({ slot }) => slot);
    this.#buffers = new Buffers(new Set(this.#inQuads ? quads : []));
  }

  dispatch(role: Role): Dispatch {
    const plan = this.#plan;
    this.#pieceCount = role === "pieces" ? plan.pieces : 1;
    const units = this.#rows.count * this.#pieceCount;
    const ofGroups = plan.team > 1;
    const perGroup = ofGroups ? this.#slots : this.#size;
    const groups = groupsFor(units, perGroup, this.#gpu);
    const mains = ofGroups ? Math.ceil(units / this.#slots) : units;
    this.#writeHead(units);
    if (role === "joined") this.#joinPartials();
    else for (const phase of this.#phases) this.#writePhase(phase, role);
    if (role !== "pieces") this.#storeRow();
    const code = [
      this.#scope.declarations(),
      ...this.#declarations,
      this.#buffers.declarations(),
      ...[...this.#workgroup].map(([name, { type }]) => `var<workgroup> ${name}: ${type};`),
      mainHead(mains, this.#size, groups, ofGroups ? "group" : "invocation"),
      ...this.#block.lines,
      "}\n",
    ].filter((text) => text !== "");
    const { refs } = this.#buffers;
    return { label: labelOf(this.#step), code: code.join("\n"), buffers: refs, groups, operations: 0 };
  }

  // --- who does what ---------------------------------------------------------------------------------------------

  /** Which row or piece of one, and which member of its team this invocation is. */
  #writeHead(units: number): void {
    const block = this.#block;
    const { team, isAcross } = this.#plan;
    if (team === 1) block.write("let number = unit;");
    else {
      const slots = this.#slots;
      const [slot, member] = isAcross
        ? [`local % ${slots}u`, `local / ${slots}u`]
        : [`local / ${team}u`, `local % ${team}u`];
      if (slots > 1) block.write(`let slot = ${slot};`);
      block.write(`let member = ${slots > 1 ? member : "local"};`);
      const number = slots > 1 ? `unit * ${slots}u + slot` : "unit";
      if (units % slots === 0) block.write(`let number = ${number};`);
      else {
        // The last workgroup is whole: it waits at barriers, and computes a row again that another one stores.
        block.write(`let isInside = ${number} < ${units}u;`, `let number = min(${number}, ${units - 1}u);`);
        this.#hasOutside = true;
      }
    }
    const pieces = this.#pieceCount;
    const { count } = this.#rows;
    if (pieces === 1) block.write("let row = number;");
    else if (isAcross) block.write(`let row = number % ${count}u;`, `let piece = number / ${count}u;`);
    else block.write(`let row = number / ${pieces}u;`, `let piece = number % ${pieces}u;`);
    for (const load of this.#step.loads) {
      if (load.level !== "row") continue;
      block.bind(load.expr, () => {
        const at = elementIndex(load.layout, "row");
        return block.let(loaded(load, this.#buffers.element(load.slot, at)));
      });
    }
  }

  /** Statements for rows that there are. */
  #whereInside(block: Block, body: (block: Block) => void): void {
    if (this.#hasOutside) block.nest("if (isInside)", body);
    else body(block);
  }

  /** Statements for one invocation of the row's team. */
  #oncePerRow(body: (block: Block) => void): void {
    const conditions = [
      ...(this.#plan.team > 1 ? ["member == 0u"] : []),
      ...(this.#hasOutside ? ["isInside"] : []),
    ];
    if (conditions.length === 0) body(this.#block);
    else this.#block.nest(`if (${conditions.join(" && ")})`, body);
  }

  /** How many invocations walk along a row, and the number of this one among them. */
  get #walkers(): number {
    return this.#plan.team * this.#pieceCount;
  }

  #walker(): string {
    const { team } = this.#plan;
    if (this.#pieceCount === 1) return team === 1 ? "0u" : "member";
    return team === 1 ? "piece" : this.#block.let(`piece * ${team}u + member`);
  }

  // --- passes ----------------------------------------------------------------------------------------------------

  /** One pass over the row: afterwards the results of its reductions are known, or stored where it is a piece. */
  #writePhase(phase: Phase, role: Role): void {
    const block = this.#block;
    const { reductions, stores } = phase;
    if (role === "whole") for (const e of phase.rowValues) block.emit(e);
    const kept = reductions.map((reduction) => this.#start(reduction));
    if (this.#rows.length > 0 && reductions.length + stores.length > 0) {
      if (this.#plan.held > 0) this.#writeHeld(kept, stores);
      else this.#writeWalk(kept, stores);
    }
    if (kept.length === 0) return;
    const joined = this.#joinTeam(kept);
    if (role === "pieces") this.#storePiece(joined);
    else
      for (const { reduction, joining, name } of joined)
        block.bind(reduction.result, block.let(joining.value(name)));
  }

  #start(reduction: Reduction): Kept {
    const joining = joiningOf(reduction, this.#scope);
    if (joining.declaration !== "") this.#declarations.add(joining.declaration);
    const name = this.#scope.newName();
    this.#block.write(`var ${name} = ${joining.identity};`);
    return { reduction, joining, name };
  }

  /** Elements that stay in registers from pass to pass: each has a block, where it is computed once. */
  #writeHeld(kept: readonly Kept[], stores: readonly Store[]): void {
    const { team } = this.#plan;
    const length = this.#inQuads ? this.#rows.length / 4 : this.#rows.length;
    for (let e = 0; e * team < length; e++) {
      const isWhole = (e + 1) * team <= length;
      const place = this.#walker();
      const at = e === 0 ? place : place === "0u" ? `${e}u` : this.#block.let(`${place} + ${e * team}u`);
      const index = isWhole ? at : this.#block.let(`min(${at}, ${length - 1}u)`);
      const parts = this.#inQuads ? [0, 1, 2, 3] : [null];
      const lanes = parts.map((component): Lane => {
        const key = `${e} ${component}`;
        const known = this.#lanesOfRow.get(key);
        if (known) return known;
        const lane = { block: this.#block.branch(), index, component };
        this.#bindLoads(lane);
        this.#lanesOfRow.set(key, lane);
        return lane;
      });
      this.#writeLanes(this.#block, lanes, kept, stores, isWhole ? null : `${at} < ${length}u`);
    }
  }

  /** A loop along the row; several elements at once where the body is short. */
  #writeWalk(kept: readonly Kept[], stores: readonly Store[]): void {
    const block = this.#block;
    const walkers = this.#walkers;
    const length = this.#inQuads ? this.#rows.length / 4 : this.#rows.length;
    const at = this.#walker();
    const several = this.#inQuads ? 1 : this.#isShort() ? 4 : 1;
    const rounds = Math.floor(length / (several * walkers));
    const rest = several > 1 ? rounds * several * walkers : 0;
    const body = (inner: Block, count: number): void => {
      const lanes = this.#inQuads
        ? components.map((_, component) => ({ block: inner.branch(), index: "i", component }))
        : Array.from({ length: count }, (_, l) => {
            const index = l === 0 ? "i" : inner.let(`i + ${l * walkers}u`);
            return { block: inner.branch(), index, component: null };
          });
      for (const lane of lanes) this.#bindLoads(lane);
      this.#writeLanes(inner, lanes, kept, stores, null);
    };
    if (several > 1 && rounds > 0)
      this.#writeLoop(block, kept, { at, end: rest, step: several * walkers }, (inner) =>
        body(inner, several),
      );
    if (rest < length) {
      const from = rest === 0 ? at : at === "0u" ? `${rest}u` : `${at} + ${rest}u`;
      this.#writeLoop(block, kept, { at: from, end: length, step: walkers }, (inner) => body(inner, 1));
    }
  }

  /** `for (i = at; i < end; i += step)`; float32 sums over many elements are joined from sums over fewer. */
  #writeLoop(
    block: Block,
    kept: readonly Kept[],
    { at, end, step }: { readonly at: string; readonly end: number; readonly step: number },
    body: (block: Block) => void,
  ): void {
    const sums = kept.filter(({ reduction }) => isFloatSum(reduction));
    if (end <= 2 * BLOCK_TERMS * step || sums.length === 0) {
      block.nest(`for (var i = ${at}; i < ${end}u; i += ${step}u)`, body);
      return;
    }
    const span = BLOCK_TERMS * step;
    block.nest(`for (var first = ${at}; first < ${end}u; first += ${span}u)`, (outer) => {
      for (const { name } of sums) outer.write(`let ${name}before = ${name};`, `${name} = 0.0f;`);
      outer.nest(`for (var i = first; i < min(first + ${span}u, ${end}u); i += ${step}u)`, body);
      for (const { name } of sums) outer.write(`${name} += ${name}before;`);
    });
  }

  /** Joins and stores the values of some elements; `condition`: where they are in the row. */
  #writeLanes(
    block: Block,
    lanes: readonly Lane[],
    kept: readonly Kept[],
    stores: readonly Store[],
    condition: string | null,
  ): void {
    const joined = kept.map(({ reduction, joining, name }) => {
      const values = lanes.map((lane) => joining.of(lane.block.emit(reduction.arg)));
      return `${name} = ${joining.join(name, joinedInPairs(joining, values))};`;
    });
    const values = stores.map((store) => lanes.map((lane) => stored(store, lane.block.emit(store.expr))));
    const write = (inner: Block): void => {
      inner.write(...joined);
      if (stores.length === 0) return;
      this.#whereInside(inner, (inside) => {
        for (const [s, store] of stores.entries()) this.#storeLanes(inside, store, lanes, values[s]!);
      });
    };
    if (joined.length + stores.length === 0) return;
    if (condition === null) write(block);
    else block.nest(`if (${condition})`, write);
  }

  #storeLanes(block: Block, store: Store, lanes: readonly Lane[], values: readonly string[]): void {
    if (this.#inQuads && this.#reach.get(store) === "quad") {
      const at = this.#quadIndex(store, lanes[0]!.index);
      const quad = `${quadType(store)}(${values.join(", ")})`;
      block.write(`${this.#buffers.quad(store.slot, at, "write")} = ${quad};`);
    } else {
      lanes.forEach((lane, l) => {
        const at = this.#index(block, store.layout, lane);
        block.write(`${this.#buffers.element(store.slot, at, "write")} = ${values[l]};`);
      });
    }
  }

  // --- elements --------------------------------------------------------------------------------------------------

  /** Says where an element's operands come from, and its position; they are loaded where they are needed. */
  #bindLoads(lane: Lane): void {
    const { block, index, component } = lane;
    block.bind(iota, () => {
      const strides = stridesOf(this.#step.shape);
      const layout = { shape: this.#step.shape, offset: 0, strides };
      return block.let(this.#index(block, layout, lane));
    });
    for (const load of this.#step.loads) {
      if (load.level === "row") continue;
      block.bind(load.expr, () => {
        const reach = this.#inQuads ? this.#reach.get(load) : "single";
        if (reach === "quad") {
          const quad = block.let(this.#buffers.quad(load.slot, this.#quadIndex(load, index)));
          return block.let(loaded(load, `${quad}.${components[component!]}`));
        }
        const at = this.#index(block, load.layout, reach === "uniform" ? { ...lane, component: 0 } : lane);
        return block.let(loaded(load, this.#buffers.element(load.slot, at)));
      });
    }
  }

  /** Where an element is. */
  #index(block: Block, layout: Layout, { index, component }: Lane): string {
    const { kept, gone } = this.#rows;
    const ofRow = elementIndex(partLayout(layout, kept, layout.offset), "row");
    const at = component === null ? index : block.let(`${index} * 4u + ${component}u`);
    return this.#sum(ofRow, elementIndex(partLayout(layout, gone, 0), at));
  }

  /** Where a vector of four elements is in its buffer, in vectors. */
  #quadIndex({ layout }: Load | Store, index: string): string {
    const { kept, gone } = this.#rows;
    const row = partLayout(layout, kept, layout.offset);
    const ofRow = elementIndex(
      { ...row, offset: row.offset / 4, strides: row.strides.map((s) => s / 4) },
      "row",
    );
    return this.#sum(ofRow, elementIndex(quadLayout(partLayout(layout, gone, 0)), index));
  }

  /** The sum of two indices, the first of which is the same all along the row. */
  #sum(ofRow: string, ofElement: string): string {
    if (ofRow === "(0u)" || ofRow === "0u") return ofElement;
    const name = this.#block.let(ofRow);
    return ofElement === "(0u)" || ofElement === "0u" ? name : `${name} + ${ofElement}`;
  }

  /** How four neighbours along a row lie in a buffer. */
  #reachOf({ layout, slot }: Load | Store): Reach {
    const { kept, gone } = this.#rows;
    const reach = reachOf(partLayout(layout, gone, 0), slot.aval.size);
    const row = partLayout(layout, kept, layout.offset);
    const isAligned = row.offset % 4 === 0 && row.strides.every((s, a) => row.shape[a] === 1 || s % 4 === 0);
    return reach === "quad" && !isAligned ? "single" : reach;
  }

  /** Whether what is computed for one element may be written several times. */
  #isShort(): boolean {
    const { reductions, stores } = this.#step;
    const roots: Expr[] = [...reductions.map(({ arg }) => arg), ...stores.map(({ expr }) => expr)];
    return operations(this.#scope, roots) <= LONGEST_REPEATED;
  }

  // --- teams -----------------------------------------------------------------------------------------------------

  /** Joins what the members of each team have; all of them know the results. */
  #joinTeam(kept: readonly Kept[]): readonly Kept[] {
    if (this.#plan.team === 1) return kept;
    const parts: Kept[] = [];
    for (let k = 0; k < kept.length; k += MOST_AT_ONCE)
      parts.push(...this.#joinSome(kept.slice(k, k + MOST_AT_ONCE)));
    return parts;
  }

  #joinSome(given: readonly Kept[]): readonly Kept[] {
    const { team, isAcross } = this.#plan;
    const block = this.#block;
    const slots = this.#slots;
    const slot = slots > 1 ? "slot" : "0u";
    const width = isAcross ? 1 : Math.min(team, this.#gpu.neighbours ?? 1);
    const kept = this.#joinNeighbours(given, width);
    if (width === team) return kept;
    /** Members that have something to join: the first of those that are neighbours. */
    const members = team / width;
    const place = (member: number | string): string =>
      isAcross ? `${member}u * ${slots}u + ${slot}` : `${slot} * ${members}u + ${member}u`;
    // Two memories in turn: the next values are written while slower invocations still read these.
    const turn = members > FAN ? 0 : this.#joins++ % 2;
    const memories = kept.map(({ joining }, k) =>
      this.#memory(`team${turn}_${k}`, joining.type, this.#size / width),
    );
    const write = (inner: Block, at: string): void => {
      for (const [k, { name }] of kept.entries()) inner.write(`${memories[k]}[${at}] = ${name};`);
    };
    if (width === 1) write(block, "local");
    else block.nest(`if (local % ${width}u == 0u)`, (inner) => write(inner, `local / ${width}u`));
    block.write("workgroupBarrier();");
    const read = (inner: Block, memory: string, places: readonly string[], joining: Joining): string =>
      joinedInPairs(
        joining,
        places.map((at) => inner.fresh(`${memory}[${at}]`)),
      );
    if (members <= FAN) {
      const places = Array.from({ length: members }, (_, m) => place(m));
      return kept.map((one, k) => ({
        ...one,
        name: block.fresh(read(block, memories[k]!, places, one.joining)),
      }));
    }
    const sums = kept.map(({ joining }, k) => this.#memory(`teams_${k}`, joining.type, slots * FAN));
    block.nest(`if (member < ${FAN}u)`, (inner) => {
      const first = width === 1 ? "local" : `${slot} * ${members}u + member`;
      kept.forEach(({ joining }, k) => {
        const places = Array.from({ length: members / FAN }, (_, m) =>
          isAcross ? `local + ${m * FAN * slots}u` : `${first} + ${m * FAN}u`,
        );
        const sum = read(inner, memories[k]!, places, joining);
        inner.write(`${sums[k]}[${slot} * ${FAN}u + member] = ${sum};`);
      });
    });
    block.write("workgroupBarrier();");
    const places = Array.from({ length: FAN }, (_, m) => `${slot} * ${FAN}u + ${m}u`);
    return kept.map((one, k) => ({ ...one, name: block.fresh(read(block, sums[k]!, places, one.joining)) }));
  }

  /** Joins what so many neighbours have, each with the one whose number differs in one bit: then all of them know it. */
  #joinNeighbours(kept: readonly Kept[], width: number): readonly Kept[] {
    const block = this.#block;
    let joined = kept;
    for (let mask = 1; mask < width; mask *= 2) {
      joined = joined.map((one) => {
        const other = block.fresh(one.joining.shuffled(one.name, mask));
        return { ...one, name: block.fresh(one.joining.join(one.name, other)) };
      });
    }
    return joined;
  }

  #memory(name: string, type: string, size: number): string {
    const full = `${name}_${type}`;
    const bytes = size * (type === "Product" ? 2 : 1) * WORD_BYTES;
    this.#workgroup.set(full, { type: `array<${type}, ${size}>`, bytes });
    return full;
  }

  /** Of the shader that was written. */
  get workgroupBytes(): number {
    return [...this.#workgroup.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  }

  // --- results ---------------------------------------------------------------------------------------------------

  #storePiece(joined: readonly Kept[]): void {
    const partials = this.#partials!;
    this.#oncePerRow((block) => {
      for (const { reduction, joining, name } of joined)
        joining.toWords(name).forEach((word, w) => {
          const at = `number * ${joining.words}u + ${partials.starts.get(reduction)! + w}u`;
          block.write(`${this.#buffers.word(partials.workspace, at, "write")} = ${word};`);
        });
    });
  }

  /** Joins the results of pieces, in order. */
  #joinPartials(): void {
    const { workspace, starts, rowStride, pieceStride } = this.#partials!;
    const block = this.#block;
    const kept = this.#step.reductions.map((reduction) => this.#start(reduction));
    const loop = { at: this.#walker(), end: this.#rows.length, step: this.#walkers };
    this.#writeLoop(block, kept, loop, (inner) => {
      inner.write(`let at = row * ${rowStride}u + i * ${pieceStride}u;`);
      for (const { reduction, joining, name } of kept) {
        const words = Array.from({ length: joining.words }, (_, w) =>
          this.#buffers.word(workspace, `at * ${joining.words}u + ${starts.get(reduction)! + w}u`),
        );
        inner.write(`${name} = ${joining.join(name, joining.fromWords(words))};`);
      }
    });
    for (const { reduction, joining, name } of this.#joinTeam(kept))
      block.bind(reduction.result, block.let(joining.value(name)));
  }

  /** Stores what is known of the row as a whole. */
  #storeRow(): void {
    const stores = this.#step.stores.filter(({ level }) => level === "row");
    if (stores.length === 0) return;
    this.#oncePerRow((block) => {
      for (const store of stores) {
        const value = stored(store, block.emit(store.expr));
        const at = elementIndex(store.layout, "row");
        block.write(`${this.#buffers.element(store.slot, at, "write")} = ${value};`);
      }
    });
  }
}
