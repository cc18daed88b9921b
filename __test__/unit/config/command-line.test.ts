import { describe, expect, it } from 'vitest'
import { settingsFromCommandLine } from '../../../lib/config/command-line.ts'

const code = (code: string, text: string) =>
  expect.objectContaining({ code, message: expect.stringContaining(text) })

describe('settings on a command line', () => {
  it('are named with their namespace, with a dot, or within that of the command', () => {
    expect(
      settingsFromCommandLine(
        ['task_acks_late=no', 'result.expires=60', '.prefetch_multiplier=8', 'WORKER_POOL=solo'],
        'worker',
      ),
    ).toEqual({ taskAcksLate: false, resultExpires: 60, workerPrefetchMultiplier: 8, workerPool: 'solo' })
  })

  it('are read by the type of the setting, or by the one they give', () => {
    expect(
      settingsFromCommandLine([
        'accept_content=json,yaml',
        'worker_concurrency=(int)5',
        'task_routes=(json){"a": "b=c"}',
        'imports=(list)["a"]',
        'task_acks_late=(bool)on',
      ]),
    ).toEqual({
      acceptContent: ['json', 'yaml'],
      workerConcurrency: 5,
      taskRoutes: { a: 'b=c' },
      imports: ['a'],
      taskAcksLate: true,
    })
  })

  it('that cannot be read are refused by name', () => {
    expect(() => settingsFromCommandLine(['task_acks_late=maybe'])).toThrow(
      code('ERR_CELERIAC_INVALID_SETTING', 'task_acks_late'),
    )
    expect(() => settingsFromCommandLine(['worker.concurrency=(int)x'])).toThrow(
      code('ERR_CELERIAC_INVALID_SETTING', 'worker.concurrency'),
    )
    expect(() => settingsFromCommandLine(['nothing'])).toThrow(
      code('ERR_CELERIAC_INVALID_SETTING', 'nothing'),
    )
    expect(() => settingsFromCommandLine(['task_ack_late=no'])).toThrow(
      code('ERR_CELERIAC_UNKNOWN_SETTING', 'task_acks_late'),
    )
  })
})
