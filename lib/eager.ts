import { hostname } from 'node:os'

import { taskIdOf, type WireOptions } from './call-options.ts'
import { maybeSignature } from './canvas/signature.ts'
import { currentTask, runAsCurrentTask } from './current-task.ts'
import { Ignore, Reject, Retry } from './errors.ts'
import { getLogger } from './log/logger.ts'
import { type DeliveredRequest, Request, type SignatureDict } from './request.ts'
import { EagerResult } from './result.ts'
import type { AnyTask } from './task.ts'
import { type RetryMessage, TaskContext } from './task-context.ts'

/** The logger of Celery for what becomes of tasks. */
const trace = getLogger('celery.app.trace')

type Args = readonly unknown[]
type Kwargs = Readonly<Record<string, unknown>>

/**
 * Runs a task here as a worker would, at once: countdowns are not waited for (`Task.apply`). With `throws` (default
 * `taskEagerPropagates`) an error is thrown rather than kept in the result.
 */
export async function runEagerly<T>(
  task: AnyTask,
  args: Args,
  kwargs: Kwargs,
  options: WireOptions,
  throws: boolean = task.app.conf.taskEagerPropagates,
): Promise<EagerResult<T>> {
  const taskId = taskIdOf(options)
  const context = new TaskContext(task.app, task, eagerRequest(task, taskId, args, kwargs, options))
  const { app } = task
  const { beforeStart, onSuccess, onFailure, onRetry, afterReturn } = task.options
  const handle = (name: string, handler: (() => unknown) | undefined): Promise<void> =>
    runGuarded(context, `${name} handler`, handler)
  let result: unknown
  try {
    if (beforeStart) await runAsCurrentTask(context, () => beforeStart.call(context, taskId, args, kwargs))
    result = await task.run(context, args, kwargs)
    await store(task, context, 'SUCCESS', result)
  } catch (error) {
    if (error instanceof Ignore) return new EagerResult<T>(app, taskId, null, 'IGNORED', task.name)
    if (error instanceof Reject) return new EagerResult<T>(app, taskId, error, 'REJECTED', task.name)
    if (error instanceof Retry) {
      const reason: unknown = error.error ?? error
      await handle('on_retry', onRetry && (() => onRetry.call(context, reason, taskId, args, kwargs)))
      const next = error.sending as RetryMessage | undefined
      if (next === undefined) return new EagerResult<T>(app, taskId, error, 'RETRY', task.name)
      return runEagerly<T>(task, next.args, next.kwargs, next.options, throws)
    }
    const stack = error instanceof Error ? (error.stack ?? null) : null
    await runGuarded(context, 'storing its failure', () => store(task, context, 'FAILURE', error, stack))
    await runLinked(context, options['link_error'], [taskId], false)
    await handle('on_failure', onFailure && (() => onFailure.call(context, error, taskId, args, kwargs)))
    await handle(
      'after_return',
      afterReturn && (() => afterReturn.call(context, 'FAILURE', error, taskId, args, kwargs)),
    )
    if (throws) throw error
    return new EagerResult<T>(app, taskId, error, 'FAILURE', task.name, stack)
  }
  await runLinked(context, options['link'], [result], throws)
  await handle(
    'on_success',
    onSuccess && (() => onSuccess.call(context, result as never, taskId, args, kwargs)),
  )
  await handle(
    'after_return',
    afterReturn && (() => afterReturn.call(context, 'SUCCESS', result, taskId, args, kwargs)),
  )
  return new EagerResult<T>(app, taskId, result, 'SUCCESS', task.name)
}

/** Runs what comes after the body: as in a worker, what it throws is logged and changes nothing. */
async function runGuarded(
  context: TaskContext,
  what: string,
  work: (() => unknown) | null | undefined,
): Promise<void> {
  if (work === undefined || work === null) return
  try {
    await runAsCurrentTask(context, work)
  } catch (error) {
    const { request, name } = context
    trace.exception(`Task ${request.shadow || name}[${request.id}] ${what} raised: ${String(error)}`, error, {
      taskId: request.id,
      taskName: name,
    })
  }
}

function eagerRequest(
  task: AnyTask,
  taskId: string,
  args: Args,
  kwargs: Kwargs,
  options: WireOptions,
): Request {
  const parent = currentTask()?.request
  const wire: Record<string, unknown> = {
    retries: options['retries'] ?? 0,
    root_id: options['root_id'] ?? parent?.rootId ?? taskId,
    parent_id: options['parent_id'] ?? parent?.id,
    callbacks: asDicts(options['link']),
    errbacks: asDicts(options['link_error']),
    headers: options['headers'] ?? undefined,
    timelimit: [options['time_limit'] ?? task.timeLimit, options['soft_time_limit'] ?? task.softTimeLimit],
    ignore_result: options['ignore_result'] ?? task.ignoreResult,
    priority: options['priority'] ?? undefined,
    delivery_info: {
      exchange: options['exchange'] ?? undefined,
      routing_key: options['routing_key'] ?? undefined,
    },
    group: options['group_id'] ?? undefined,
    group_index: options['group_index'] ?? undefined,
    shadow: options['shadow'] ?? undefined,
  }
  const stamped = options['stamped_headers']
  if (Array.isArray(stamped)) {
    wire['stamped_headers'] = stamped
    wire['stamps'] = Object.fromEntries(stamped.map((name) => [name, options[String(name)]]))
  }
  return new Request(taskId, task.name, args, kwargs, wire as DeliveredRequest, {
    hostname: hostname(),
    isEager: true,
  })
}

function asDicts(value: unknown): SignatureDict[] | undefined {
  if (value === undefined || value === null) return undefined
  return JSON.parse(JSON.stringify(Array.isArray(value) ? value : [value])) as SignatureDict[]
}

/** Runs what is linked here as well, after one another; errors are logged unless they are to be thrown. */
async function runLinked(
  context: TaskContext,
  links: unknown,
  args: unknown[],
  throws: boolean,
): Promise<void> {
  const all = (
    links === undefined || links === null ? [] : Array.isArray(links) ? links : [links]
  ) as SignatureDict[]
  for (const link of all) {
    const run = (): unknown => maybeSignature(link, context.app)?.apply(args)
    if (throws) await runAsCurrentTask(context, run)
    else await runGuarded(context, `linked task '${link.task}'`, run)
  }
}

async function store(
  task: AnyTask,
  context: TaskContext,
  state: string,
  result: unknown,
  traceback: string | null = null,
) {
  if (!(task.options.storeEagerResult ?? task.app.conf.taskStoreEagerResult)) return
  if (context.request.ignoreResult && state === 'SUCCESS') return
  await task.app.backend.store({
    taskId: context.request.id,
    state,
    result,
    traceback,
    request: context.request,
  })
}
