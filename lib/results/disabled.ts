import { CeleriacError } from '../errors.ts'
import type { ResultMeta, ResultStore } from './store.ts'

/** The store of an app without a result backend: keeps nothing, and whoever asks for a result is told why. */
export class DisabledResultStore implements ResultStore {
  readonly enabled = false
  readonly native = null

  connect(): Promise<void> {
    return Promise.resolve()
  }

  wait(taskId: string): Promise<ResultMeta> {
    return Promise.reject(noBackend(`the result of task ${taskId} cannot be waited for`))
  }

  get(taskIds: readonly string[]): Promise<Array<ResultMeta | null>> {
    return Promise.reject(noBackend(`nothing is known of task ${taskIds.join(', ')}`))
  }

  store(): Promise<void> {
    return Promise.resolve()
  }

  forget(): Promise<void> {
    return Promise.resolve()
  }

  cleanup(): Promise<number> {
    return Promise.resolve(0)
  }

  close(): Promise<void> {
    return Promise.resolve()
  }
}

function noBackend(what: string): CeleriacError {
  return new CeleriacError(
    'ERR_CELERIAC_NO_RESULT_BACKEND',
    `${what}: the app has no result backend; name one as backend, as the setting resultBackend, or in ` +
      `CELERY_RESULT_BACKEND`,
  )
}
