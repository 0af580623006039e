// Commands and terminals in sandboxes.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CommandExitError, NotFoundError, TimeoutError } from 'e2b'
import { Collected, sandbox } from './sandbox.mjs'

test('a command has output and exit code', async () => {
  const result = await sandbox.commands.run('echo out; echo err >&2')
  assert.deepEqual([result.stdout, result.stderr, result.exitCode], ['out\n', 'err\n', 0])
  await assert.rejects(sandbox.commands.run('echo no >&2; exit 3'), (error) => {
    assert(error instanceof CommandExitError)
    assert.deepEqual([error.exitCode, error.stderr], [3, 'no\n'])
    return true
  })
})

test('a command runs as the user in its home with the environment', async () => {
  const result = await sandbox.commands.run('echo "$USER $PWD $GREETING $NAME"', { envs: { NAME: 'world' } })
  assert.equal(result.stdout, 'user /home/user hello world\n')
  assert.equal((await sandbox.commands.run('id -u; pwd', { user: 'root', cwd: '/tmp' })).stdout, '0\n/tmp\n')
})

test('output comes while the command runs', async () => {
  const output = new Collected()
  const script = 'echo first; read -r line; echo "then $line"'
  const command = await sandbox.commands.run(script, { background: true, stdin: true, onStdout: output.add })
  await output.has('first\n')
  await sandbox.commands.sendStdin(command.pid, 'second\n')
  assert.equal((await command.wait()).stdout, 'first\nthen second\n')
  assert.equal(output.text, 'first\nthen second\n')
})

test('a command in the background takes input and can be followed again', async () => {
  const command = await sandbox.commands.run('cat', { background: true, stdin: true })
  assert((await sandbox.commands.list()).some(({ pid }) => pid === command.pid))
  await command.disconnect()
  const output = new Collected()
  const again = await sandbox.commands.connect(command.pid, { onStdout: output.add })
  await sandbox.commands.sendStdin(command.pid, 'héllo')
  await output.has('héllo')
  await sandbox.commands.closeStdin(command.pid)
  assert.equal((await again.wait()).stdout, 'héllo')
})

test('a killed command is gone, an unknown one not found', async () => {
  const command = await sandbox.commands.run('sleep 1000', { background: true })
  assert.equal(await sandbox.commands.kill(command.pid), true)
  await assert.rejects(command.wait(), CommandExitError)
  assert.equal(await sandbox.commands.kill(command.pid), false)
  await assert.rejects(sandbox.commands.connect(1_000_000), NotFoundError)
})

test('a time-out ends the wait', async () => {
  await assert.rejects(sandbox.commands.run('sleep 1000', { timeoutMs: 1000 }), TimeoutError)
})

test('a terminal has a size, takes input and is killed', async () => {
  const screen = new Collected()
  const terminal = await sandbox.pty.create({ cols: 90, rows: 30, onData: screen.add, timeoutMs: 0 })
  const type = (text) => sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode(text))
  await type('echo size $(stty size)\n')
  await screen.has('size 30 90')
  await sandbox.pty.resize(terminal.pid, { cols: 100, rows: 40 })
  await type('echo size $(stty size)\n')
  await screen.has('size 40 100')
  assert.equal(await sandbox.pty.kill(terminal.pid), true)
  await assert.rejects(terminal.wait(), CommandExitError)
})
