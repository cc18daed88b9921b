export { CeleriacError, type CeleriacErrorCode } from './lib/errors.ts'
