import { CeleriacError } from '../../../lib/errors.ts'
import type { NativeBroker, NativeDeadLetter } from '../../../lib/native.ts'

type Letter = NativeDeadLetter & { raw: Buffer }

/** Stands for the core's dead list: an array, and what was done to it. */
export class FakeDeadList {
  letters: Letter[] = []
  /** What was replayed, and where to. */
  readonly replayed: Array<[id: string, queue: string | null]> = []
  /** The pages that were asked for. */
  readonly pages: Array<[offset: number, limit: number]> = []
  /** Called before each page, and before each batch that is replayed or dropped. */
  meanwhile: () => void = () => {}
  #last = 0

  /** Puts a letter at the end. */
  add(given: Partial<Omit<Letter, 'raw'>> & { raw?: string | Buffer } = {}): string {
    this.#last += 1
    const { raw = 'not json', ...more } = given
    const bytes = Buffer.from(raw as string)
    const letter = {
      id: `letter-${this.#last}`,
      queue: 'q',
      reason: 'malformed',
      detail: 'expected value at line 1 column 1',
      atMs: Date.UTC(2026, 0, 1) + this.#last,
      size: bytes.length,
      raw: bytes,
      ...more,
    }
    this.letters.push(letter)
    return letter.id
  }

  /** As many of one kind. */
  addMany(count: number, given: Parameters<FakeDeadList['add']>[0] = {}): string[] {
    return Array.from({ length: count }, () => this.add(given))
  }

  get ids(): string[] {
    return this.letters.map(({ id }) => id)
  }

  /** To be opened instead of the core's. */
  readonly open = (): NativeBroker => this as unknown as NativeBroker

  deadCount(): Promise<number> {
    return Promise.resolve(this.letters.length)
  }

  deadLetters(offset: number, limit: number): Promise<NativeDeadLetter[]> {
    this.meanwhile()
    this.pages.push([offset, limit])
    return Promise.resolve(this.letters.slice(offset, offset + limit).map(withoutBytes))
  }

  deadLetter(id: string): Promise<NativeDeadLetter | null> {
    return Promise.resolve(this.letters.find((letter) => letter.id === id) ?? null)
  }

  replayDead(ids: string[], queue: string | null): Promise<boolean[]> {
    this.meanwhile()
    const lost = this.letters.find(({ id, queue: from }) => ids.includes(id) && (queue ?? from) === '')
    if (lost !== undefined)
      return Promise.reject(
        new CeleriacError('ERR_CELERIAC_INVALID_ARGUMENT', `dead letter ${lost.id}: no queue`),
      )
    return Promise.resolve(
      ids.map((id) => {
        const was = this.#take(id)
        if (was) this.replayed.push([id, queue])
        return was
      }),
    )
  }

  dropDead(ids: string[]): Promise<boolean[]> {
    this.meanwhile()
    return Promise.resolve(ids.map((id) => this.#take(id)))
  }

  close(): Promise<void> {
    return Promise.resolve()
  }

  #take(id: string): boolean {
    const place = this.letters.findIndex((letter) => letter.id === id)
    if (place >= 0) this.letters.splice(place, 1)
    return place >= 0
  }
}

function withoutBytes(letter: Letter): NativeDeadLetter {
  const rest: NativeDeadLetter = { ...letter }
  delete rest.raw
  return rest
}
