import { randomUUID } from 'node:crypto'

import type { Celery } from '../app.ts'
import { CeleriacError } from '../errors.ts'
import type { PreparedMessage } from '../prepare.ts'
import type { ChildResult, SignatureDict } from '../request.ts'
import type { AnyTask } from '../task.ts'
import type { TaskContext } from '../task-context.ts'

/** Messages that go out with a settlement, and the results that become children of the task. */
export interface FollowUp {
  readonly messages: PreparedMessage[]
  readonly children: ChildResult[]
}

/**
 * What follows a success: what is linked, then the next of the chain, each with the result before its own arguments.
 * Several links go as one group, as in Celery. Throws where one cannot be sent.
 */
export function afterSuccess(context: TaskContext, result: unknown): FollowUp {
  const { app, request } = context
  const followUp: FollowUp = { messages: [], children: [] }
  const ids = { root_id: request.rootId, parent_id: request.id }
  const callbacks = (request.callbacks ?? []).map((callback) => membersOf(callback))
  const singles = callbacks.filter(({ isGroup }) => !isGroup).flatMap(({ members }) => members)
  for (const { isGroup, members } of callbacks) if (isGroup) sendGroup(app, followUp, members, [result], ids)
  if (singles.length > 1) sendGroup(app, followUp, singles, [result], ids)
  else for (const signature of singles) sendOne(app, followUp, signature, [result], ids)
  const next = request.chain?.at(-1)
  if (next !== undefined) {
    const { isGroup, members } = membersOf(next)
    const chain = request.chain?.slice(0, -1) ?? []
    if (isGroup && chain.length > 0) throw notSupported('a group in the middle of a chain')
    if (isGroup) sendGroup(app, followUp, members, [result], ids)
    else for (const signature of members) sendOne(app, followUp, signature, [result], { ...ids, chain })
  }
  return followUp
}

/** What is called after a failure, by the way in which it is called. */
export interface Errbacks {
  /** Sent as tasks that get the id of the failed one. */
  readonly messages: PreparedMessage[]
  /** Called here, with the request, the error and its traceback. */
  readonly local: ReadonlyArray<{ readonly task: AnyTask; readonly signature: SignatureDict }>
}

/**
 * The errbacks of a task. One that is registered here, is not bound, and has more than one parameter left to fill is
 * called in this process; any other is sent (`Backend._call_task_errbacks`).
 */
export function errbacksOf(context: TaskContext): Errbacks {
  const { app, request } = context
  const local: Array<{ task: AnyTask; signature: SignatureDict }> = []
  const sent: SignatureDict[] = []
  for (const errback of request.errbacks ?? []) {
    const { isGroup, members } = membersOf(errback)
    for (const signature of members) {
      const task = isGroup ? undefined : app.tasks.get(signature.task)
      if (task !== undefined && !task.bound && freeParameters(task, signature) > 1)
        local.push({ task, signature })
      else sent.push(signature)
    }
  }
  const followUp: FollowUp = { messages: [], children: [] }
  const ids = { root_id: request.rootId, parent_id: request.id }
  if (sent.length > 0) sendGroup(app, followUp, sent, [request.id], ids)
  return { messages: followUp.messages, local }
}

/** Calls an errback in this process. */
export function callErrback(
  errback: Errbacks['local'][number],
  context: TaskContext,
  error: unknown,
  traceback: string | null,
): unknown {
  const { task, signature } = errback
  const first = signature.immutable ? [] : [context.request, error, traceback]
  return task.callDirectly(task.bindArguments([...first, ...(signature.args ?? [])], signature.kwargs ?? {}))
}

function freeParameters(task: AnyTask, signature: SignatureDict): number {
  const all = task.parameters?.length ?? task.body.length
  if (signature.immutable) return all
  return all - (signature.args ?? []).length - Object.keys(signature.kwargs ?? {}).length
}

/** The tasks of a group, or the one task that a signature is. */
function membersOf(signature: SignatureDict): { isGroup: boolean; members: SignatureDict[] } {
  const type = signature.subtask_type ?? null
  if (type === null) return { isGroup: false, members: [signature] }
  const tasks: unknown = signature.kwargs?.['tasks']
  if (type !== 'group' || !Array.isArray(tasks)) throw notSupported(`a ${type} as what follows a task`)
  const members = (tasks as SignatureDict[]).map((task) => {
    if ((task.subtask_type ?? null) !== null) throw notSupported(`a ${task.subtask_type} within a group`)
    return task
  })
  return { isGroup: true, members }
}

function sendOne(
  app: Celery,
  followUp: FollowUp,
  signature: SignatureDict,
  args: readonly unknown[],
  options: Record<string, unknown>,
): void {
  const message = app.prepareSignature(signature, args, options)
  followUp.messages.push(message)
  followUp.children.push(app.AsyncResult(message.taskId))
}

function sendGroup(
  app: Celery,
  followUp: FollowUp,
  signatures: readonly SignatureDict[],
  args: readonly unknown[],
  options: Record<string, unknown>,
): void {
  const id = randomUUID()
  const messages = signatures.map((signature, index) =>
    app.prepareSignature(signature, args, { ...options, group_id: id, group_index: index }),
  )
  followUp.messages.push(...messages)
  const members = messages.map((message) => app.AsyncResult(message.taskId).asTuple())
  followUp.children.push({ asTuple: () => [[id, null], members] })
}

function notSupported(what: string): CeleriacError {
  return new CeleriacError('ERR_CELERIAC_NOT_SUPPORTED', `${what} is not supported yet`)
}
