import { existsSync } from 'node:fs'

import { type Command, Option } from 'commander'

import { resolveBroker } from '../../config/resolve.ts'
import {
  type DeadLetter,
  type DeadLetterFilter,
  type DeadLetterReason,
  type DeadLetters,
  deadLetterReasons,
  type WholeDeadLetter,
} from '../../dead-letters.ts'
import { CeleriacError } from '../../errors.ts'
import type { CliCommand, CliCommandGroup } from '../command.ts'
import { confirm } from '../confirm.ts'
import type { CliContext } from '../context.ts'
import { exitCodes } from '../exit-codes.ts'
import { wholeNumber } from '../option-values.ts'
import { printable, printableBytes, printableJson } from '../../log/printable.ts'

const listCommand: CliCommand = {
  name: 'list',
  summary: 'List the messages in the dead list, oldest first.',
  configure(command) {
    addFilter(command)
      .option('--limit <count>', 'how many to list', wholeNumber(1))
      .option('--json', 'print an array of JSON')
  },
  async run(context, options) {
    const { limit = Infinity, json = false } = options as { limit?: number; json?: boolean }
    const deadLetters = await deadLettersOf(context)
    const print = json ? new JsonArray(context) : new Table(context)
    watchOutput()
    let listed = 0
    for await (const letter of deadLetters.scan(filterOf(options))) {
      if (!outputIsRead) break
      if (listed === limit) {
        print.more(`There are more than these ${limit}.`)
        break
      }
      print.add(letter)
      listed += 1
    }
    print.end()
    if (listed === 0 && !json && outputIsRead) await sayWhatElse(context, deadLetters, filterOf(options))
    return exitCodes.ok
  },
}

const showCommand: CliCommand = {
  name: 'show',
  summary: 'Show one message in the dead list: why it is there, and what it says.',
  configure(command) {
    command
      .argument('<id>', 'id of the message in the dead list')
      .addOption(new Option('--raw', 'write the original bytes, and nothing else').conflicts('json'))
      .option('--json', 'print JSON; the original bytes are in it as base64')
  },
  async run(context, options, [id]) {
    const deadLetters = await deadLettersOf(context)
    const letter = await deadLetters.get(String(id))
    watchOutput()
    if (options['raw'] === true)
      await write(letter.raw).catch((error: unknown) => {
        if (outputIsRead) throw error
      })
    else if (options['json'] === true) {
      context.print(printableJson({ ...letter, raw: letter.raw.toString('base64') }))
    } else for (const line of linesOf(letter)) context.print(line)
    return exitCodes.ok
  },
}

const replayCommand: CliCommand = {
  name: 'replay',
  summary: 'Send messages in the dead list again, as they were; they leave the list.',
  configure(command) {
    addFilter(addChoice(command, 'replay')).option(
      '--to <queue>',
      'queue to send them to; without it each goes to the one that it was taken from',
    )
  },
  async run(context, options, [ids]) {
    const which = chosen(ids, options)
    const deadLetters = await deadLettersOf(context)
    const { to } = options as { to?: string }
    const target = to === undefined ? {} : { queue: to }
    const where = to === undefined ? '' : ` to queue ${printable(to)}`
    return act(context, 'Replayed', which, (one) => deadLetters.replay(one, target), where)
  },
}

const dropCommand: CliCommand = {
  name: 'drop',
  summary: 'Remove messages from the dead list. This cannot be undone.',
  configure(command) {
    addFilter(addChoice(command, 'drop')).option('-f, --force', 'do not ask')
  },
  async run(context, options, [ids]) {
    const which = chosen(ids, options)
    const deadLetters = await deadLettersOf(context)
    if (options['force'] !== true) {
      const count = isIds(which) ? await countIds(deadLetters, which) : await deadLetters.count(which)
      if (count > 0 && !(await confirm(`This removes ${messages(count)} from the dead list.`))) {
        context.print('Aborted!')
        return exitCodes.failure
      }
    }
    return act(context, 'Dropped', which, (one) => deadLetters.drop(one))
  },
}

/** `celeriac dead list|show|replay|drop`: what became of messages that no worker could handle. */
export const deadCommands: CliCommandGroup = {
  name: 'dead',
  summary: 'List, show, replay and drop the messages that no worker could handle.',
  commands: [listCommand, showCommand, replayCommand, dropCommand],
}

/** Ids, or what all of them have in common. */
type Which = readonly string[] | DeadLetterFilter

function addChoice(command: Command, verb: string): Command {
  return command
    .argument('[ids...]', 'ids of messages in the dead list')
    .option('--all', `${verb} all; with --queue, --reason or --task, all of those`)
}

function addFilter(command: Command): Command {
  return command
    .option('--queue <name>', 'only those that were taken from this queue')
    .addOption(
      new Option(
        '--reason <reason>',
        `only those that are there for this reason: ${deadLetterReasons.join(', ')}`,
      ).argParser(String),
    )
    .option('--task <name>', 'only those of the task of this name')
}

function filterOf(options: Readonly<Record<string, unknown>>): DeadLetterFilter {
  const { queue, reason, task } = options as { queue?: string; reason?: DeadLetterReason; task?: string }
  return {
    ...(queue === undefined ? {} : { queue }),
    ...(reason === undefined ? {} : { reason }),
    ...(task === undefined ? {} : { task }),
  }
}

function chosen(given: unknown, options: Readonly<Record<string, unknown>>): Which {
  const ids = given as string[]
  const filter = filterOf(options)
  const isFiltered = Object.keys(filter).length > 0
  if (options['all'] === true && ids.length === 0) return filter
  if (options['all'] !== true && ids.length > 0 && !isFiltered) return ids
  throw new CeleriacError(
    'ERR_CELERIAC_INVALID_ARGUMENT',
    ids.length > 0
      ? 'ids name messages one by one: leave out --all, --queue, --reason and --task'
      : `which messages? Name them by their ids, or say --all${isFiltered ? ' for all of those' : ''}`,
  )
}

function isIds(which: Which): which is readonly string[] {
  return Array.isArray(which)
}

/** The dead list of the app. A SQLite file that is not there is not made for it: its name is a slip of the pen. */
async function deadLettersOf(context: CliContext): Promise<DeadLetters> {
  const { conf, deadLetters } = await context.app()
  const [url] = resolveBroker(conf).write
  const file = sqliteFile(url)
  if (file === undefined || existsSync(file)) return deadLetters
  throw new CeleriacError(
    'ERR_CELERIAC_BROKER_UNAVAILABLE',
    `there is no file ${file}: name the broker with -A or -b, and see the working directory`,
  )
}

/** The path of a broker in a SQLite file, as it stands in the URL; undefined for all others. */
function sqliteFile(url: string): string | undefined {
  const path = /^(?:sqla|sqlalchemy)\+sqlite:\/\/\/([^?]+)/.exec(url)?.[1]
  // The core says what is wrong with this one.
  return path === ':memory:' ? undefined : path
}

/** Says what there is when a filter has found nothing, for whoever has mistyped it. */
async function sayWhatElse(
  context: CliContext,
  deadLetters: DeadLetters,
  filter: DeadLetterFilter,
): Promise<void> {
  if (Object.keys(filter).length === 0) return
  const { queue } = filter
  const queues = new Set<string>()
  let others = 0
  for await (const letter of deadLetters.scan()) {
    others += 1
    queues.add(letter.queue ?? '-')
  }
  if (others === 0) return
  if (typeof queue !== 'string' || queues.has(queue)) {
    context.say(`It has ${messages(others)} to which not all of that applies.`)
    return
  }
  const names = [...queues].slice(0, 10).map(printable).join(', ')
  const more = queues.size > 10 ? ' and more' : ''
  context.say(`It knows no message of queue ${printable(queue)}, but ${others} of ${names}${more}.`)
}

/** How many of these are there. */
async function countIds(deadLetters: DeadLetters, ids: readonly string[]): Promise<number> {
  let count = 0
  for (const id of new Set(ids)) {
    try {
      await deadLetters.get(id)
      count += 1
    } catch (error) {
      if (!(error instanceof CeleriacError) || error.code !== 'ERR_CELERIAC_DEAD_LETTER_NOT_FOUND')
        throw error
    }
  }
  return count
}

/** What is wrong with one letter, and no reason to leave out the others. */
const ONE_LETTERS: ReadonlySet<string> = new Set([
  'ERR_CELERIAC_DEAD_LETTER_NOT_FOUND',
  'ERR_CELERIAC_INVALID_ARGUMENT',
])

/** Does it to each id on its own, so that one that is not there is named and holds up no other; or to all that match. */
async function act(
  context: CliContext,
  done: string,
  which: Which,
  work: (which: string | DeadLetterFilter) => Promise<number>,
  where = '',
): Promise<number> {
  let code: number = exitCodes.ok
  let count = 0
  for (const one of isIds(which) ? new Set(which) : [which]) {
    try {
      count += await work(one)
    } catch (error) {
      if (!isIds(which) || one === '' || !(error instanceof CeleriacError) || !ONE_LETTERS.has(error.code))
        throw error
      process.stderr.write(`Error: ${printable(error.message)} (${error.code})\n`)
      code = exitCodes.failure
    }
  }
  context.print(`${done} ${messages(count)}${where}.`)
  return code
}

function messages(count: number): string {
  return count === 1 ? '1 message' : `${count} messages`
}

/** Prints letters as they come. */
interface Listing {
  add(letter: DeadLetter): void
  /** Says that not all were listed. */
  more(note: string): void
  end(): void
}

/** Columns as wide as what the first rows need: later ones are not known yet. */
class Table implements Listing {
  static readonly #HEAD = ['Id', 'When', 'Queue', 'Reason', 'Task', 'Detail']
  static readonly #ROWS = 100
  readonly #context: CliContext
  #rows: string[][] = [Table.#HEAD]
  #widths: number[] | undefined
  #note: string | undefined

  constructor(context: CliContext) {
    this.#context = context
  }

  add({ id, date, queue, reason, task, detail }: DeadLetter): void {
    this.#rows.push([id, timeOf(date), queue ?? '-', reason, task ?? '-', detail].map(printable))
    if (this.#rows.length > Table.#ROWS) this.#flush()
  }

  more(note: string): void {
    this.#note = note
  }

  end(): void {
    if (this.#widths === undefined && this.#rows.length === 1)
      this.#context.say('The dead list has no such messages.')
    else this.#flush()
    if (this.#note !== undefined) this.#context.say(this.#note)
  }

  #flush(): void {
    if (this.#widths === undefined) {
      const widths = Table.#HEAD.map((_, column) =>
        Math.max(...this.#rows.map((row) => (row[column] as string).length)),
      )
      this.#rows.splice(
        1,
        0,
        widths
          .slice(0, -1)
          .map((width) => '-'.repeat(width))
          .concat('-'.repeat(16)),
      )
      this.#widths = widths
    }
    const widths = this.#widths
    for (const row of this.#rows) {
      const cells = row.map((cell, column) =>
        column === row.length - 1 ? cell : cell.padEnd(widths[column] as number),
      )
      this.#context.print(cells.join('  '))
    }
    this.#rows = []
  }
}

const OPENING = '['

/** One letter a line. */
class JsonArray implements Listing {
  readonly #context: CliContext
  #waiting = OPENING

  constructor(context: CliContext) {
    this.#context = context
  }

  add(letter: DeadLetter): void {
    // The comma comes with the next one.
    this.#context.print(this.#waiting === OPENING ? OPENING : `${this.#waiting},`)
    this.#waiting = printableJson(letter)
  }

  more(): void {}

  end(): void {
    this.#context.print(this.#waiting)
    this.#context.print(']')
  }
}

/** Bytes of a message that cannot be read that are shown. */
const EXCERPT = 1000

/** What is known of a letter, for people. */
function linesOf(letter: WholeDeadLetter): string[] {
  const { message, raw } = letter
  const rows: Array<[label: string, value: string]> = [
    ['id', printable(letter.id)],
    ['when', timeOf(letter.date)],
    ['queue', printable(letter.queue ?? 'not known')],
    ['reason', printable(letter.reason)],
    ['detail', printable(letter.detail)],
    ['size', letter.size === 1 ? '1 byte' : `${letter.size} bytes`],
  ]
  if (message === null) {
    const start = startOf(raw)
    const shown = printableBytes(start)
    rows.push(['begins with', start.length < raw.length ? `${shown} ...` : shown])
    return table(rows)
  }
  rows.push(
    ['task', printable(message.task ?? 'not named')],
    ['task id', printable(message.id ?? 'none')],
    ['arguments', printable(message.argsrepr ?? 'not readable')],
    ['keywords', printable(message.kwargsrepr ?? 'not readable')],
    [
      'content',
      printable([message.contentType, message.contentEncoding].filter((it) => it !== null).join(', ')),
    ],
  )
  return [
    ...table(rows),
    ...['headers', ...members(message.headers)],
    ...['properties', ...members(message.properties)],
  ]
}

/** Not cut within a character of UTF-8. */
function startOf(raw: Buffer): Buffer {
  let end = Math.min(EXCERPT, raw.length)
  while (end > EXCERPT - 4 && ((raw[end] ?? 0) & 0xc0) === 0x80) end -= 1
  return raw.subarray(0, end)
}

function table(rows: ReadonlyArray<[label: string, value: string]>): string[] {
  const width = Math.max(...rows.map(([label]) => label.length))
  return rows.map(([label, value]) => `${label.padEnd(width)}  ${value}`)
}

function members(object: Readonly<Record<string, unknown>>): string[] {
  return Object.entries(object).map(([name, value]) => `  ${printable(name)}: ${printableJson(value)}`)
}

/** A time that no Date can hold is still a letter. */
function timeOf(date: Date): string {
  return Number.isNaN(date.getTime()) ? 'not known' : date.toISOString()
}

/** Whether somebody still reads standard output; undefined as long as nobody has asked. */
let outputIsRead: boolean | undefined

/** Has `celeriac dead list | head` end quietly once its reader has enough, which is no failure. */
function watchOutput(): void {
  if (outputIsRead !== undefined) return
  outputIsRead = true
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') outputIsRead = false
    else if (outputIsRead) throw error
  })
}

/** Writes bytes to standard output as they are. */
function write(bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(bytes, (error) => (error == null ? resolve() : reject(error)))
  })
}
