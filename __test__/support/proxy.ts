/** A bad network between a client and any server: see `crates/celeriac-testkit/src/tcp_proxy.rs`. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { afterTest, atMostOnce } from './after-test.ts'
import { leashed, own } from './servers.ts'
import { within } from './wait.ts'

/** How long the proxy may take to obey, in seconds. */
const DEADLINE = 20

/** A relay on a port of its own. Every method resolves once it is done. */
export interface TcpProxy {
  readonly port: number
  /** Everything passes at once. */
  normal(): Promise<void>
  /** New connections are refused; those that are open stay. */
  refuse(): Promise<void>
  /** Nothing passes, and nobody is told; what was written meanwhile passes afterwards. */
  silence(): Promise<void>
  /** Everything arrives so many milliseconds later, in each direction. */
  delay(toServer: number, toClient?: number): Promise<void>
  /** Every byte is sent by itself. */
  dribble(): Promise<void>
  /** Resets every connection; how many there were. */
  cut(): Promise<number>
  /** From here on nothing passes on the connections that are open; new ones are as usual. How many there were. */
  strand(): Promise<number>
  /** How many connections are open. */
  connections(): Promise<number>
  stop(): Promise<void>
}

/** Starts a proxy that leads to a port on this machine. */
export async function startProxy(target: number): Promise<TcpProxy> {
  const path = process.env['CELERIAC_TCP_PROXY']
  if (path === undefined) {
    throw new Error(
      'CELERIAC_TCP_PROXY names no proxy; run these tests with `npm test -- --only reliability`',
    )
  }
  const child = own(spawn(...leashed(path, [`127.0.0.1:${target}`]), { stdio: ['pipe', 'pipe', 'inherit'] }))
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const answer = async (what: string): Promise<string> => {
    const line = await within(DEADLINE, `an answer of the proxy to ${what}`, lines.next())
    if (line.done === true) throw new Error(`the proxy ended at ${what}`)
    return line.value
  }
  const port = Number(await answer('its start'))
  // One at a time, so that each has its own answer.
  let last: Promise<unknown> = Promise.resolve()
  const obey = (command: string): Promise<number> => {
    const turn = last.then(async () => {
      child.stdin.write(`${command}\n`)
      const [outcome, number] = (await answer(command)).split(' ')
      if (outcome !== 'ok') throw new Error(`the proxy did not obey ${command}`)
      return Number(number ?? 0)
    })
    last = turn.catch(() => {})
    return turn
  }
  const set = async (command: string): Promise<void> => void (await obey(command))
  const stop = atMostOnce(async () => {
    const end = once(child, 'exit')
    child.stdin.end()
    await within(DEADLINE, 'the end of the proxy', end)
  })
  afterTest(stop)
  return {
    port,
    normal: () => set('normal'),
    refuse: () => set('refuse'),
    silence: () => set('silence'),
    delay: (toServer, toClient = toServer) => set(`delay ${toServer} ${toClient}`),
    dribble: () => set('dribble'),
    cut: () => obey('cut'),
    strand: () => obey('strand'),
    connections: () => obey('connections'),
    stop,
  }
}
