/** The log of a worker of ours that writes a JSON object a line. */

import { closeSync, existsSync, openSync, readSync } from 'node:fs'

/** A line. */
export interface LogLine {
  readonly level: string
  readonly logger: string
  readonly message: string
  readonly task_id?: string
  readonly task_name?: string
  readonly stack?: string
}

/** Reads the file that a worker with `--json -f` writes, in parts, since it may be long. */
export function* linesOfLog(path: string): Generator<LogLine> {
  if (!existsSync(path)) return
  const file = openSync(path, 'r')
  try {
    const chunk = Buffer.alloc(1 << 20)
    let rest: Buffer = Buffer.alloc(0)
    for (let size; (size = readSync(file, chunk)) > 0;) {
      const bytes = Buffer.concat([rest, chunk.subarray(0, size)])
      const end = bytes.lastIndexOf('\n') + 1
      rest = Buffer.from(bytes.subarray(end))
      const lines = bytes.subarray(0, end).toString().split('\n')
      for (const line of lines) if (line !== '') yield JSON.parse(line) as LogLine
    }
  } finally {
    closeSync(file)
  }
}
