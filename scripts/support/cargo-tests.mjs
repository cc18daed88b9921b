// Reads what `cargo test` prints. Cargo's own JSON output needs a nightly toolchain.

/** The tests in the output of `cargo test`: `[{ name: 'crate::path', status }]`. */
export function parseCargoTests(output) {
  const tests = []
  let target = ''
  for (const line of output.split('\n')) {
    const running = /^\s+Running (?:unittests )?(\S+) \((?:\S*\/)?([^/\s]+)-[0-9a-f]+\)/.exec(line)
    const documentation = /^\s+Doc-tests (\S+)/.exec(line)
    if (running !== null) target = running[2]
    else if (documentation !== null) target = `${documentation[1]} doc`
    const test = /^test (.+?)(?: - should panic)? \.\.\. (ok|FAILED|ignored)/.exec(line)
    if (test !== null) {
      const status = { ok: 'passed', FAILED: 'failed', ignored: 'skipped' }[test[2]]
      tests.push({ name: `${target}::${test[1]}`, status })
    }
  }
  return tests
}
