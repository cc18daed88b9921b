/** Messages that nobody meant to send: valid ones, changed at random. */

import type { Random } from '../random.ts'
import {
  bytesOf,
  Members,
  type MessageTree,
  object,
  protocol1,
  protocol2,
  randomId,
  Raw,
  textOf,
  type Tree,
} from './message-trees.ts'

/** What mutated messages are made from. */
export interface Sources {
  /** The queue that they are pushed to. */
  readonly queue: string
  /** Where the callbacks of those that have any go. */
  readonly followUps: string
  /** Names of tasks that the worker has. */
  readonly tasks: readonly string[]
}

/** Makes mutated messages, the same ones for the same random numbers. */
export class Mutator {
  readonly #random: Random
  readonly #sources: Sources

  constructor(random: Random, sources: Sources) {
    this.#random = random
    this.#sources = sources
  }

  /** One message, changed one to four times. */
  next(): Buffer {
    const random = this.#random
    const tree = this.#valid()
    const how = random.between(0, 19)
    if (how < 15) this.#changeTree(tree)
    if (how < 14) return this.#written(tree)
    if (how < 16) return this.#encoded(tree)
    // The text of the body, inside of an envelope that is as it should be.
    if (how < 18) return bytesOf(tree, this.#changeBytes(Buffer.from(textOf(tree.body))))
    return this.#changeBytes(bytesOf(tree))
  }

  #valid(): MessageTree {
    const random = this.#random
    const { queue, followUps, tasks } = this.#sources
    const id = randomId(random)
    const times = this.#pick<Record<string, Tree>>([
      {},
      {},
      {},
      { eta: '2020-02-03T04:05:06.789000+00:00' },
      { expires: '2099-02-03T04:05:06+00:00' },
      { retries: 3, timelimit: [30, 20.5] },
    ])
    const callback = object({
      task: 'nobody.waits',
      args: [1],
      kwargs: object({}),
      options: object({ queue: followUps, task_id: randomId(random) }),
      subtask_type: null,
      immutable: false,
      chord_size: null,
    })
    const options = {
      task: this.#pick(tasks),
      id,
      queue,
      args: this.#pick<Tree[]>([
        [],
        [1, 'two', null],
        [[1.5, object({ deep: [true, 'é'] })]],
        [object({ __type__: 'datetime', __value__: '2026-01-02T03:04:05' })],
      ]),
      kwargs: this.#pick([object({}), object({ name: 'x', when: '2026-01-02' })]),
      encoding: random.between(0, 3) === 0 ? ('utf-8' as const) : ('base64' as const),
      fields: times,
    }
    if (random.between(0, 2) === 0) return protocol1(options)
    const embed = this.#pick<Record<string, Tree>>([
      {},
      {},
      { callbacks: [callback] },
      { errbacks: [callback] },
      { chain: [callback] },
    ])
    return protocol2({ ...options, embed })
  }

  /** Swaps, drops, repeats, renames or replaces values anywhere in it. */
  #changeTree(tree: MessageTree): void {
    const random = this.#random
    for (let change = this.#pick([1, 1, 1, 2, 3]); change > 0; change--) {
      const inBody = random.between(0, 1) === 0
      const places = inBody ? [...placesIn(tree.body)] : [...placesIn(tree.envelope), ...placesIn(tree.body)]
      if (places.length === 0) return
      const place = this.#pick(places)
      switch (random.between(0, 9)) {
        case 0:
          place.remove()
          break
        case 1: {
          // As texts: one may be a part of the other.
          const other = this.#pick(places)
          const values = [new Raw(textOf(place.value)), new Raw(textOf(other.value))] as const
          place.replace(values[1])
          other.replace(values[0])
          break
        }
        case 2:
          place.repeat(this.#strangeFor(place.value))
          break
        case 3:
          place.rename(this.#pick(NAMES))
          break
        case 4:
          place.replace(nested(place.value, random.between(1, 250), random.between(0, 1) === 1))
          break
        default:
          place.replace(this.#strangeFor(place.value))
      }
    }
  }

  /** Half of the time something of the same kind, so that a message often stays one. */
  #strangeFor(value: Tree): Tree {
    if (this.#random.between(0, 1) === 0) return this.#strange()
    const same = STRANGE.filter((other) => kindOf(other) === kindOf(value))
    return same.length === 0 ? this.#strange() : new Raw(textOf(this.#pick(same)))
  }

  #strange(): Tree {
    const random = this.#random
    switch (random.between(0, 19)) {
      case 4:
        return new Raw(this.#pick(['undefined', '01', "'single'", '"\\x41"', '']))
      case 0:
        return nested(
          null,
          this.#pick([50, 198, 199, 200, 201, 202, 1000, 10_000]),
          random.between(0, 1) === 1,
        )
      case 1:
        return 'long '.repeat(random.between(1, 4000))
      case 2:
        return new Raw(String(random.between(-(2 ** 31), 2 ** 31)))
      case 3:
        return new Raw('7'.repeat(random.between(1, 400)))
      default:
        // A copy, since it may be changed once more.
        return new Raw(textOf(this.#pick(STRANGE)))
    }
  }

  /** Sometimes with the encodings that its headers do not speak of. */
  #written(tree: MessageTree): Buffer {
    return this.#random.between(0, 9) === 0 ? this.#changeBytes(bytesOf(tree)) : bytesOf(tree)
  }

  #encoded(tree: MessageTree): Buffer {
    const plain = bytesOf(tree)
    switch (this.#random.between(0, 6)) {
      case 0:
        return Buffer.from(plain.toString(), 'utf16le')
      case 1:
        return Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), plain])
      case 2:
        return bytesOf(tree, Buffer.from(textOf(tree.body), 'utf16le'))
      case 3:
        return bytesOf(tree, Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), Buffer.from(textOf(tree.body))]))
      case 4:
        // The base64 of URLs, and without its padding.
        return Buffer.from(
          textOf(
            new Members([
              ['body', Buffer.from(textOf(tree.body)).toString('base64url')],
              ...tree.envelope.pairs,
            ]),
          ),
        )
      case 5:
        // Twice.
        return bytesOf(tree, Buffer.from(textOf(tree.body)).toString('base64'))
      default:
        return Buffer.from(`  \n${plain.toString().replaceAll(', ', ' ,\t').replaceAll(': ', ':\r\n')}\n `)
    }
  }

  /** Flips, deletes, doubles, inserts, truncates, splices. */
  #changeBytes(bytes: Buffer): Buffer {
    const random = this.#random
    let changed = Buffer.from(bytes)
    for (let change = this.#pick([1, 1, 1, 2, 4]); change > 0; change--) {
      const at = random.between(0, Math.max(0, changed.length - 1))
      const end = Math.min(changed.length, at + random.between(1, this.#pick([1, 1, 4, 40, 400])))
      switch (random.between(0, 7)) {
        case 0:
        case 1:
          if (changed.length > 0) changed[at] = (changed[at] ?? 0) ^ (1 << random.between(0, 7))
          break
        case 2:
          changed = Buffer.concat([changed.subarray(0, at), changed.subarray(end)])
          break
        case 3:
          changed = Buffer.concat([changed.subarray(0, end), changed.subarray(at)])
          break
        case 4:
          changed = Buffer.concat([
            changed.subarray(0, at),
            Buffer.from(this.#pick(FRAGMENTS)),
            changed.subarray(at),
          ])
          break
        case 5:
          changed = changed.subarray(
            0,
            random.between(0, 3) === 0 ? at : changed.length - random.between(0, 3),
          )
          break
        case 6: {
          const other = bytesOf(this.#valid())
          changed = Buffer.concat([
            changed.subarray(0, at),
            other.subarray(random.between(0, other.length - 1)),
          ])
          break
        }
        default:
          changed.fill(random.between(0, 255), at, end)
      }
    }
    return changed
  }

  #pick<T>(choices: readonly T[]): T {
    if (choices.length === 0) throw new Error('there is nothing to pick from')
    return choices[this.#random.between(0, choices.length - 1)] as T
  }
}

/** Names that other names may become. */
const NAMES = [
  '',
  'id',
  'task',
  'args',
  'kwargs',
  'eta',
  'body',
  'headers',
  'properties',
  'redelivered',
  'compression',
  '__proto__',
  'constructor',
  '__type__',
  'é\u0000',
]

const FRAGMENTS: readonly (string | Uint8Array)[] = [
  '"',
  '\\',
  '{',
  '}',
  '[',
  ']',
  ',',
  ':',
  '\n',
  '\u0000',
  '\\u0000',
  '\\ud800',
  'null',
  'NaN',
  '-',
  '1e999',
  '/*',
  '"id": "twice", ',
  Uint8Array.of(0xff),
  Uint8Array.of(0xc0, 0x80),
  Uint8Array.of(0xed, 0xa0, 0x80),
  Uint8Array.of(0xf4, 0x90, 0x80, 0x80),
]

const tagged = (type: Tree, value: Tree): Tree => object({ __type__: type, __value__: value })

/** Values of every kind, at the edges of their kinds, and beyond. */
const STRANGE: readonly Tree[] = [
  null,
  true,
  false,
  0,
  new Raw('-0'),
  new Raw('-0.0'),
  -1,
  1.5,
  255,
  256,
  2 ** 53,
  new Raw('4294967296'),
  new Raw('9223372036854775808'),
  new Raw('18446744073709551616'),
  new Raw('1e308'),
  new Raw('1e400'),
  new Raw('-1e400'),
  new Raw('1e-400'),
  new Raw('NaN'),
  new Raw('Infinity'),
  new Raw('-Infinity'),
  new Raw('"\\ud800"'),
  new Raw('"\\udc00\\ud800"'),
  '',
  ' ',
  'x',
  '7',
  '\u0000',
  'line\nbreak\r\u2028',
  '\u001b[31m',
  '💥',
  '__proto__',
  'toString',
  '../../etc/passwd',
  '%s %n {0}',
  '2026-13-45T99:99:99',
  '0001-01-01T00:00:00',
  '9999-12-31T23:59:59.999999',
  '2099-06-07T08:09:10+14:00',
  '2020-06-07',
  '2020-06-07T08:09:10.123456789Z',
  '-262144-01-01T00:00:00Z',
  [],
  [null],
  [[]],
  [null, null, null],
  [1, 2, 3, 4],
  [0.001, 0.001],
  ['a', 'b'],
  object({}),
  object({ '': '' }),
  object({ __proto__: null }),
  new Members([['__proto__', object({ polluted: true })]]),
  new Members([
    ['then', 1],
    ['toJSON', 1],
    ['constructor', 'x'],
  ]),
  object({ task: 'nobody', args: 7 }),
  [object({ task: null })],
  [object({ task: 'nobody.waits', args: [], kwargs: object({}), options: 7 })],
  tagged('datetime', 'no'),
  tagged('datetime', '2026-01-02T03:04:05'),
  tagged('decimal', 'NaN'),
  tagged('decimal', '1e99999'),
  tagged('uuid', 'no'),
  tagged('bytes', '%%%'),
  tagged('nobody', 1),
  tagged(7, object({})),
  tagged('int', '9'.repeat(50)),
  tagged('float', 'nan'),
]

function kindOf(value: Tree): string {
  if (value instanceof Raw) return value.text.startsWith('"') ? 'string' : 'number'
  if (value instanceof Members) return 'object'
  return Array.isArray(value) ? 'array' : typeof value
}

/** A value inside of this many arrays or objects. */
function nested(value: Tree, depth: number, inObjects: boolean): Tree {
  const [open, close] = inObjects ? ['{"n": ', '}'] : ['[', ']']
  return new Raw(open.repeat(depth) + textOf(value) + close.repeat(depth))
}

/** Somewhere in a tree. */
interface Place {
  readonly value: Tree
  replace(value: Tree): void
  remove(): void
  /** The same key once more, or the same value, with another value. */
  repeat(value: Tree): void
  rename(name: string): void
}

function* placesIn(tree: Tree): Generator<Place> {
  if (tree instanceof Members) {
    for (const pair of tree.pairs) {
      yield {
        value: pair[1],
        replace: (value) => void (pair[1] = value),
        remove: () => void tree.pairs.splice(tree.pairs.indexOf(pair), 1),
        repeat: (value) => void tree.pairs.push([pair[0], value]),
        rename: (name) => void (pair[0] = name),
      }
      yield* placesIn(pair[1])
    }
  } else if (Array.isArray(tree)) {
    for (const [index, value] of tree.entries()) {
      yield {
        value,
        replace: (other) => void (tree[index] = other),
        remove: () => void tree.splice(index, 1),
        repeat: (other) => void tree.push(other),
        rename: (name) => void (tree[index] = name),
      }
      yield* placesIn(value)
    }
  }
}
