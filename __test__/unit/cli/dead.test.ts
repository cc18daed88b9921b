import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

import { runCommandLine } from '../../../lib/cli/program.ts'
import { rawTask } from '../../support/reliability/messages.ts'
import { temporaryFolder } from '../../support/servers.ts'
import { FakeDeadList } from '../support/fake-dead-list.ts'

let list: FakeDeadList
let output: Buffer
let errors: string
/** What the operator answers. */
let answers: string[]
let questions: string[]

vi.mock(import('../../../lib/native.ts'), async (original) => ({
  ...(await original()),
  openNativeBroker: () => list.open(),
}))

vi.mock('node:readline/promises', () => ({
  createInterface: () => ({
    question: (question: string) => {
      questions.push(question)
      return Promise.resolve(answers.shift() ?? '')
    },
    close: () => {},
  }),
}))

beforeEach(() => {
  list = new FakeDeadList()
  output = Buffer.alloc(0)
  errors = ''
  answers = []
  questions = []
  vi.stubEnv('CELERY_APP', undefined)
  vi.stubEnv('CELERY_BROKER_URL', 'memory://')
  vi.spyOn(process.stdout, 'write').mockImplementation((chunk, done?: unknown) => {
    output = Buffer.concat([output, Buffer.from(chunk as string)])
    if (typeof done === 'function') (done as () => void)()
    return true
  })
  vi.spyOn(process.stderr, 'write').mockImplementation((chunk) => {
    errors += String(chunk)
    return true
  })
})

afterEach(() => {
  vi.restoreAllMocks()
  vi.unstubAllEnvs()
})

const dead = (...args: string[]): Promise<number> => runCommandLine(['dead', ...args])
const lines = (): string[] => output.toString().split('\n').slice(0, -1)

/** Whatever a terminal acts on, or hides: line ends are what print() writes. */
const TERMINAL = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u
const HOSTILE = 'a\x1b]0;owned\x07\x1b[2J\u009b31m\u202egnp\u2028\r\nb\u{e0041}'

describe('list', () => {
  test('prints a letter a line, oldest first', async () => {
    list.add({
      id: '1',
      atMs: 0,
      queue: 'node',
      reason: 'unknown-task',
      task: 't.add',
      detail: 'no such task',
    })
    list.add({ id: '22', atMs: 1, queue: '' })
    expect([await dead('list'), errors]).toEqual([0, ''])
    expect(lines()).toEqual([
      'Id  When                      Queue  Reason        Task   Detail',
      '--  ------------------------  -----  ------------  -----  ----------------',
      '1   1970-01-01T00:00:00.000Z  node   unknown-task  t.add  no such task',
      '22  1970-01-01T00:00:00.001Z  -      malformed     -      expected value at line 1 column 1',
    ])
  })

  test('an empty one says so, and says nothing with -q', async () => {
    expect(await dead('list')).toBe(0)
    expect(lines()).toEqual(['The dead list has no such messages.'])
    expect(await dead('list', '-q')).toBe(0)
    expect(lines()).toHaveLength(1)
  })

  test('a filter that finds nothing says what there is, and no cursor is moved by it', async () => {
    list.addMany(2)
    list.add({ queue: HOSTILE })
    expect(await dead('list', '--queue', 'nosuch')).toBe(0)
    expect(lines()).toEqual([
      'The dead list has no such messages.',
      expect.stringMatching(/^It knows no message of queue nosuch, but 3 of q, a.*b.*\.$/),
    ])
    expect(lines().join('')).not.toMatch(TERMINAL)
    output = Buffer.alloc(0)
    expect(await dead('list', '--queue', 'q', '--task', 't.b')).toBe(0)
    expect(lines().at(-1)).toBe('It has 3 messages to which not all of that applies.')
    output = Buffer.alloc(0)
    expect(await dead('list', '--queue', 'nosuch', '--json')).toBe(0)
    expect(JSON.parse(output.toString())).toEqual([])
  })

  test('the filters apply together, and --limit says that there are more', async () => {
    const [first] = list.addMany(3, { reason: 'rejected', task: 't.a' })
    list.addMany(2, { reason: 'rejected', task: 't.b' })
    list.addMany(2, { reason: 'rejected', task: 't.a', queue: 'other' })
    const filters = ['--queue', 'q', '--reason', 'rejected', '--task', 't.a']
    expect(await dead('list', ...filters)).toBe(0)
    expect(lines()).toHaveLength(5)
    output = Buffer.alloc(0)
    expect(await dead('list', '--limit', '1', ...filters)).toBe(0)
    expect(lines().slice(2)).toEqual([expect.stringMatching(`^${first} `), 'There are more than these 1.'])
  })

  test('a long list is read by pages, and columns stay in their places', async () => {
    for (let index = 0; index < 1234; index++) list.add({ id: String(10_000 + index) })
    expect(await dead('list')).toBe(0)
    expect(lines()).toHaveLength(1236)
    expect(new Set(lines().map((line) => line.indexOf('malformed')))).toEqual(new Set([-1, 40]))
    expect(list.pages).toEqual([
      [0, 500],
      [500, 500],
      [1000, 234],
    ])
  })

  test.each([[0], [1], [3]])('--json of %d is an array of them', async (count) => {
    list.addMany(count, { task: HOSTILE })
    expect(await dead('list', '--json')).toBe(0)
    const parsed = JSON.parse(output.toString()) as unknown[]
    const expected = Array.from({ length: count }, (_, index) => ({
      id: `letter-${index + 1}`,
      queue: 'q',
      reason: 'malformed',
      detail: 'expected value at line 1 column 1',
      task: HOSTILE,
      taskId: null,
      date: `2026-01-01T00:00:00.00${index + 1}Z`,
      size: 8,
    }))
    expect(parsed).toEqual(expected)
    for (const line of lines()) expect(line).not.toMatch(TERMINAL)
  })

  test('a wrong reason or limit is a wrong usage', async () => {
    expect(await dead('list', '--reason', 'poisoned')).toBe(2)
    expect(errors).toContain("'poisoned' is no reason of the dead list: they are malformed,")
    expect(await dead('list', '--limit', '0')).toBe(2)
  })

  test('what messages say moves no cursor', async () => {
    list.add({ task: HOSTILE, taskId: HOSTILE, detail: HOSTILE, queue: HOSTILE })
    expect(await dead('list')).toBe(0)
    expect(lines()).toHaveLength(3)
    for (const line of lines()) expect(line).not.toMatch(TERMINAL)
    const escaped = String.raw`a\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\u2028\r\nb\u{e0041}`
    expect(lines()[2]).toContain(escaped)
  })
})

describe('show', () => {
  test('says what is known of a message, and what it says', async () => {
    const raw = rawTask({ task: 't.add', id: 'some-id', args: [1, 'two'], headers: { tenant: { n: 1 } } })
    const id = list.add({ raw, reason: 'unknown-task', detail: 'no task is registered' })
    expect([await dead('show', id), errors]).toEqual([0, ''])
    const expected = [
      'id         letter-1',
      'when       2026-01-01T00:00:00.001Z',
      'queue      q',
      'reason     unknown-task',
      'detail     no task is registered',
      `size       ${raw.length} bytes`,
      'task       t.add',
      'task id    some-id',
      "arguments  (1, 'two')",
      'keywords   {}',
      'content    application/json, utf-8',
      'headers',
      '  lang: "py"',
    ]
    expect(lines().slice(0, expected.length)).toEqual(expected)
    expect(lines()).toContain('  tenant: {"n":1}')
    expect(lines()).toContain('  correlation_id: "some-id"')
  })

  test('bytes that are no message are shown as they begin, escaped', async () => {
    const id = list.add({ raw: Buffer.from([0x61, 0xff, 0x1b, 0x5b, 0x00, 0x9b, 0xad, 0x0a]) })
    expect(await dead('show', id)).toBe(0)
    expect(lines().at(-1)).toBe(String.raw`begins with  a\xff\x1b[\x00\x9b\xad\n`)
  })

  test('of a long one the start is shown, not cut within a character', async () => {
    const id = list.add({ raw: 'é€😀'.repeat(1000) })
    expect(await dead('show', id)).toBe(0)
    expect(lines().at(-1)).toMatch(/^begins with {2}(é€😀)+é?€? \.\.\.$/)
  })

  test('what messages say moves no cursor', async () => {
    const said = {
      [HOSTILE]: HOSTILE,
      nested: { [HOSTILE]: [HOSTILE] },
      argsrepr: HOSTILE,
      kwargsrepr: HOSTILE,
    }
    const raw = rawTask({ task: HOSTILE, id: HOSTILE, headers: said, properties: said, contentType: HOSTILE })
    const whole = { raw, task: HOSTILE, taskId: HOSTILE, detail: HOSTILE, queue: HOSTILE, reason: HOSTILE }
    const ids = [list.add(whole), list.add({ ...whole, raw: HOSTILE })]
    for (const id of ids) {
      for (const flags of [[], ['--json']]) {
        expect(await dead('show', id, ...flags)).toBe(0)
        for (const line of lines()) expect(line).not.toMatch(TERMINAL)
      }
    }
  })

  test('--raw writes the original bytes and nothing else', async () => {
    const raw = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))
    expect(await dead('show', list.add({ raw }), '--raw')).toBe(0)
    expect(output.equals(raw)).toBe(true)
  })

  test('--json has the bytes as base64 and the message as it reads', async () => {
    const raw = rawTask({ task: 't.add', id: 'some-id' })
    expect(await dead('show', list.add({ raw }), '--json')).toBe(0)
    const shown = JSON.parse(output.toString()) as { raw: string; message: object }
    expect(Buffer.from(shown.raw, 'base64').toString()).toBe(raw)
    expect(shown.message).toMatchObject({ task: 't.add', id: 'some-id', argsrepr: '()' })
  })

  test('one that is not there is a failure, --raw with --json a wrong usage', async () => {
    expect(await dead('show', 'gone')).toBe(1)
    expect(errors).toMatch(
      /^Error: the dead list has no letter 'gone'.*\(ERR_CELERIAC_DEAD_LETTER_NOT_FOUND\)\n$/,
    )
    expect(await dead('show', 'gone', '--raw', '--json')).toBe(2)
  })
})

describe('replay', () => {
  test('one that cannot be sent holds up no other', async () => {
    const [first] = list.addMany(1) as [string]
    const lost = list.add({ queue: '' })
    const [last] = list.addMany(1) as [string]
    expect(await dead('replay', first, lost, 'gone', last)).toBe(1)
    expect(lines()).toEqual(['Replayed 2 messages.'])
    expect(errors).toContain('ERR_CELERIAC_INVALID_ARGUMENT')
    expect(errors).toContain('ERR_CELERIAC_DEAD_LETTER_NOT_FOUND')
    expect(list.letters.map(({ id }) => id)).toEqual([lost])
  })

  test('ids go back to where they were taken from, or to --to', async () => {
    const [first, second] = list.addMany(3) as [string, string]
    expect(await dead('replay', first)).toBe(0)
    expect(await dead('replay', second, '--to', 'elsewhere')).toBe(0)
    expect(lines()).toEqual(['Replayed 1 message.', 'Replayed 1 message to queue elsewhere.'])
    expect(list.replayed).toEqual([
      [first, null],
      [second, 'elsewhere'],
    ])
    expect(list.letters).toHaveLength(1)
  })

  test('an id that is not there is named, is a failure, and holds up no other', async () => {
    const [first, second] = list.addMany(2) as [string, string]
    expect(await dead('replay', first, 'gone', second)).toBe(1)
    expect(lines()).toEqual(['Replayed 2 messages.'])
    expect(errors).toContain("no letter 'gone'")
  })

  test('--all takes all, or all that the filters let through', async () => {
    list.addMany(3, { reason: 'rejected' })
    list.addMany(2, { task: 't.a' })
    expect(await dead('replay', '--all', '--reason', 'rejected')).toBe(0)
    expect(await dead('replay', '--all', '--task', 't.b')).toBe(0)
    expect(await dead('replay', '--all')).toBe(0)
    expect(lines()).toEqual(['Replayed 3 messages.', 'Replayed 0 messages.', 'Replayed 2 messages.'])
  })
})

describe('drop', () => {
  const { isTTY } = process.stdin
  beforeEach(() => {
    process.stdin.isTTY = true
  })
  afterEach(() => {
    process.stdin.isTTY = isTTY
  })

  test('asks first, and goes on with yes only', async () => {
    list.addMany(3, { reason: 'rejected' })
    const other = list.add()
    answers = ['', 'n', 'y']
    const drop = ['drop', '--all', '--reason', 'rejected']
    expect([await dead(...drop), await dead(...drop)]).toEqual([1, 1])
    expect(lines()).toEqual(['Aborted!', 'Aborted!'])
    expect(list.letters).toHaveLength(4)
    expect(await dead(...drop)).toBe(0)
    expect(lines().at(-1)).toBe('Dropped 3 messages.')
    expect(list.ids).toEqual([other])
    for (const question of questions)
      expect(question).toMatch(/^This removes 3 messages from the dead list\./)
  })

  test('-f does not ask, and nothing is asked for nothing', async () => {
    const [first, second] = list.addMany(2) as [string, string]
    expect(await dead('drop', '-f', first, second)).toBe(0)
    expect(await dead('drop', '--all')).toBe(0)
    expect(lines()).toEqual(['Dropped 2 messages.', 'Dropped 0 messages.'])
    expect(questions).toEqual([])
  })

  test('what is asked counts the ids that are there, and nothing is asked for none', async () => {
    const [first] = list.addMany(2) as [string]
    answers = ['n']
    expect(await dead('drop', 'gone')).toBe(1)
    expect(questions).toEqual([])
    expect(errors).toContain("no letter 'gone'")
    expect(await dead('drop', 'gone', first, first)).toBe(1)
    expect(questions).toEqual([expect.stringMatching(/^This removes 1 message from the dead list\./)])
    expect(list.letters).toHaveLength(2)
  })

  test('where nobody can answer it wants -f', async () => {
    process.stdin.isTTY = false
    list.add()
    expect(await dead('drop', '--all')).toBe(2)
    expect(errors).toContain('say -f')
    expect(list.letters).toHaveLength(1)
  })
})

test.each(['replay', 'drop'])('%s wants ids or --all, and not both', async (command) => {
  const id = list.add()
  const wrong = [[], ['--queue', 'q'], [id, '--all'], [id, '--queue', 'q'], ['']]
  for (const args of wrong) {
    const forced = command === 'drop' ? ['-f'] : []
    expect(await dead(command, ...args, ...forced), args.join(' ')).toBe(2)
    expect(errors).toContain('ERR_CELERIAC_INVALID_ARGUMENT')
    errors = ''
  }
  expect(list.letters).toHaveLength(1)
})

test.each([['list'], ['show', '1'], ['replay', '1'], ['drop', '-f', '1']])(
  '%s on a SQLite file that is not there says so, and makes none',
  async (...args) => {
    const folder = temporaryFolder()
    const file = join(folder, 'a%20b.db')
    vi.stubEnv('CELERY_BROKER_URL', `sqla+sqlite:///${file}?timeout=3`)
    expect(await dead(...args)).toBe(69)
    expect(errors).toBe(
      `Error: there is no file ${file}: name the broker with -A or -b, and see the working directory ` +
        '(ERR_CELERIAC_BROKER_UNAVAILABLE)\n',
    )
    expect(existsSync(file)).toBe(false)
    writeFileSync(file, '')
    list.add({ id: '1' })
    expect(await dead(...args)).toBe(0)
  },
)

test('a wrong command is a wrong usage, with the nearest', async () => {
  expect(await dead('shwo')).toBe(2)
  expect(errors).toContain('Did you mean show?')
  expect(await dead()).toBe(2)
})

test('options come from the environment under the names of both commands', async () => {
  list.addMany(2)
  vi.stubEnv('CELERY_LIST_LIMIT', '2')
  vi.stubEnv('CELERY_DEAD_LIST_LIMIT', '1')
  expect(await dead('list')).toBe(0)
  expect(lines().at(-1)).toBe('There are more than these 1.')
})
