import type {
  NativeBroker,
  NativeBrokerOptions,
  NativeResults,
  NativeResultsOptions,
  NativeRoute,
  Report,
} from '../../../lib/native.ts'

/** A task message that reached {@link FakeBroker}. */
export interface SentTask {
  readonly route: NativeRoute
  readonly taskId: string
  readonly args: string
  readonly kwargs: string
  readonly options: Record<string, unknown> | null
}

/** A message that is no task. */
export interface SentMessage {
  readonly exchange: string
  readonly exchangeType: string
  readonly body: unknown
  readonly headers: unknown
}

/** Stands for the core's broker: keeps what is published, and reports it done in the next turn. */
export class FakeBroker {
  static opened: FakeBroker[] = []
  readonly options: NativeBrokerOptions
  readonly routes: NativeRoute[] = []
  readonly sent: SentTask[] = []
  readonly messages: SentMessage[] = []
  closed = 0
  /** What publishes fail with; undefined lets them succeed. */
  failure: { code: string; message: string } | undefined
  /** Which calls are refused, by their arguments. */
  refuses: (args: string) => boolean = () => false
  /** Whether publishes are left without an answer. */
  silent = false
  readonly #report: Report

  constructor(options: NativeBrokerOptions, report: Report) {
    this.options = options
    this.#report = report
  }

  static open(options: NativeBrokerOptions, report: Report): NativeBroker {
    const broker = new FakeBroker(options, report)
    FakeBroker.opened.push(broker)
    return broker as unknown as NativeBroker
  }

  static get last(): FakeBroker {
    return FakeBroker.opened.at(-1) as FakeBroker
  }

  route(route: NativeRoute): number {
    return this.routes.push(route) - 1
  }

  /** How many calls crossed at once. */
  readonly crossings: number[] = []

  publish(first: number, calls: string): void {
    const lines = calls.split('\n')
    this.crossings.push((lines.length - 1) / 5)
    for (let index = 0; 5 * index + 5 < lines.length; index++) {
      const [route, id, args, kwargs, options] = lines.slice(5 * index) as [
        string,
        string,
        string,
        string,
        string,
      ]
      this.sent.push({
        route: this.routes[Number(route)] as NativeRoute,
        taskId: id.startsWith('"') ? (JSON.parse(id) as string) : id,
        args,
        kwargs: kwargs === '' ? '{}' : kwargs,
        options: options === '' ? null : (JSON.parse(options) as Record<string, unknown>),
      })
      const refused = { code: 'ERR_CELERIAC_REFUSED', message: 'refused' }
      this.#answer(first + index, this.refuses(args) ? refused : this.failure)
    }
  }

  watch(): null {
    return null
  }

  publishMessage(
    call: number,
    exchange: string,
    exchangeType: string,
    _key: string,
    body: string,
    headers: string,
  ): void {
    this.messages.push({ exchange, exchangeType, body: JSON.parse(body), headers: JSON.parse(headers) })
    this.#answer(call, this.failure)
  }

  close(): Promise<void> {
    this.closed += 1
    return Promise.resolve()
  }

  #answer(call: number, failure: FakeBroker['failure']): void {
    if (this.silent) return
    setImmediate(() =>
      failure === undefined
        ? this.#report([call, 1], null, null)
        : this.#report([], null, [{ call, ...failure }]),
    )
  }
}

/** Stands for the core's result store: keeps documents in a map and wakes waits. */
export class FakeResults {
  static opened: FakeResults[] = []
  readonly options: NativeResultsOptions
  readonly documents = new Map<string, Record<string, unknown>>()
  readonly waits = new Map<number, string>()
  readonly #report: Report

  constructor(report: Report, options: NativeResultsOptions) {
    this.#report = report
    this.options = options
  }

  static open(options: NativeResultsOptions, report: Report): NativeResults {
    const results = new FakeResults(report, options)
    FakeResults.opened.push(results)
    return results as unknown as NativeResults
  }

  static get last(): FakeResults {
    return FakeResults.opened.at(-1) as FakeResults
  }

  connect(): Promise<void> {
    return Promise.resolve()
  }

  /** Puts a document there, as a worker does. */
  put(taskId: string, status: string, result: unknown, more: Record<string, unknown> = {}): void {
    this.documents.set(taskId, { task_id: taskId, status, result, traceback: null, children: [], ...more })
    for (const [call, awaited] of this.waits) if (awaited === taskId) this.#wake(call)
  }

  wait(call: number, taskId: string): void {
    this.waits.set(call, taskId)
    if (this.documents.has(taskId)) this.#wake(call)
  }

  cancelWait(call: number): void {
    this.waits.delete(call)
  }

  get(taskIds: string[]): Promise<Array<string | null>> {
    const one = (id: string): string | null =>
      this.documents.has(id) ? JSON.stringify(this.documents.get(id)) : null
    return Promise.resolve(taskIds.map(one))
  }

  store(meta: string): Promise<void> {
    const document = JSON.parse(meta) as { task_id: string }
    this.documents.set(document.task_id, document)
    return Promise.resolve()
  }

  forget(taskIds: string[]): Promise<void> {
    for (const id of taskIds) this.documents.delete(id)
    return Promise.resolve()
  }

  close(): Promise<void> {
    return Promise.resolve()
  }

  #wake(call: number): void {
    const document = this.documents.get(this.waits.get(call) as string)
    if (!['SUCCESS', 'FAILURE', 'REVOKED'].includes(String(document?.['status']))) return
    this.waits.delete(call)
    setImmediate(() => this.#report([call, 1], [JSON.stringify(document)], null))
  }
}
