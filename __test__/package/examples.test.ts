import { cpSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { celeriac, node, startPython, startWorker } from '../support/processes.ts'
import { startRedis, temporaryFolder } from '../support/servers.ts'

const root = join(import.meta.dirname, '..', '..')
const examples = join(root, 'examples')
/** What runs a TypeScript file on every Node that is supported. */
const jiti = join(root, 'node_modules', 'jiti', 'lib', 'jiti-cli.mjs')

test('examples/quick-start does what its README says', async () => {
  const folder = join(examples, 'quick-start')
  const cwd = temporaryFolder()
  await using worker = await startWorker(join(folder, 'tasks.ts'), [], { cwd })
  const { code, stdout, stderr } = await node(jiti, [join(folder, 'producer.ts')], { cwd }).finished
  expect(code, stderr + worker.output).toBe(0)
  expect(stdout).toBe('5\norder 17 is paid, attempt 2\n')
})

test('examples/dead-list does what docs/dead-list.md says', async () => {
  const folder = join(examples, 'dead-list')
  const tasks = join(folder, 'tasks.ts')
  const cwd = temporaryFolder()
  const worker = await startWorker(tasks, [], { cwd })
  const produced = await node(jiti, [join(folder, 'producer.ts')], { cwd }).finished
  expect(produced.code, produced.stderr).toBe(0)
  await worker.says(/Task mail\.send\[.*nowhere is no address/)
  await worker.says(/unregistered task of type "mail\.digest"/)
  await worker.end()

  // Each command of the page, on the same two letters.
  const page = readFileSync(join(root, 'docs', 'dead-list.md'), 'utf8')
  const commands = [...page.matchAll(/^npx celeriac -A \.\/tasks\.ts (dead (\w+).*)$/gm)]
  expect(new Set(commands.map((match) => match[2]))).toEqual(new Set(['list', 'show', 'replay', 'drop']))
  const listed = await celeriac(['-A', tasks, 'dead', 'list', '--json'], { cwd }).finished
  const letters = JSON.parse(listed.stdout) as Array<{ id: string; reason: string }>
  expect(letters.map(({ reason }) => reason).toSorted()).toEqual(['rejected', 'unknown-task'])
  const printed: string[] = []
  for (const [, command = ''] of commands) {
    const copy = temporaryFolder()
    cpSync(cwd, copy, { recursive: true })
    const args = command.replace('ID', letters[0]?.id ?? '').split(' ')
    const { code, stdout, stderr } = await celeriac(['-A', tasks, ...args], { cwd: copy }).finished
    expect(code, `${command}: ${stderr}`).toBe(0)
    if (!/ (list|show) /.test(`${command} `)) printed.push(stdout)
  }
  expect(printed).toEqual([
    ...['Replayed 1 message.\n', 'Replayed 1 message to queue celery.\n', 'Replayed 1 message.\n'],
    ...['Dropped 1 message.\n', 'Dropped 1 message.\n', 'Dropped 2 messages.\n'],
  ])

  const { code, stdout, stderr } = await node(jiti, [join(folder, 'triage.ts')], { cwd }).finished
  expect(code, stderr).toBe(0)
  const [first, second, ...rest] = stdout.split('\n')
  expect([first, second].toSorted()).toEqual(['rejected mail.send celery', 'unknown-task mail.digest celery'])
  expect(rest).toEqual(["true mail.send ('nowhere',)", '1', '1', ''])
})

test('examples/with-python does what its README says', async () => {
  const folder = join(examples, 'with-python')
  const redis = await startRedis()
  const env = { REDIS_URL: redis.url }
  await using nodeWorker = await startWorker(join(folder, 'tasks.ts'), ['-Q', 'node'], { env })
  const args = ['-m', 'celery', '-A', 'tasks', 'worker', '-P', 'solo', '-l', 'INFO', '-Q', 'python']
  await using pythonWorker = startPython(args, { cwd: folder, env })
  await pythonWorker.says(/ ready\./)

  const ours = await node(jiti, [join(folder, 'producer.ts')], { env }).finished
  expect(ours.code, ours.stderr + pythonWorker.output).toBe(0)
  expect(ours.stdout).toBe("15\nbuiltins ValueError [ 'a discount is a part of the price', 2 ]\n")
  const theirs = await startPython(['producer.py'], { cwd: folder, env }).finished
  expect(theirs.code, theirs.stderr + nodeWorker.output).toBe(0)
  expect(theirs.stdout).toBe('Celery\n')
  await redis.stop()
})
