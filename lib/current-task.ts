import { AsyncLocalStorage } from 'node:async_hooks'

import type { TaskContext } from './task-context.ts'

const storage = new AsyncLocalStorage<TaskContext>()

/** The task that runs here, at any depth below its body; undefined outside of a task. */
export function currentTask(): TaskContext | undefined {
  return storage.getStore()
}

/** Runs `work` so that {@link currentTask} gives `context` anywhere below it. */
export function runAsCurrentTask<T>(context: TaskContext, work: () => T): T {
  return storage.run(context, work)
}

/** The task that runs here for a message, passing over tasks that it called like functions. */
export function currentWorkerTask(): TaskContext | undefined {
  let context = storage.getStore()
  while (context?.request.calledDirectly) context = context.outer
  return context
}
