import { expect, test } from 'vitest'

import { Answers } from '../../lib/answers.ts'
import type { NativeBroker } from '../../lib/native.ts'

/** Stands for the core: gives these sockets, one after the other, and takes down what it is told. */
function core(...descriptors: number[]) {
  const told: Array<[connection: number, text: string]> = []
  let given = 0
  const native = {
    watch: () => (given < descriptors.length ? [descriptors[given], given++] : null),
    answer: (connection: number, text: string) => {
      told.push([connection, text])
      return -1
    },
  }
  return { native: native as unknown as NativeBroker, told }
}

test('without a socket there is nothing to watch', () => {
  const { native, told } = core()
  const answers = new Answers(native, () => {})
  answers.watch()
  answers.close()
  expect(told).toEqual([])
})

test('a socket that cannot be used is given up', () => {
  const { native, told } = core(-1)
  new Answers(native, () => {}).watch()
  expect(told).toEqual([[0, '']])
})
