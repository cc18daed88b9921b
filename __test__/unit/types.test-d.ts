import { expectTypeOf } from 'vitest'

import {
  type AnySignature,
  type AnyTask,
  type AsyncResult,
  Celery,
  type DeadLetter,
  type DeadLetterReason,
  type DeadMessage,
  sharedTask,
  type Signature,
  type TaskContext,
  type TaskError,
  type TaskOptions,
} from '../../index.ts'

// What is here is checked by the compiler: a line under @ts-expect-error that compiles is an error.
const app = new Celery({ broker: 'memory://' })
const add = app.task({ name: 'types.add' }, (x: number, y: number) => x + y)
const fetchPage = app.task(
  { name: 'types.fetch', bind: true, maxRetries: 5 },
  async (self, url: string, tries?: number) => {
    expectTypeOf(self).toEqualTypeOf<TaskContext>()
    if (url === '') throw self.retry({ countdown: 2, exc: new Error(String(tries)) })
    return { length: url.length }
  },
)
const sum = app.task({ name: 'types.sum' }, (...numbers: number[]) => numbers.length)

/** Never called: these lines are for the compiler. */
async function calls(): Promise<void> {
  expectTypeOf(add(2, 3)).toEqualTypeOf<number>()
  expectTypeOf(await add.delay(2, 3)).toEqualTypeOf<AsyncResult<number>>()
  expectTypeOf(await (await add.delay(2, 3)).get()).toEqualTypeOf<number>()
  expectTypeOf(await (await add.delay(2, 3)).result()).toEqualTypeOf<number | TaskError>()
  // @ts-expect-error a string is no number
  await add.delay('x', 1)
  // @ts-expect-error an argument is missing
  await add.delay(1)
  // @ts-expect-error one too many
  await add.delay(1, 2, 3)
  // @ts-expect-error a string is no number
  add('x', 1)
  await add.applyAsync([2, 3], { countdown: 5, queue: 'fast' })
  await add.applyAsync([], { kwargs: { x: 2, y: 3 } })
  // @ts-expect-error a string is no number
  await add.applyAsync(['x', 3])
  // @ts-expect-error there is no such option
  await add.applyAsync([2, 3], { countDown: 5 })

  expectTypeOf(fetchPage('x')).toEqualTypeOf<Promise<{ length: number }>>()
  expectTypeOf(await (await fetchPage.delay('x')).get()).toEqualTypeOf<{ length: number }>()
  await fetchPage.delay('x', 3)
  // @ts-expect-error self is given by the worker
  await fetchPage.delay(undefined, 'x')

  await sum.delay(1, 2, 3)
  // @ts-expect-error a string is no number
  await sum.delay('1')

  expectTypeOf(await app.sendTask('by.name')).toEqualTypeOf<AsyncResult>()
  expectTypeOf(await (await app.sendTask<number>('by.name')).get()).toEqualTypeOf<number>()
  // @ts-expect-error an AsyncResult is no promise
  void (await add.delay(1, 2)).then
}

/** Never called. */
async function signatures(): Promise<void> {
  expectTypeOf(add.s()).toEqualTypeOf<Signature<[x: number, y: number], number>>()
  await add.s().delay(1, 2)
  await add.s(2).delay(3)
  await add.s(2, 3).delay()
  // @ts-expect-error an argument is missing
  await add.s(2).delay()
  // @ts-expect-error a string is no number
  add.s('x')
  // @ts-expect-error one too many
  add.s(1, 2, 3)
  expectTypeOf(await (await add.s(2).delay(3)).get()).toEqualTypeOf<number>()
  await fetchPage.s('x').delay()
  await fetchPage.s(5).delay('x')
  await add.si(2, 3).delay()
  // @ts-expect-error an immutable one takes no more
  await add.si(2, 3).delay(1)
  // @ts-expect-error an immutable one needs all
  add.si(2)
  await sum.s(1).delay(2, 3)
  const link: AnySignature = add.s(2)
  await add.applyAsync([1, 2], { link, linkError: [fetchPage.s('x')] })
  const any: AnyTask = add
  void any
}

/** Never called. */
async function deadLetters(): Promise<void> {
  const [letter] = await app.deadLetters.list({ queue: 'q', reason: 'unknown-task', task: null, limit: 10 })
  expectTypeOf(letter).toEqualTypeOf<DeadLetter | undefined>()
  // @ts-expect-error a list has no bytes
  void letter?.raw
  const whole = await app.deadLetters.get('1')
  expectTypeOf(whole.raw).toEqualTypeOf<Buffer>()
  expectTypeOf(whole.date).toEqualTypeOf<Date>()
  expectTypeOf(whole.message).toEqualTypeOf<DeadMessage | null>()
  expectTypeOf(whole.reason).toEqualTypeOf<DeadLetterReason>()
  for await (const { queue } of app.deadLetters.scan()) expectTypeOf(queue).toEqualTypeOf<string | null>()
  expectTypeOf(await app.deadLetters.replay(['1'], { queue: 'q' })).toEqualTypeOf<number>()
  expectTypeOf(await app.deadLetters.drop({ reason: 'poison' })).toEqualTypeOf<number>()
  // @ts-expect-error there is no such reason
  await app.deadLetters.drop({ reason: 'poisoned' })
  // @ts-expect-error there is no such field
  await app.deadLetters.count({ taskName: 't' })
  // @ts-expect-error everything is {}
  await app.deadLetters.drop()
}

/** Never called. */
function tasks(): void {
  app.task(
    {
      name: 'types.handlers',
      onSuccess(result, taskId) {
        expectTypeOf(result).toEqualTypeOf<number>()
        expectTypeOf(taskId).toEqualTypeOf<string>()
        expectTypeOf(this).toEqualTypeOf<TaskContext>()
      },
    },
    async (x: number) => x,
  )
  // @ts-expect-error without bind there is no self
  app.task({ name: 'types.unbound' }, (self: TaskContext, x: number) => self.name + x) satisfies {
    delay(x: number): unknown
  }
  // @ts-expect-error an option of a wrong type
  app.task({ name: 'types.wrong', maxRetries: 'many' }, () => 1)
  const shared = sharedTask({ name: 'types.shared', bind: true }, (self, x: number) => `${self.name}${x}`)
  expectTypeOf(shared.delay).parameters.toEqualTypeOf<[x: number]>()
  const plain = app.task(function named(x: string) {
    return x
  })
  expectTypeOf(plain.delay).parameters.toEqualTypeOf<[x: string]>()
  // Options that were declared on their own fit, for a task that is not bound; a bound one says so in the call.
  const declared: TaskOptions = { maxRetries: 5, throws: null }
  const fromDeclared = app.task(declared, (x: number) => x)
  expectTypeOf(fromDeclared.delay).parameters.toEqualTypeOf<[x: number]>()
  const boundDeclared = app.task({ ...declared, bind: true }, (self, x: number) => `${self.name}${x}`)
  expectTypeOf(boundDeclared.delay).parameters.toEqualTypeOf<[x: number]>()
  expectTypeOf(sharedTask(declared, (x: number) => x).delay).parameters.toEqualTypeOf<[x: number]>()
  // @ts-expect-error no such setting
  new Celery({ brokerURL: 'memory://' })
  new Celery('proj', { broker: 'memory://', task_acks_late: true, taskTrackStarted: true })
}

void [calls, signatures, deadLetters, tasks]
