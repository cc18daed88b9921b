/** A RabbitMQ of its own: see `crates/celeriac-testkit/src/bin/rabbitmq.rs`. */

import { once } from 'node:events'
import { createConnection, type Socket } from 'node:net'
import { createInterface, type Interface } from 'node:readline'
import { afterTest } from './after-test.ts'
import { startAid } from './aid.ts'
import { within } from './wait.ts'

/** How long RabbitMQ may take to start or to obey, in seconds; several start side by side. */
const DEADLINE = 120

/** Messages of 100 MB, some of them at a time, are no reason to refuse others. */
const MEMORY = 'vm_memory_high_watermark.absolute = 4GB'

/** What a queue holds. */
export interface QueueCounts {
  /** Messages that wait. */
  ready: number
  /** Messages that consumers have and did not settle. */
  unacknowledged: number
}

/** What went over a connection, in bytes, as the server counts them. */
export interface Traffic {
  /** From the client. */
  received: number
  /** To the client. */
  sent: number
}

/** A RabbitMQ server on ports of its own. */
export interface RabbitMq {
  /** With its user and the virtual host `/`. */
  readonly url: string
  readonly port: number
  readonly processId: number
  /** Calls `rabbitmqctl`; what it printed. */
  ctl(...args: string[]): Promise<string>
  /** Makes a virtual host; its URL. */
  addVhost(name: string): Promise<string>
  /** With all that is in it, and all who use it. */
  deleteVhost(name: string): Promise<void>
  /** Every queue of a virtual host, `/` unless named, with what it holds at this moment. */
  queues(vhost?: string): Promise<Map<string, QueueCounts>>
  /** Every connection to a virtual host, by the client's port. */
  connections(vhost?: string): Promise<Map<number, Traffic>>
  /** SIGKILL. */
  kill(): Promise<void>
  /** On the same port, with the same data. */
  start(): Promise<void>
  stop(): Promise<void>
}

/** Starts RabbitMQ; it ends with the test that starts it. */
export async function startRabbitMq(): Promise<RabbitMq> {
  const server = await startLastingRabbitMq()
  afterTest(server.stop)
  return server
}

/** Starts RabbitMQ; whoever has it ends it. */
export async function startLastingRabbitMq(): Promise<RabbitMq> {
  const server = await startAid('CELERIAC_RABBITMQ', ['--set', MEMORY], DEADLINE)
  const first = JSON.parse(server.first) as { port: number; processId: number }
  const { port } = first
  let { processId } = first
  const obey = async (command: string): Promise<{ output?: string; processId?: number }> => {
    const answer = JSON.parse(await server.tell(command)) as {
      error?: string
      output?: string
      processId?: number
    }
    if (answer.error !== undefined) throw new Error(`RabbitMQ did not obey ${command}: ${answer.error}`)
    return answer
  }
  const ctl = async (...args: string[]): Promise<string> =>
    (await obey(`ctl ${JSON.stringify(args)}`)).output ?? ''
  let clerk: Promise<Clerk> | undefined
  const ask = async (question: string): Promise<string[][]> => {
    clerk ??= ctl('eval', CLERK).then((answer) => Clerk.at(Number(answer)))
    return (await clerk).ask(question)
  }
  const dismiss = async (): Promise<void> => {
    const last = clerk
    clerk = undefined
    ;(await last)?.end()
  }
  return {
    url: `amqp://guest:guest@127.0.0.1:${port}//`,
    port,
    get processId() {
      return processId
    },
    ctl,
    async addVhost(name) {
      await ask(`add ${name}`)
      return `amqp://guest:guest@127.0.0.1:${port}/${name}`
    },
    deleteVhost: async (name) => void (await ask(`delete ${name}`)),
    async queues(vhost = '/') {
      const rows = await ask(`queues ${vhost}`)
      return new Map(
        rows.map(([name = '', ready, held]) => [
          name,
          { ready: Number(ready), unacknowledged: Number(held) },
        ]),
      )
    },
    async connections(vhost = '/') {
      const rows = await ask(`connections ${vhost}`)
      return new Map(
        rows.map(([from, received, sent]) => [
          Number(from),
          { received: Number(received), sent: Number(sent) },
        ]),
      )
    },
    async kill() {
      await dismiss()
      await obey('kill')
    },
    async start() {
      processId = (await obey('start')).processId ?? 0
    },
    async stop() {
      await dismiss()
      await server.stop()
    },
  }
}

/**
 * Answers questions about the server from inside of it, at once and with what is true at that moment. rabbitmqctl takes a second
 * for each, and the management plugin says what was true a while ago.
 */
class Clerk {
  readonly #socket: Socket
  readonly #lines: AsyncIterator<string>
  readonly #interface: Interface
  #last: Promise<unknown> = Promise.resolve()

  private constructor(socket: Socket) {
    this.#socket = socket
    this.#interface = createInterface({ input: socket })
    this.#lines = this.#interface[Symbol.asyncIterator]()
  }

  static async at(port: number): Promise<Clerk> {
    const socket = createConnection(port, '127.0.0.1')
    await once(socket, 'connect')
    // Whoever asks next hears of it.
    socket.on('error', () => {})
    return new Clerk(socket)
  }

  /** The words of each line of the answer. */
  ask(question: string): Promise<string[][]> {
    const turn = this.#last.then(() =>
      within(DEADLINE, `an answer of RabbitMQ to ${question}`, this.#answer(question)),
    )
    this.#last = turn.catch(() => {})
    return turn
  }

  async #answer(question: string): Promise<string[][]> {
    this.#socket.write(`${question}\n`)
    const answer: string[][] = []
    for (;;) {
      const { value, done } = await this.#lines.next()
      if (done === true) throw new Error(`RabbitMQ ended at ${question}`)
      if (value !== '') answer.push(value.split('\t'))
      else if (answer[0]?.[0]?.startsWith('error: ') === true) throw new Error(`${question}: ${answer[0][0]}`)
      else return answer
    }
  }

  end(): void {
    this.#interface.close()
    this.#socket.destroy()
  }
}

/** Run by the server: it listens on a port, which is what this gives. An answer ends with an empty line. */
const CLERK = `
Self = self(),
spawn(fun() ->
  {ok, Listener} = gen_tcp:listen(0, [binary, {packet, line}, {ip, {127, 0, 0, 1}}, {active, false}]),
  {ok, Port} = inet:port(Listener),
  Self ! {port, Port},
  Answer = fun
    ([<<"queues">>, Vhost]) ->
      [[element(4, Name), 9, integer_to_list(Ready), 9, integer_to_list(Held), 10]
        || [{name, Name}, {messages_ready, Ready}, {messages_unacknowledged, Held}]
          <- rabbit_amqqueue:info_all(Vhost, [name, messages_ready, messages_unacknowledged])];
    ([<<"connections">>, Vhost]) ->
      [[integer_to_list(From), 9, integer_to_list(Received), 9, integer_to_list(Sent), 10]
        || [{vhost, Of}, {peer_port, From}, {recv_oct, Received}, {send_oct, Sent}]
          <- rabbit_networking:connection_info_all([vhost, peer_port, recv_oct, send_oct]), Of =:= Vhost];
    ([<<"add">>, Vhost]) ->
      ok = rabbit_vhost:add(Vhost, <<"tests">>),
      rabbit_auth_backend_internal:set_permissions(
        <<"guest">>, Vhost, <<".*">>, <<".*">>, <<".*">>, <<"tests">>),
      [];
    ([<<"delete">>, Vhost]) ->
      rabbit_vhost:delete(Vhost, <<"tests">>),
      []
  end,
  Serve = fun Serve(Socket) ->
    case gen_tcp:recv(Socket, 0) of
      {ok, Line} ->
        Text = try Answer(binary:split(string:trim(Line), <<" ">>))
               catch _:Reason -> io_lib:format("error: ~0p~n", [Reason]) end,
        ok = gen_tcp:send(Socket, [Text, 10]),
        Serve(Socket);
      _ ->
        gen_tcp:close(Socket)
    end
  end,
  (fun Accept() ->
    {ok, Socket} = gen_tcp:accept(Listener),
    Serve(Socket),
    Accept()
  end)()
end),
receive {port, Port} -> Port end.
`
