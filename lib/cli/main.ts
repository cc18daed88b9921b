#!/usr/bin/env node
import { flushLog } from '../log/logger.ts'
import { runCommandLine } from './program.ts'

const code = await runCommandLine(process.argv.slice(2))
flushLog()
// Modules of the user may hold what keeps a process alive: connections, timers. What was printed goes out first.
process.exitCode = code
process.stdout.write('', () => process.stderr.write('', () => process.exit(code)))
