/** Workers that die at a given instant: see `crates/celeriac-broker/src/fault.rs`. */

import { createRequire } from 'node:module'
import { celeriac, type Running } from './processes.ts'
import { within } from './wait.ts'

/** The native core as it is built for tests, which can be told to die; `npm test` builds it. */
export function faultPointBinary(): string {
  const path = process.env['CELERIAC_FAULT_POINT_BINARY']
  if (path === undefined) {
    throw new Error(
      'CELERIAC_FAULT_POINT_BINARY names no test build of the native core; run these tests with `npm test -- --only reliability`',
    )
  }
  return path
}

/** The names of all fault points, as the test build tells them. */
export function faultPoints(): readonly string[] {
  const binding = createRequire(import.meta.url)(faultPointBinary()) as { faultPoints(): string[] }
  return binding.faultPoints()
}

/** A worker that dies when it comes to a fault point for the n-th time. */
export interface DoomedOptions {
  point: string
  /** Counted from 1. */
  hit: number
  app: string
  args: string[]
  env: Record<string, string>
}

/** Starts one; it may die before it is ready. */
export function startDoomed({ point, hit, app, args, env }: DoomedOptions): Running {
  return celeriac(['-A', app, 'worker', '-l', 'info', ...args], {
    env: {
      ...env,
      NAPI_RS_NATIVE_LIBRARY_PATH: faultPointBinary(),
      FAILPOINTS: `${point}=${hit > 1 ? `${hit - 1}*off->` : ''}return`,
    },
  })
}

/** Waits for the end of a doomed worker; fails when it had another end than its own. */
export async function diedAt(point: string, worker: Running, seconds = 60): Promise<void> {
  let finished
  try {
    finished = await within(seconds, `the death at ${point}`, worker.finished)
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${worker.output.slice(-4000)}`, { cause: error })
  }
  if (finished.signal !== 'SIGKILL' || !finished.stderr.includes(`died at the fault point ${point}\n`)) {
    throw new Error(
      `the worker ended with ${finished.code ?? finished.signal}, and not at ${point}:\n${worker.output.slice(-4000)}`,
    )
  }
}
