/** A task message, encoded: what the core's `publish` and a settlement's messages take. */
export interface PreparedMessage {
  /** Number of the route, given by {@link BrokerConnection.route}. */
  readonly route: number
  readonly taskId: string
  /** JSON array in Python's sense. */
  readonly args: string
  /** JSON object in Python's sense. */
  readonly kwargs: string
  /** JSON object: the fields of `TaskOptions` in crates/celeriac-protocol; null when there is none. */
  readonly options: string | null
  /** Whether the sender wants no result; null leaves it to the worker. */
  readonly ignoreResult: boolean | null
}
