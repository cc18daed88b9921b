import { closeSync } from 'node:fs'
import { Socket } from 'node:net'

import type { NativeBroker } from './native.ts'

/** Longer than the answers are. */
const LENGTH = 512

/** How long the event loop stays awake for an answer: longer than one from the same machine takes, shorter than one from another. */
const AWAKE_FOR_MS = 0.1

/** After answers that were waited for in vain, as many calls as this at the most are not waited for. */
const MOST_ASLEEP = 1024

/**
 * Reads the answers to calls that are made one at a time from the socket that they come on: the core's thread would have to be
 * woken for each, and to wake this one. Where something else waits behind a call the core reads them itself.
 *
 * To fall asleep and be woken again takes a thread longer than Redis takes to answer. So the event loop goes on turning
 * until the answer is there, which everything else on it goes on turning with, or until it is clear that it comes from further away.
 */
export class Answers {
  readonly #native: NativeBroker
  readonly #done: (call: number) => void
  #socket: Socket | undefined
  /** A call that the broker has not answered. */
  #isUnderWay = false
  #isAwake = false
  #awakeUntil = 0
  /** How many calls are not waited for after one that is answered too late. */
  #asleepNext = 1
  /** How many calls from now on are not waited for. */
  #asleep = 0

  /** `done` is told the number of a call that the broker has taken. */
  constructor(native: NativeBroker, done: (call: number) => void) {
    this.#native = native
    this.#done = done
  }

  /** Waits for the answer when there is a socket that it may come on. Asked after a call that was made while no other was under way. */
  watch(): void {
    if (this.#socket === undefined) this.#open()
    else this.#stayAwake()
  }

  #stayAwake(): void {
    this.#isUnderWay = true
    if (this.#asleep > 0) {
      this.#asleep -= 1
      return
    }
    this.#awakeUntil = performance.now() + AWAKE_FOR_MS
    if (this.#isAwake) return
    this.#isAwake = true
    setImmediate(this.#turn)
  }

  readonly #turn = (): void => {
    if (this.#isUnderWay) {
      const call = this.#native.readAnswer()
      if (call >= 0) {
        this.#answered(call)
      } else if (performance.now() < this.#awakeUntil) {
        setImmediate(this.#turn)
        return
      } else {
        this.#asleep = this.#asleepNext
        this.#asleepNext = Math.min(2 * this.#asleepNext, MOST_ASLEEP)
      }
    }
    this.#isAwake = false
  }

  #answered(call: number): void {
    this.#isUnderWay = false
    if (this.#isAwake) this.#asleepNext = 1
    this.#done(call)
  }

  #open(): void {
    const found = this.#native.watch()
    if (found === null) return
    const [descriptor, connection] = found as [number, number]
    const answer = (text: string): void => {
      const call = this.#native.answer(connection, text)
      if (call >= 0) this.#answered(call)
    }
    const callback = (length: number, buffer: Uint8Array): boolean => {
      answer((buffer as Buffer).toString('latin1', 0, length))
      return true
    }
    const onread = { buffer: Buffer.allocUnsafeSlow(LENGTH), callback }
    let socket: Socket
    try {
      socket = new Socket({ fd: descriptor, readable: true, writable: false, onread })
    } catch {
      // The core reads it itself, this one and those after it.
      closeSync(descriptor)
      this.#native.unwatch()
      return
    }
    this.#socket = socket
    // What is wrong with it, the core finds out by itself.
    socket.on('error', () => {})
    socket.on('close', () => {
      if (this.#socket === socket) this.#socket = undefined
      answer('')
    })
    socket.unref()
    socket.read(0)
  }

  /** Watches no more. */
  close(): void {
    this.#socket?.destroy()
  }
}
