/** A bad network between a client and any server: see `crates/celeriac-testkit/src/tcp_proxy.rs`. */

import { afterTest } from './after-test.ts'
import { startAid } from './aid.ts'

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
  const proxy = await startAid('CELERIAC_TCP_PROXY', [`127.0.0.1:${target}`], DEADLINE)
  const obey = async (command: string): Promise<number> => {
    const [outcome, number] = (await proxy.tell(command)).split(' ')
    if (outcome !== 'ok') throw new Error(`the proxy did not obey ${command}`)
    return Number(number ?? 0)
  }
  const set = async (command: string): Promise<void> => void (await obey(command))
  const { stop } = proxy
  afterTest(stop)
  return {
    port: Number(proxy.first),
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
