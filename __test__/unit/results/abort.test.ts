import { getEventListeners } from 'node:events'
import { expect, test } from 'vitest'
import { onAbort } from '../../../lib/results/abort.ts'

test('a signal ends every wait with its reason, through one listener', () => {
  const controller = new AbortController()
  const reasons: unknown[] = []
  for (let wait = 0; wait < 20; wait += 1)
    onAbort(controller.signal, (reason) => reasons.push([wait, reason]))
  expect(getEventListeners(controller.signal, 'abort')).toHaveLength(1)

  controller.abort('enough')

  expect(reasons).toEqual(Array.from({ length: 20 }, (_, wait) => [wait, 'enough']))
})

test('a signal does not end a wait that is over', () => {
  const controller = new AbortController()
  const ended: string[] = []
  const first = onAbort(controller.signal, () => ended.push('first'))
  onAbort(controller.signal, () => ended.push('second'))
  first()

  controller.abort()

  expect(ended).toEqual(['second'])
})
