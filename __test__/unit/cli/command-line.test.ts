import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command } from 'commander'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

import type { CliCommand } from '../../../lib/cli/command.ts'
import { commands } from '../../../lib/cli/commands.ts'
import type { CliContext } from '../../../lib/cli/context.ts'
import { createPidfile } from '../../../lib/cli/pidfile.ts'
import { runCommandLine } from '../../../lib/cli/program.ts'
import { CeleriacError } from '../../../lib/errors.ts'
import { FakeBroker, FakeResults } from '../support/fake-native.ts'

vi.mock(import('../../../lib/native.ts'), async (original) => {
  const fake = await import('../support/fake-native.ts')
  return {
    ...(await original()),
    openNativeBroker: (...args) => fake.FakeBroker.open(...args),
    openNativeResults: (...args) => fake.FakeResults.open(...args),
  }
})

const fixtures = join(import.meta.dirname, 'fixtures')
let output = ''
let errors = ''

beforeEach(() => {
  output = errors = ''
  FakeBroker.opened = []
  FakeResults.opened = []
  vi.stubEnv('CELERY_APP', undefined)
  vi.stubEnv('CELERY_BROKER_URL', 'memory://')
  vi.stubEnv('CELERY_RESULT_BACKEND', 'cache+memory://')
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    output += String(text)
    return true
  })
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    errors += String(text)
    return true
  })
})

afterEach(() => {
  vi.restoreAllMocks()
  vi.unstubAllEnvs()
})

/** A command that keeps what it was run with. */
function spying(name: string, configure: CliCommand['configure'] = () => {}, error?: Error) {
  const runs: Array<{ context: CliContext; options: Readonly<Record<string, unknown>> }> = []
  const command: CliCommand = {
    name,
    summary: 'A test.',
    configure,
    run(context, options) {
      runs.push({ context, options })
      return error === undefined ? Promise.resolve(7) : Promise.reject(error)
    },
  }
  return { command, runs }
}

/** The options of the worker that these arguments come to. */
async function workerOptions(...args: string[]): Promise<Readonly<Record<string, unknown>>> {
  const real = commands.find(({ name }) => name === 'worker') as CliCommand
  const { command, runs } = spying('worker', (one) => real.configure(one))
  const code = await runCommandLine(['worker', ...args], [command])
  if (code !== 7) throw new Error(`exit code ${code}: ${errors}`)
  return runs[0]?.options ?? {}
}

describe('the program', () => {
  test('--version prints the version alone', async () => {
    expect(await runCommandLine(['--version'])).toBe(0)
    expect(output).toMatch(/^\d+\.\d+\.\d+\n$/)
  })

  test('help names every command, and lists no variables', async () => {
    expect(await runCommandLine(['--help'])).toBe(0)
    for (const { name } of commands) expect(output).toMatch(new RegExp(`^  ${name} `, 'm'))
    expect(output).not.toContain('env:')
  })

  test('no command shows the help', async () => {
    expect(await runCommandLine([])).toBe(0)
    expect(output).toContain('Usage: celeriac')
  })

  test('a wrong command is a wrong usage, with the nearest', async () => {
    expect(await runCommandLine(['wroker'])).toBe(2)
    expect(errors).toContain('Did you mean worker?')
  })

  test('the exit code is the command’s', async () => {
    expect(await runCommandLine(['x'], [spying('x').command])).toBe(7)
  })

  test.each([
    ['ERR_CELERIAC_BROKER_UNAVAILABLE', 69],
    ['ERR_CELERIAC_APP_NOT_FOUND', 2],
    ['ERR_CELERIAC_INTERNAL', 70],
    ['ERR_CELERIAC_TASK_FAILED', 1],
  ] as const)('%s ends with %d, in one line with its code', async (code, expected) => {
    const { command } = spying('x', undefined, new CeleriacError(code, 'what happened'))
    expect(await runCommandLine(['x'], [command])).toBe(expected)
    expect(errors).toBe(`Error: what happened (${code})\n`)
  })

  test('CELERIAC_DEBUG adds the stack', async () => {
    vi.stubEnv('CELERIAC_DEBUG', '1')
    const { command } = spying('x', undefined, new CeleriacError('ERR_CELERIAC_INTERNAL', 'deep'))
    await runCommandLine(['x'], [command])
    expect(errors).toMatch(/CeleriacError: deep\n +at /)
  })

  test('options of a command come from the environment too, after the command line', async () => {
    vi.stubEnv('CELERY_WORKER_CONCURRENCY', '5')
    vi.stubEnv('CELERY_WORKER_PREFETCH_MULTIPLIER', '2')
    expect(await workerOptions('-c', '3')).toMatchObject({ concurrency: 3, prefetchMultiplier: 2 })
  })

  test('-b goes before what the app says, wherever it stands', async () => {
    const { command, runs } = spying('x')
    await runCommandLine(['x', '-b', 'redis://else/1'], [command])
    expect((await runs[0]?.context.app())?.conf.brokerUrl).toBe('redis://else/1')
  })

  test('-A names the app, --config its settings', async () => {
    const app = join(fixtures, 'typescript.ts')
    const { command, runs } = spying('x')
    await runCommandLine(['-A', app, '--config', join(fixtures, 'settings.mjs'), 'x'], [command])
    const found = await runs[0]?.context.app()
    expect([found?.main, found?.conf.taskDefaultQueue]).toEqual(['ts-plain-helped', 'from-settings'])
  })
})

test('imports, include and what a command adds are imported, each once', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'celeriac-imports-'))
  const imported: string[] = []
  vi.stubGlobal('imported', imported)
  const module = (name: string): string => {
    writeFileSync(join(folder, `${name}.mjs`), `globalThis.imported.push('${name}')\n`)
    return join(folder, `${name}.mjs`)
  }
  const [first, second, third] = ['first', 'second', 'third'].map(module) as [string, string, string]
  const { command, runs } = spying('x')
  await runCommandLine(['x'], [command])
  const context = runs[0]?.context
  ;(await context?.app())?.conf.update({ imports: [first], include: [second, first] })
  await context?.importTaskModules([third])
  expect(imported).toEqual(['first', 'second', 'third'])
  vi.unstubAllGlobals()
  rmSync(folder, { recursive: true })
})

describe('options of the worker', () => {
  test('Celery’s, read and checked', async () => {
    const options = await workerOptions(
      ...[
        '-n',
        'w@%h',
        '-c',
        '8',
        '-P',
        'gevent',
        '-Q',
        'a, b,',
        '-X',
        'c',
        '-l',
        'info',
        '-f',
        'x.log',
        '-I',
        'm',
      ],
      ...[
        '-E',
        '--purge',
        '--soft-time-limit',
        '1.5',
        '--time-limit',
        '2',
        '--prefetch-multiplier',
        '0',
        '--json',
      ],
      ...['--without-gossip', '--without-mingle', '--without-heartbeat', '-O', 'fair', '--pidfile', 'p'],
    )
    expect(options).toMatchObject({
      hostname: 'w@%h',
      concurrency: 8,
      pool: 'gevent',
      queues: ['a', 'b'],
      excludeQueues: ['c'],
      loglevel: 'INFO',
      logfile: 'x.log',
      include: ['m'],
      taskEvents: true,
      purge: true,
      softTimeLimit: 1.5,
      timeLimit: 2,
      prefetchMultiplier: 0,
      json: true,
      pidfile: 'p',
    })
  })

  test('the level is WARNING unless one is named', async () => {
    expect(await workerOptions()).toMatchObject({ loglevel: 'WARNING' })
  })

  test.each([
    ['-c', '0'],
    ['-c', 'many'],
    ['--soft-time-limit', 'soon'],
    ['-O', 'fastest'],
    ['--no-such-option'],
  ])('%s %s is a wrong usage', async (...args) => {
    expect(await runCommandLine(['worker', ...args])).toBe(2)
    expect(errors).not.toBe('')
  })

  test('a level that is none is named with those that are', async () => {
    expect(await runCommandLine(['worker', '-l', 'loud'])).toBe(2)
    expect(errors).toContain("'loud' is no log level")
  })

  test.each(['-D', '-B', '--autoscale=3,1', '--uid=me'])('%s is refused with the reason', async (flag) => {
    expect(await runCommandLine(['worker', flag])).toBe(1)
    expect(errors).toMatch(/is not supported yet: .*\(ERR_CELERIAC_NOT_SUPPORTED\)/)
  })

  test('a pool to come is refused', async () => {
    expect(await runCommandLine(['worker', '-P', 'prefork', '-f', '/dev/null'])).not.toBe(0)
    expect(errors).toContain("'prefork' is not supported yet")
  })
})

describe('call', () => {
  test('sends the task and prints its id', async () => {
    const code = await runCommandLine([
      ...['call', 'tasks.add', '-a', '[1, "b"]', '-k', '{"x": null}', '--queue', 'q', '--expires', '60'],
      ...['--countdown', '5'],
    ])
    expect([code, errors]).toEqual([0, ''])
    const [sent] = FakeBroker.last.sent
    expect(output).toBe(`${sent?.taskId}\n`)
    expect(sent).toMatchObject({
      route: { task: 'tasks.add', queue: { name: 'q' } },
      args: '[1,"b"]',
      kwargs: '{"x":null}',
      options: { expires: expect.any(String) as string, eta: expect.any(String) as string },
    })
    expect(FakeBroker.last.closed).toBe(1)
  })

  test.each([
    ['-a', '{}', 'It must be a JSON array'],
    ['-a', '[1', 'not valid JSON'],
    ['-k', '[]', 'It must be a JSON object'],
    ['--eta', 'tomorrow', 'ISO 8601'],
    ['--countdown', 'x', 'number of seconds'],
  ])('%s %s is a wrong usage', async (flag, value, text) => {
    expect(await runCommandLine(['call', 'x', flag, value])).toBe(2)
    expect(errors).toContain(text)
  })
})

describe('result', () => {
  const opened = async (): Promise<FakeResults> => {
    await vi.waitFor(() => expect(FakeResults.opened).toHaveLength(1))
    return FakeResults.last
  }

  test.each([
    ['plain text', 'plain text'],
    [{ a: [1] }, '{"a":[1]}'],
    [null, 'null'],
  ])('prints %j', async (value, printed) => {
    const run = runCommandLine(['result', 'some-id'])
    ;(await opened()).put('some-id', 'SUCCESS', value)
    expect([await run, output]).toEqual([0, `${printed}\n`])
  })

  test('a task that failed is an error', async () => {
    const run = runCommandLine(['result', 'some-id'])
    const document = { exc_type: 'ValueError', exc_message: ['no'], exc_module: 'builtins' }
    ;(await opened()).put('some-id', 'FAILURE', document)
    expect([await run, errors]).toEqual([1, 'Error: ValueError: no (ERR_CELERIAC_TASK_FAILED)\n'])
  })

  test('without a result backend it says so', async () => {
    vi.stubEnv('CELERY_RESULT_BACKEND', undefined)
    expect(await runCommandLine(['result', 'some-id'])).toBe(1)
    expect(errors).toContain('ERR_CELERIAC_NO_RESULT_BACKEND')
  })
})

describe('list', () => {
  test('bindings are those of the queues that the app consumes', async () => {
    expect(await runCommandLine(['list', 'bindings'])).toBe(0)
    expect(output.split('\n')[2]).toMatch(/^celery +celery +celery$/)
  })

  test('what cannot be listed is refused with what can', async () => {
    expect(await runCommandLine(['list', 'workers'])).toBe(2)
    expect(errors).toContain('choose bindings, queues, tasks')
  })
})

test('purge asks, and where nobody can answer it wants -f', async () => {
  expect(await runCommandLine(['purge'])).toBe(2)
  expect(errors).toContain('say -f')
})

test('report shows versions and settings, and no password', async () => {
  vi.stubEnv('CELERY_BROKER_URL', 'redis://me:secret@host/0')
  expect(await runCommandLine(['report'])).toBe(0)
  expect(output).toMatch(/^software -> celeriac:/)
  expect(output).toContain('redis://me:')
  expect(output).not.toContain('secret')
})

describe('pid files', () => {
  let folder: string
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'celeriac-pid-'))
  })
  afterEach(() => rmSync(folder, { recursive: true }))

  test('they hold the process id and are removed', () => {
    const path = join(folder, 'pid')
    const remove = createPidfile(path)
    expect(readFileSync(path, 'utf8')).toBe(`${process.pid}\n`)
    remove()
    expect(() => readFileSync(path)).toThrow('ENOENT')
  })

  test('that of a running process is left alone, that of a dead one replaced', () => {
    const path = join(folder, 'pid')
    writeFileSync(path, `${process.ppid}\n`)
    expect(() => createPidfile(path)).toThrow(`that of a running process (${process.ppid})`)
    // No process has an id as high.
    writeFileSync(path, '99999999\n')
    createPidfile(path)
    expect(readFileSync(path, 'utf8')).toBe(`${process.pid}\n`)
  })
})

test('no option of a command hides one of the program', () => {
  const program = new Set(['-A', '-b', '-C', '-q', '--app', '--broker', '--config', '--workdir', '--quiet'])
  for (const definition of commands.flatMap((entry) => ('commands' in entry ? entry.commands : [entry]))) {
    const command = new Command(definition.name)
    definition.configure(command)
    for (const option of command.options) {
      expect(program).not.toContain(option.short)
      expect(program).not.toContain(option.long)
    }
  }
})
