import { expect, test } from 'vitest'

import { type Item, readBatch } from '../../../lib/worker/batch.ts'

function read(batch: string): Item[] {
  const items: Item[] = []
  readBatch(batch, (item) => items.push(item))
  return items
}

const line = (flags: number, args: unknown[] = [1]): string =>
  `${JSON.stringify([7, 'add', 'an id', args, { k: 'v' }, flags, 3])}\n{"retries":2}\n`

test('a batch of nothing holds nothing', () => {
  expect(read('')).toEqual([])
})

test('a plain task keeps its request as text, and says that nothing follows it', () => {
  expect(read(line(0))).toEqual([
    {
      kind: 'task',
      slot: 3,
      isCounted: false,
      delivery: [7, 'add', 'an id', [1], { k: 'v' }, false, '{"retries":2}', true],
    },
  ])
})

test.each([
  [1, { tagged: true, request: { retries: 2 }, plain: true, isCounted: false }],
  [2, { tagged: false, request: '{"retries":2}', plain: false, isCounted: false }],
  [4, { tagged: false, request: '{"retries":2}', plain: true, isCounted: true }],
])('flag %i is read', (flags, { tagged, request, plain, isCounted }) => {
  const delivery = [7, 'add', 'an id', [1], { k: 'v' }, tagged, request, plain]
  expect(read(line(flags))).toEqual([{ kind: 'task', slot: 3, isCounted, delivery }])
})

test('what a long batch holds does not keep all of it in memory', () => {
  const [item] = read(line(0, ['x'.repeat(300_000)]))
  expect(item).toMatchObject({ kind: 'task' })
  expect(item?.kind === 'task' && item.delivery[6]).toEqual({ retries: 2 })
})

test('tasks and notices come in their order', () => {
  const batch = `["revoke",["a","b"],true,"SIGTERM"]\n${line(0)}["shutdown"]\n${line(2)}`
  expect(read(batch).map(({ kind }) => kind)).toEqual(['revoke', 'task', 'shutdown', 'task'])
  expect(read(batch)[0]).toEqual({ kind: 'revoke', ids: ['a', 'b'], terminates: true })
})
