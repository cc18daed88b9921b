import { Socket } from 'node:net'

import type { NativeBroker } from './native.ts'

/** Longer than the answers are. */
const LENGTH = 512

/**
 * Reads the answers to calls that are made one at a time from the socket that they come on: the core's thread would have to be
 * woken for each, and to wake this one. Where something else waits behind a call the core reads them itself.
 */
export class Answers {
  readonly #native: NativeBroker
  readonly #done: (call: number) => void
  #socket: Socket | undefined

  /** `done` is told the number of a call that the broker has taken. */
  constructor(native: NativeBroker, done: (call: number) => void) {
    this.#native = native
    this.#done = done
  }

  /** Watches the socket when there is one. Asked after a call that was made while no other was under way. */
  watch(): void {
    if (this.#socket !== undefined) return
    const found = this.#native.watch()
    if (found === null) return
    const [descriptor, connection] = found as [number, number]
    const answer = (text: string): void => {
      const call = this.#native.answer(connection, text)
      if (call >= 0) this.#done(call)
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
      // Without it such calls go the way of all others.
      answer('')
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
