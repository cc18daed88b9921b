import { AsyncResource } from 'node:async_hooks'

import type { AnyTask } from '../task.ts'
import type { SignalSource } from '../task-context.ts'

/** The time that timers of Node take at most, in milliseconds. */
const LONGEST_TIMER_MS = 2 ** 31 - 1

/** A task whose body has begun. */
export class RunningTask implements SignalSource {
  readonly tag: number
  readonly id: string
  readonly name: string
  readonly #task: AnyTask | undefined
  /** `performance.now()` when it was begun. */
  readonly startedAt: number
  /** Whether its outcome was handed over: whatever its body does then changes nothing. */
  settled = false
  /** Whether a revoke has ended it. */
  terminated = false
  #controller: AbortController | undefined
  #abortInTask: ((reason: unknown) => void) | undefined
  #reason: unknown
  #aborted = false
  #softTimer: NodeJS.Timeout | undefined

  constructor(tag: number, id: string, name: string, task: AnyTask | undefined) {
    this.tag = tag
    this.id = id
    this.name = name
    this.#task = task
    this.startedAt = performance.now()
  }

  /** Whether its message is still the broker's to give out again. */
  get acksLate(): boolean {
    return this.#task?.acksLate ?? true
  }

  /** The signal that its body gets. Made when it is first asked for, which most bodies never do. */
  makeSignal(): AbortSignal {
    if (this.#controller === undefined) {
      const controller = new AbortController()
      this.#controller = controller
      // What listeners throw is to be known as the task's.
      this.#abortInTask = AsyncResource.bind((reason: unknown) => controller.abort(reason))
      if (this.#aborted) this.#controller.abort(this.#reason)
    }
    return this.#controller.signal
  }

  /** Why the signal has fired; undefined when it has not. */
  get abortReason(): unknown {
    return this.#reason
  }

  /** Fires the signal, once. */
  abort(reason: unknown): void {
    if (this.#aborted) return
    this.#aborted = true
    this.#reason = reason
    this.#abortInTask?.(reason)
  }

  /** Calls `exceeded` after that many seconds, unless it has ended before. */
  startSoftTimer(seconds: number, exceeded: () => void): void {
    this.#softTimer = setTimeout(exceeded, Math.min(seconds * 1000, LONGEST_TIMER_MS))
  }

  /** No limit holds any more. */
  stopTimer(): void {
    clearTimeout(this.#softTimer)
  }
}
