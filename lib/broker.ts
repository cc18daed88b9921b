import { CeleriacError } from './errors.ts'
import { call, callAsync, Calls, openNativeBroker } from './native.ts'
import { Outbox } from './outbox.ts'
import type { PreparedMessage } from './prepare.ts'
import type {
  NativeBroker,
  NativeBrokerOptions,
  NativeDeadLetter,
  NativeFeatures,
  NativeQueue,
  NativeRoute,
  Report,
} from './native.ts'

/** Opens the core's side of a broker connection; another one in tests. */
export type OpenBroker = (options: NativeBrokerOptions, report: Report) => NativeBroker

/** One app's connection to its broker, opened on first use. The core reconnects by itself. */
export class BrokerConnection {
  readonly #options: () => NativeBrokerOptions
  readonly #open: OpenBroker
  readonly #calls = new Calls()
  readonly #outbox = new Outbox(this.#calls, (first, calls) => this.native.publish(first, calls))
  readonly #routes = new Map<string, number>()
  #native: NativeBroker | undefined
  #closing: Promise<void> | undefined

  /** `options` is asked when the connection is first needed. */
  constructor(options: () => NativeBrokerOptions, open: OpenBroker = openNativeBroker) {
    this.#options = options
    this.#open = open
  }

  /** The core's connection. Throws ERR_CELERIAC_CLOSED after {@link close}. */
  get native(): NativeBroker {
    if (this.#closing !== undefined) throw closed()
    this.#native ??= this.#open(this.#options(), this.#calls.report)
    return this.#native
  }

  /** Resolves when the broker has answered. */
  connect(): Promise<void> {
    return callAsync('broker.connect', () => this.native.connect())
  }

  /** Declares queues with their exchanges and bindings. */
  declare(queues: NativeQueue[]): Promise<void> {
    return callAsync('broker.declare', () => this.native.declare(queues))
  }

  /** The number that stands for this route; equal routes share one. */
  route(route: NativeRoute): number {
    const key = JSON.stringify(route)
    let number = this.#routes.get(key)
    if (number === undefined) {
      number = call('broker.route', () => this.native.route(route))
      this.#routes.set(key, number)
    }
    return number
  }

  /** Sends a task message. Resolves with `value` once the broker has taken responsibility for it. */
  publish<T>(message: PreparedMessage, value: T): Promise<T> {
    if (this.#closing !== undefined) return Promise.reject(closed())
    return this.#outbox.send(message, value)
  }

  /**
   * Sends task messages at once. Resolves once each is settled; `failed` is called for each that the broker has not taken, with
   * its place and the error.
   */
  publishMany(
    messages: readonly PreparedMessage[],
    failed: (index: number, error: unknown) => void,
  ): Promise<void> {
    if (this.#closing !== undefined) return Promise.reject(closed())
    return this.#outbox.sendMany(messages, failed)
  }

  /** Sends any message, such as one of remote control; the last three are JSON texts. */
  publishMessage(
    exchange: { name: string; type: string },
    routingKey: string,
    body: string,
    headers: string,
    properties: string,
  ): Promise<void> {
    this.#outbox.flush()
    return this.#calls.make<void>(DONE as undefined, (number) => {
      this.native.publishMessage(number, exchange.name, exchange.type, routingKey, body, headers, properties)
    })
  }

  /** How many messages wait in a queue. */
  queueLength(queue: string): Promise<number> {
    return callAsync('broker.queueLength', () => this.native.queueLength(queue))
  }

  /** Removes the messages that wait in a queue; says how many there were. */
  purge(queue: string): Promise<number> {
    return callAsync('broker.purge', () => this.native.purge(queue))
  }

  /** Messages that no worker could run, oldest first, without their bytes. */
  deadLetters(offset: number, limit: number): Promise<NativeDeadLetter[]> {
    return callAsync('broker.deadLetters', () => this.native.deadLetters(offset, limit))
  }

  /** How many of them there are. */
  deadCount(): Promise<number> {
    return callAsync('broker.deadCount', () => this.native.deadCount())
  }

  /** One of them with its original bytes; null when it is not there (any more). */
  async deadLetter(id: string): Promise<NativeDeadLetter | null> {
    return (await callAsync('broker.deadLetter', () => this.native.deadLetter(id))) ?? null
  }

  /** Moves them back to the end of their queues, or of `queue`; says of each whether it was there. */
  replayDead(ids: string[], queue: string | null): Promise<boolean[]> {
    return callAsync('broker.replayDead', () => this.native.replayDead(ids, queue))
  }

  /** Removes them for good; says of each whether it was there. */
  dropDead(ids: string[]): Promise<boolean[]> {
    return callAsync('broker.dropDead', () => this.native.dropDead(ids))
  }

  /** What this broker can do. */
  features(): NativeFeatures {
    return call('broker.features', () => this.native.features())
  }

  /** Settles what is under way, then closes. Calling it twice is fine. */
  close(): Promise<void> {
    this.#closing ??= this.#end()
    return this.#closing
  }

  async #end(): Promise<void> {
    this.#outbox.flush()
    const native = this.#native
    if (native === undefined) return
    await callAsync('broker.close', () => native.close())
    this.#calls.failAll(
      new CeleriacError('ERR_CELERIAC_CLOSED', 'the app was closed before the broker answered'),
    )
  }
}

function closed(): CeleriacError {
  return new CeleriacError('ERR_CELERIAC_CLOSED', 'the app is closed')
}

/** What a publish without a value resolves with: anything but undefined, which asks for a document. */
const DONE: unknown = null
