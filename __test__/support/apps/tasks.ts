// The tasks of the workers that the tests start. Broker and backend come from the environment.
import { appendFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Celery, type CeleryOptions, Ignore, Reject, type Signature } from 'celeriac'

export const app = new Celery('node')
app.conf.update({
  workerLease: Number(process.env['WORKER_LEASE'] ?? 30),
  // A test that kills workers again and again means it.
  maxDeliveries: process.env['MAX_DELIVERIES'] === undefined ? null : Number(process.env['MAX_DELIVERIES']),
  ...(JSON.parse(process.env['SETTINGS'] ?? '{}') as CeleryOptions),
})

function write(line: string): void {
  const path = process.env['LEDGER']
  if (path === undefined) throw new Error('LEDGER names no file')
  appendFileSync(path, `${line}\n`)
}

/** A line that the tests' ledger makes a run of. */
function moment(word: 'begin' | 'end', task: { request: { id: string } }): void {
  write(`${word} ${task.request.id} ${process.pid} ${Date.now()}`)
}

class OutOfStock extends Error {
  override readonly name = 'OutOfStock'
}

app.task({ name: 'node.add', params: ['x', 'y'] }, (x: number, y: number) => x + y)

/** Keyword arguments of a task without `params` come last, as one object. */
app.task({ name: 'node.echo' }, (...args: unknown[]) => args)

app.task({ name: 'node.fail' }, (what: string) => {
  throw new OutOfStock(`no ${what} left`)
})

app.task(
  { name: 'node.retry', bind: true, maxRetries: 5 },
  (self, attempts: number, countdown: number = 0) => {
    write(`attempt ${self.request.id}`)
    if (self.request.retries < attempts) throw self.retry({ countdown, exc: new Error('not yet') })
    return self.request.retries
  },
)

app.task({ name: 'node.give_up', bind: true, maxRetries: 1 }, (self) => {
  throw self.retry({ countdown: 0, exc: new OutOfStock('gone for good') })
})

app.task(
  {
    name: 'node.autoretry',
    bind: true,
    autoretryFor: [OutOfStock],
    maxRetries: 3,
    retryBackoff: 0.05,
    retryBackoffMax: 1,
    retryJitter: false,
  },
  (self, failures: number) => {
    write(`attempt ${self.request.retries}`)
    if (self.request.retries < failures) throw new OutOfStock(`attempt ${self.request.retries}`)
    return self.request.retries
  },
)

app.task({ name: 'node.stray_rejection' }, () => {
  void Promise.reject(new Error('stray'))
  return 1
})

/** Ends the process. */
app.task({ name: 'node.exit' }, (code: number) => process.exit(code))

/** Throws outside of its promise. */
app.task({ name: 'node.throw_outside' }, () => {
  setTimeout(() => {
    throw new TypeError('outside')
  }, 50)
  return new Promise(() => {})
})

/** Its soft time limit fires the signal. */
app.task({ name: 'node.throwing_listener', bind: true }, (self) => {
  self.signal.addEventListener('abort', () => {
    throw new Error('from the listener')
  })
  return new Promise(() => {})
})

app.task({ name: 'node.write' }, (line: string) => write(line))

/** When it began, and when it was asked to: both in milliseconds since 1970. */
app.task({ name: 'node.times', bind: true }, (self) => {
  const now = Date.now()
  const eta = self.request.eta
  return [now, eta === null ? null : new Date(eta).getTime()]
})

app.task({ name: 'node.work', bind: true }, async (self, milliseconds: number) => {
  moment('begin', self)
  await sleep(milliseconds)
  moment('end', self)
})

app.task({ name: 'node.early', bind: true, acksLate: false }, async (self, milliseconds: number) => {
  moment('begin', self)
  await sleep(milliseconds)
  moment('end', self)
})

/** Blocks the event loop for that long. */
app.task({ name: 'node.block', bind: true }, (self, milliseconds: number) => {
  moment('begin', self)
  const end = performance.now() + milliseconds
  while (performance.now() < end);
  moment('end', self)
})

/** Blocks the event loop for good in the process that runs it first; anywhere else it ends at once. */
app.task({ name: 'node.loop', bind: true }, (self) => {
  moment('begin', self)
  while (!self.request.deliveryInfo.redelivered);
  moment('end', self)
})

/** Runs that long, and its result says where. */
app.task({ name: 'node.where', bind: true }, async (self, milliseconds: number) => {
  moment('begin', self)
  await sleep(milliseconds)
  moment('end', self)
  return process.pid
})

/** Runs that long; where it is handed out first it ends by Reject or by a retry, anywhere else its result says where. */
app.task({ name: 'node.leave', bind: true }, async (self, milliseconds: number, how: 'reject' | 'retry') => {
  moment('begin', self)
  await sleep(milliseconds)
  moment('end', self)
  if (self.request.deliveryInfo.redelivered) return process.pid
  if (how === 'reject') throw new Reject('not for us')
  throw self.retry({ countdown: 0, exc: new Error('again') })
})

/** What follows a task: a line with what it was given. */
app.task({ name: 'node.follow' }, (result: unknown, parent: string) =>
  write(`follow ${parent} ${String(result)}`),
)

/** Runs until its signal fires, and says why it fired. */
app.task({ name: 'node.until_aborted', bind: true }, async (self) => {
  write(`begin ${self.request.id}`)
  await new Promise((resolve) => self.signal.addEventListener('abort', resolve, { once: true }))
  const reason: unknown = self.signal.reason
  write(`aborted ${self.request.id} ${reason instanceof Error ? reason.name : String(reason)}`)
  throw reason
})

/** Kills the process that it runs in, as a crash would, unless that one is known to bear it (environment `UNHURT`). */
app.task({ name: 'node.crash', bind: true }, (self) => {
  moment('begin', self)
  if (process.env['UNHURT'] === undefined) process.kill(process.pid, 'SIGKILL')
  moment('end', self)
  return 'unhurt'
})

/** A task that the first release of a worker lacks (environment `RELEASE`). */
if (process.env['RELEASE'] === '2') {
  app.task({ name: 'node.later' }, (x: number, y: number) => x + y)
}

app.task({ name: 'node.ignore' }, () => {
  throw new Ignore()
})

app.task({ name: 'node.reject' }, () => {
  throw new Reject('not for us')
})

app.task({ name: 'node.requeue_once', bind: true }, (self) => {
  write(`requeue ${self.request.deliveryInfo.redelivered}`)
  if (!self.request.deliveryInfo.redelivered) throw new Reject('once more', { requeue: true })
  return 'came back'
})

app.task({ name: 'node.progress', bind: true }, async (self) => {
  await self.updateState({ state: 'HALFWAY', meta: { done: 50 } })
  write(`halfway ${self.request.id}`)
  await new Promise((resolve) => self.signal.addEventListener('abort', resolve, { once: true }))
})

app.task({ name: 'node.request', bind: true }, (self) => {
  const { id, rootId, parentId, retries, headers, deliveryInfo } = self.request
  write(`request ${id} ${rootId} ${parentId}`)
  return { id, rootId, parentId, retries, headers, routingKey: deliveryInfo.routingKey }
})

/** Sends a task of Python's from inside a task. */
app.task({ name: 'node.ask_python', bind: true }, async (self, x: number) => {
  const result = await app.sendTask('py.request', [x], { queue: 'python' })
  return { self: self.request.id, child: result.id }
})

app.task({ name: 'node.on_error' }, (...args: unknown[]) => write(`errback ${JSON.stringify(args.length)}`))

app.task(
  {
    name: 'node.handlers',
    bind: true,
    beforeStart(taskId) {
      write(`beforeStart ${taskId}`)
    },
    onSuccess(result, taskId) {
      write(`onSuccess ${taskId} ${JSON.stringify(result)}`)
    },
    onFailure(error, taskId) {
      write(`onFailure ${taskId} ${error instanceof Error ? error.message : String(error)}`)
    },
    onRetry(error, taskId) {
      write(`onRetry ${taskId} ${error instanceof Error ? error.message : String(error)}`)
    },
    afterReturn(state, _result, taskId) {
      write(`afterReturn ${taskId} ${state}`)
    },
    maxRetries: 1,
  },
  (self, how: 'succeed' | 'fail' | 'retry') => {
    write(`body ${self.request.id}`)
    if (how === 'fail') throw new Error('as asked')
    if (how === 'retry' && self.request.retries === 0)
      throw self.retry({ countdown: 0, exc: new Error('again') })
    return how
  },
)

/** A signature as the caller made it, called from here. */
app.task({ name: 'node.call_back' }, async (signature: Signature) => {
  const result = await app.maybeSignature(signature)?.delay()
  return result?.id
})
