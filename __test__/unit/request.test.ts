import { describe, expect, test } from 'vitest'

import { type DeliveredRequest, Request } from '../../lib/request.ts'

const link = { task: 'next', args: [], kwargs: {}, options: {}, subtask_type: null, immutable: false }

const wire: Required<DeliveredRequest> = {
  retries: 2,
  eta: '2030-01-01T00:00:00+00:00',
  expires: '2031-01-01T00:00:00+00:00',
  timelimit: [9, 8],
  root_id: 'root',
  parent_id: 'parent',
  group: 'g',
  group_index: 3,
  callbacks: [link],
  errbacks: [{ ...link, task: 'oops' }],
  chain: [{ ...link, task: 'last' }],
  chord: { ...link, task: 'body' },
  origin: 'gen1@h',
  lang: 'py',
  reply_to: 'me',
  correlation_id: 'correlated',
  ignore_result: true,
  shadow: 'shown',
  argsrepr: '(1,)',
  kwargsrepr: '{}',
  stamped_headers: ['deploy'],
  stamps: { deploy: 7 },
  headers: { tenant: 'x', 'x-death': [] },
  replaced_task_nesting: 1,
  priority: 4,
  delivery_info: { exchange: 'x', routing_key: 'k', redelivered: true },
  queue: 'q',
}

describe('a request', () => {
  test('has what travelled with the message', () => {
    const request = Request.fromDelivery([7, 'add', 'id', [1], { a: 2 }, false, wire], 'w@h')
    expect(request).toMatchObject({
      id: 'id',
      task: 'add',
      args: [1],
      kwargs: { a: 2 },
      rootId: 'root',
      parentId: 'parent',
      correlationId: 'correlated',
      replyTo: 'me',
      shadow: 'shown',
      argsrepr: '(1,)',
      kwargsrepr: '{}',
      retries: 2,
      eta: wire.eta,
      expires: wire.expires,
      timelimit: [9, 8],
      timeLimit: 9,
      softTimeLimit: 8,
      group: 'g',
      groupIndex: 3,
      chord: wire.chord,
      chain: wire.chain,
      callbacks: wire.callbacks,
      errbacks: wire.errbacks,
      deliveryInfo: { exchange: 'x', routingKey: 'k', priority: 4, redelivered: true },
      queue: 'q',
      hostname: 'w@h',
      origin: 'gen1@h',
      lang: 'py',
      headers: wire.headers,
      ignoreResult: true,
      replacedTaskNesting: 1,
      stampedHeaders: ['deploy'],
      stamps: { deploy: 7 },
      calledDirectly: false,
      isEager: false,
      utc: true,
    })
  })

  test('has defaults for what did not', () => {
    expect(Request.fromDelivery([7, 'add', 'id', [], {}, false, {}], 'w@h')).toMatchObject({
      rootId: 'id',
      parentId: null,
      correlationId: 'id',
      replyTo: null,
      retries: 0,
      timelimit: [null, null],
      group: null,
      headers: null,
      ignoreResult: null,
      replacedTaskNesting: 0,
      stamps: null,
      deliveryInfo: { redelivered: false },
      children: [],
    })
  })

  test('says that it runs without a broker', () => {
    const request = new Request('id', 'add', [], {}, { priority: 3 }, { isEager: true })
    expect(request.deliveryInfo).toMatchObject({ isEager: true, priority: 3 })
  })

  test('hands on what another message for the same work carries, without what a broker left', () => {
    const request = Request.fromDelivery([7, 'add', 'id', [1], {}, false, wire], 'w@h')
    expect(request.asExecutionOptions()).toEqual({
      task_id: 'id',
      root_id: 'root',
      parent_id: 'parent',
      group_id: 'g',
      group_index: 3,
      shadow: 'shown',
      chord: wire.chord,
      chain: wire.chain,
      link: wire.callbacks,
      link_error: wire.errbacks,
      expires: wire.expires,
      soft_time_limit: 8,
      time_limit: 9,
      headers: { tenant: 'x' },
      retries: 2,
      reply_to: 'me',
      replaced_task_nesting: 1,
      origin: 'gen1@h',
      stamped_headers: ['deploy'],
      deploy: 7,
    })
  })
})
