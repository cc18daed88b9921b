type Stop = (reason: unknown) => void

/** What one signal ends. Many waits share one listener, for which Node would otherwise warn of a leak. */
const listeners = new WeakMap<AbortSignal, Set<Stop>>()

/** Calls `stop` with the signal's reason once it fires; the function that is returned takes that back. */
export function onAbort(signal: AbortSignal, stop: Stop): () => void {
  const stops = listeners.get(signal) ?? listen(signal)
  stops.add(stop)
  return () => stops.delete(stop)
}

function listen(signal: AbortSignal): Set<Stop> {
  const stops = new Set<Stop>()
  listeners.set(signal, stops)
  const fire = (): void => {
    for (const stop of stops) stop(signal.reason)
  }
  signal.addEventListener('abort', fire, { once: true })
  return stops
}
