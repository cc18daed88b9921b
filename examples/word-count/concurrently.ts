/** Calls `work` for each item in their order, `limit` at once; the first error ends it. */
export async function forEachOf<T>(
  items: readonly T[],
  limit: number,
  work: (item: T, index: number) => Promise<void>,
): Promise<void> {
  const entries = items.entries()
  const lane = async (): Promise<void> => {
    for (const [index, item] of entries) await work(item, index)
  }
  await Promise.all(Array.from({ length: Math.min(limit, items.length) }, lane))
}
