/** Waiting for something that happens, with an end. */

/** Rejects with `what` when `promise` takes longer than `seconds`. */
export async function within<T>(seconds: number, what: string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const deadline = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not happen within ${seconds} s`)), seconds * 1000)
  })
  try {
    return await Promise.race([promise, deadline])
  } finally {
    clearTimeout(timer)
  }
}

/**
 * Asks until the answer is true, for what gives no event: the state of another process.
 * `describe` says at the deadline what the state was.
 */
export async function until(
  seconds: number,
  what: string,
  ask: () => boolean | Promise<boolean>,
  describe: () => unknown = () => '',
): Promise<void> {
  const end = performance.now() + seconds * 1000
  while (!(await ask())) {
    if (performance.now() > end)
      throw new Error(`${what} did not happen within ${seconds} s ${String(describe())}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
