import { join } from 'node:path'
import { expect, test } from 'vitest'
import { node, startPython, startWorker } from '../support/processes.ts'
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
