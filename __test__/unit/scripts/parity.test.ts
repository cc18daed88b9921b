import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import {
  AREAS,
  count,
  falseClaims,
  parseCargo,
  parseLedger,
  parseVitest,
} from '../../../scripts/parity-ledger.ts'
import type { Area, Outcome, Row } from '../../../scripts/parity-ledger.ts'

const row = (values: Partial<Row>): Row => ({
  id: 'S001',
  state: 'yes',
  item: '',
  tests: [],
  note: '',
  ...values,
})

describe('a ledger', () => {
  it('is read row by row, with escaped bars and several tests', () => {
    const rows = parseLedger(
      [
        '## Some rows',
        '| ID | state | item | test | note |',
        '|---|---|---|---|---|',
        '| S001 | yes | a \\| b | `a.test.ts > one`<br>two::three | |',
        '|  S002  |  no  |  c  |  |  later  |',
        '| T001 | no | of another area | | |',
      ].join('\n'),
      'settings',
      [],
    )
    expect(rows).toEqual([
      { id: 'S001', state: 'yes', item: 'a | b', tests: ['a.test.ts > one', 'two::three'], note: '' },
      { id: 'S002', state: 'no', item: 'c', tests: [], note: 'later' },
    ])
  })

  it('that lost a row, has one twice, or an unknown state, says so', () => {
    const problems: string[] = []
    parseLedger(
      '| S001 | yes | a | | |\n| S001 | maybe | a | | |\n| S002 | no | a | b | c | d |',
      'settings',
      problems,
    )
    expect(problems).toContain('S001: there are two rows')
    expect(problems).toContain('S001: the state is "maybe"; expected yes, partly, no or n/a')
    expect(problems).toContain('S002: more than five cells; a | in a cell is written \\|')
    expect(problems).toContain('S247: the row is missing from settings.md')
    expect(problems.filter((problem) => problem.includes('missing'))).toHaveLength(245)
  })

  it('that names a file where it should name tests says so', () => {
    const problems: string[] = []
    parseLedger(
      '| S001 | yes | a | `a.test.ts > one`<br>`__test__/a.test.ts` | |\n| S002 | yes | a | `redis`<br>b::two | |',
      'settings',
      problems,
    )
    expect(problems.filter((problem) => !problem.includes('missing'))).toEqual([
      'S001: "__test__/a.test.ts" names a file; name the tests in it that show the behaviour',
      'S002: "redis" names a file; name the tests in it that show the behaviour',
    ])
  })

  it.each(Object.keys(AREAS) as Area[])('docs/parity/%s.md has every row and no other', (area) => {
    const problems: string[] = []
    const markdown = readFileSync(new URL(`../../../docs/parity/${area}.md`, import.meta.url), 'utf8')
    const rows = parseLedger(markdown, area, problems)
    expect(problems).toEqual([])
    expect(count(rows).total).toBe(AREAS[area].rows)
  })
})

describe('results', () => {
  it('of vitest are named by file, groups and title', () => {
    const report = {
      testResults: [
        {
          name: '/somewhere/__test__/a.test.ts',
          assertionResults: [
            { ancestorTitles: ['group', 'inner'], title: 'one', status: 'passed' },
            { ancestorTitles: [], title: 'two', status: 'skipped' },
            { ancestorTitles: [], title: 'twice', status: 'failed' },
            { ancestorTitles: [], title: 'twice', status: 'passed' },
          ],
        },
      ],
    }
    expect([...parseVitest(report, '/somewhere')]).toEqual([
      ['__test__/a.test.ts > group > inner > one', 'passed'],
      ['__test__/a.test.ts > two', 'skipped'],
      ['__test__/a.test.ts > twice', 'failed'],
    ])
  })

  it('of cargo are named by crate and path', () => {
    const report = [
      { name: 'celeriac_broker::redis::tests::claims', status: 'ok' },
      { name: 'celeriac_broker::redis::tests::waits', status: 'FAILED' },
      { name: 'celeriac_broker::redis::tests::later', status: 'ignored' },
    ]
    expect([...parseCargo(report).values()]).toEqual(['passed', 'failed', 'skipped'])
    const twice = [
      { name: 'redis::contract::closes', status: 'FAILED' },
      { name: 'redis::contract::closes', status: 'ok' },
    ]
    expect([...parseCargo(twice)]).toEqual([['redis::contract::closes', 'failed']])
  })
})

describe('a claim', () => {
  const results = new Map<string, Outcome>([
    ['a.test.ts > good > one', 'passed'],
    ['a.test.ts > good > two', 'passed'],
    ['a.test.ts > bad > one', 'failed'],
    ['a.test.ts > bad > two', 'passed'],
    ['a.test.ts > skipped', 'skipped'],
    ['broker::redis::claims', 'passed'],
  ])
  const problem = (values: Partial<Row>) => falseClaims([row(values)], results)

  it('is true where its tests, or all of a group, passed', () => {
    expect(problem({ tests: ['a.test.ts > good > one', 'broker::redis::claims'] })).toEqual([])
    expect(problem({ tests: ['a.test.ts > good', 'broker::redis'] })).toEqual([])
    expect(problem({ state: 'partly', note: 'not all', tests: ['a.test.ts > good'] })).toEqual([])
  })

  it('is false where a test failed, was skipped, is not there, or none is named', () => {
    expect(problem({ tests: ['a.test.ts > bad'] })).toEqual([
      'S001: the test "a.test.ts > bad > one" was failed',
    ])
    expect(problem({ tests: ['a.test.ts > skipped'] })).toEqual([
      'S001: the test "a.test.ts > skipped" was skipped',
    ])
    expect(problem({ tests: ['a.test.ts > goo'] })).toEqual([
      'S001: no test of the last run is called "a.test.ts > goo"',
    ])
    expect(problem({})).toEqual(['S001: the state is yes, and no test is named'])
  })

  it('needs a note where it is partly true or has no meaning', () => {
    expect(problem({ state: 'partly', tests: ['a.test.ts > good'] })).toHaveLength(1)
    expect(problem({ state: 'n/a' })).toEqual(['S001: n/a needs its reason in the note'])
    expect(problem({ state: 'n/a', note: 'Python only' })).toEqual([])
    expect(problem({ state: 'no' })).toEqual([])
    expect(problem({ state: 'no', tests: ['a.test.ts > good'] })).toHaveLength(1)
  })
})
