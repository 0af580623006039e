// E2B's code interpreter, unchanged, with a server of this test's in the sandbox.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { Sandbox } from '@e2b/code-interpreter'
import { sandbox, serve } from './sandbox.mjs'

test('code has output, a result and variables that stay, in contexts', async () => {
  const interpreter = await Sandbox.connect(sandbox.sandboxId)
  const program = await readFile(new URL('../server/code_interpreter.py', import.meta.url), 'utf8')
  await interpreter.files.write('code_interpreter.py', program)
  await serve('python3 code_interpreter.py', 'listening')

  const lines = []
  const execution = await interpreter.runCode("x = 20\nprint('hello')\nx + 1", {
    onStdout: ({ line }) => lines.push(line),
  })
  assert.equal(execution.logs.stdout.join(''), 'hello\n')
  assert.equal(lines.join(''), 'hello\n')
  assert.deepEqual([execution.text, execution.error], ['21', undefined])
  assert.equal((await interpreter.runCode('x * 2')).text, '40')
  assert.equal((await interpreter.runCode('1 / 0')).error.name, 'ZeroDivisionError')
  const context = await interpreter.createCodeContext()
  assert.equal((await interpreter.runCode('x', { context })).error.name, 'NameError')
  await interpreter.removeCodeContext(context)
  assert(!(await interpreter.listCodeContexts()).some(({ id }) => id === context.id))
})
