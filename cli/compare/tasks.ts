/**
 * The tasks of comparisons, by name. Targets of networks are what Adam with a rate of 0.001 or 0.002 reached in ten seconds
 * to a minute of steps on two cores; that of resnet20 on CIFAR-10 is an estimate.
 */
import type { Task } from "./task.ts";
import { functionTasks } from "./tasks/functions.ts";
import { imageTasks } from "./tasks/images.ts";
import { logisticTask } from "./tasks/logistic.ts";
import { resnetTask } from "./tasks/resnet.ts";
import { transformerTask } from "./tasks/transformer.ts";

const all: readonly Task[] = [...functionTasks, logisticTask, ...imageTasks, transformerTask, resnetTask];

/** Every task, by its name, in the order of the help text. */
export const tasks: Readonly<Record<string, Task>> = Object.fromEntries(all.map((task) => [task.name, task]));
