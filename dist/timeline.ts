/**
 * Time that passes while several things go on beside each other and share what they need. Nothing is simulated event by
 * event: between two ends of a stage every stage has a constant speed.
 */
import type { Priority } from "./shared_link.ts";

/** Something that takes `seconds` when nothing is beside it. */
export interface Stage {
  readonly seconds: number;
  /** Who computes in it, and for which part of the time; stages of the same processes take turns. */
  readonly work?: { readonly of: string; readonly processes: number; readonly part: number };
  /** The link that its transfers share with those of other stages, as in shared_link.ts. */
  readonly link?: { readonly name: string; readonly transfers: number; readonly priority: Priority };
}

/** Stages that somebody has begun and does not wait for. */
export interface Task {
  readonly isDone: () => boolean;
}

/** A clock that moves when somebody spends time on it. */
export interface Timeline {
  /** Goes through stages, one after the other, while tasks go on beside; gives the seconds. */
  spend(stages: readonly Stage[]): number;
  begin(stages: readonly Stage[], done?: () => void): Task;
  /** Goes on until a task is through; gives the seconds. */
  wait(task: Task): number;
}

/** Stages under way; `left` is what the present one would take alone. */
interface Running {
  readonly stages: readonly Stage[];
  readonly done: () => void;
  at: number;
  left: number;
}

/**
 * A clock of processes that share so many cores. With null each has its own, and another one for what it does beside: nothing
 * but links is shared.
 */
export function timeline(cores: number | null): Timeline {
  let tasks: readonly Running[] = [];

  /** How many times longer work takes when so much is done at a time. */
  const crowding = (load: number): number => (cores === null ? 1 : Math.max(1, load / cores));

  /** How many times longer than alone the present stage of each takes while all are there; Infinity where it stands still. */
  function slownessOf(all: readonly Running[]): readonly number[] {
    const stages = all.map(({ stages, at }) => stages[at]!);
    const onLink = stages.map((stage) => sharing(stage, stages));
    /** Parts of the time of some processes; a stage that stands still has none. */
    const parts = (of?: string): readonly number[] =>
      stages.map(({ work }, i) => (work && work.of === (of ?? work.of) ? work.part / onLink[i]! : 0));
    const load = sum(parts().map((part, i) => part * (stages[i]!.work?.processes ?? 0)));
    return stages.map(({ work }, i) => {
      if (!work) return onLink[i]!;
      const turns = cores === null ? 1 : sum(parts(work.of));
      return onLink[i]! * Math.max(crowding(load), turns);
    });
  }

  /** Moves all until the first stage ends; gives the seconds. */
  function move(all: readonly Running[]): number {
    const slowness = slownessOf(all);
    const seconds = Math.min(...all.map(({ left }, i) => left * slowness[i]!));
    const ended = all.filter((one, i) => {
      const ends = one.left * slowness[i]! === seconds;
      one.left = ends ? 0 : Math.max(0, one.left - seconds / slowness[i]!);
      return one.left === 0 && !enter(one, one.at + 1);
    });
    tasks = tasks.filter((task) => !ended.includes(task));
    for (const { done } of ended) done();
    return seconds;
  }

  return {
    spend(stages) {
      if (tasks.length === 0)
        return sum(
          stages.map(({ seconds, work }) => seconds * crowding(work ? work.part * work.processes : 0)),
        );
      const own: Running = { stages, done: () => {}, at: 0, left: 0 };
      let seconds = 0;
      let isMoving = enter(own, 0);
      while (isMoving) {
        seconds += move([own, ...tasks]);
        isMoving = own.at < stages.length;
      }
      return seconds;
    },
    begin(stages, done = () => {}) {
      const task: Running = { stages, done, at: 0, left: 0 };
      if (enter(task, 0)) tasks = [...tasks, task];
      else done();
      return { isDone: () => task.at >= stages.length };
    },
    wait({ isDone }) {
      let seconds = 0;
      while (!isDone()) seconds += move(tasks);
      return seconds;
    },
  };
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, x) => total + x, 0);

/** Begins the first stage from `at` on that takes time; false if there is none. */
function enter(one: Running, at: number): boolean {
  one.at = at;
  while (one.at < one.stages.length && one.stages[one.at]!.seconds === 0) one.at++;
  one.left = one.stages[one.at]?.seconds ?? 0;
  return one.at < one.stages.length;
}

/** All transfers of the first priority on its link for each of its own; Infinity for those of the second meanwhile. */
function sharing({ link }: Stage, stages: readonly Stage[]): number {
  if (!link) return 1;
  const others = stages.flatMap((stage) => (stage.link?.name === link.name ? [stage.link] : []));
  const isHeldBack =
    link.priority === "background" && others.some(({ priority }) => priority === "foreground");
  if (isHeldBack) return Number.POSITIVE_INFINITY;
  const moving = others.filter(({ priority }) => priority === link.priority);
  return moving.reduce((sum, { transfers }) => sum + transfers, 0) / link.transfers;
}
