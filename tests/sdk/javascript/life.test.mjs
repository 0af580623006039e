// The life of sandboxes.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CommandExitError, Sandbox, SandboxError, SandboxNotFoundError } from 'e2b'
import { Collected, sandbox } from './sandbox.mjs'

test('a sandbox has the metadata and the time that it was created with', async () => {
  const info = await sandbox.getInfo()
  assert.equal(info.sandboxId, sandbox.sandboxId)
  assert.equal(info.templateId, 'base')
  assert.deepEqual(info.metadata, { test: 'javascript' })
  assert.equal(info.state, 'running')
  assert(info.endAt - info.startedAt >= 899_000)
})

test('a list has the sandboxes with the metadata', async () => {
  const list = (test) => Sandbox.list({ query: { metadata: { test } } }).nextItems()
  assert.deepEqual((await list('javascript')).map(({ sandboxId }) => sandboxId), [sandbox.sandboxId])
  assert.deepEqual(await list('other'), [])
})

test('setTimeout moves the end', async () => {
  await sandbox.setTimeout(1_200_000)
  const { endAt } = await sandbox.getInfo()
  const left = endAt - Date.now()
  assert(left > 1_100_000 && left <= 1_200_000, `${left}`)
})

test('metrics have CPUs, memory and disk', async () => {
  const [sample] = await sandbox.getMetrics()
  assert(sample.cpuCount >= 1 && sample.memTotal > sample.memUsed && sample.diskTotal > sample.diskUsed)
})

const [host, port] = process.env.INTERNET.split(':')
const reach = (name = host) => sandbox.commands.run(`bash -c 'head -c 5 < /dev/tcp/${name}/${port}'`)

test('a denied destination is not reached until the network is updated', async () => {
  assert.equal((await reach()).stdout, 'hello')
  await sandbox.updateNetwork({ denyOut: [host] })
  await assert.rejects(reach(), CommandExitError)
  await sandbox.updateNetwork({ denyOut: ['0.0.0.0/0'], allowOut: [host] })
  assert.equal((await reach()).stdout, 'hello')
  await sandbox.updateNetwork({})
  assert.equal((await reach()).stdout, 'hello')
})

test('an allowed host is reached by its name', async () => {
  await sandbox.updateNetwork({ denyOut: ['0.0.0.0/0'], allowOut: ['greeter.test'] })
  await assert.rejects(reach(), CommandExitError)
  await assert.rejects(reach('other.test'), CommandExitError)
  assert.equal((await reach('greeter.test')).stdout, 'hello')
  await sandbox.updateNetwork({})
})

test('what is unknown is refused by name', async () => {
  await assert.rejects(Sandbox.create('no-such-template'), (error) => {
    assert(error instanceof SandboxError)
    assert.match(error.message, /no-such-template/)
    return true
  })
  await assert.rejects(Sandbox.connect('i0123456789abcdefghij'), SandboxNotFoundError)
  assert.equal(await Sandbox.kill('i0123456789abcdefghij'), false)
})

test('a paused sandbox goes on with its processes until its time is over', async () => {
  const other = await Sandbox.create('base', { timeoutMs: 300_000 })
  try {
    const before = new Collected()
    const script = 'n=0; while read -r line; do n=$((n + 1)); echo "$line $n"; done'
    const options = { background: true, stdin: true, onStdout: before.add }
    const command = await other.commands.run(script, options)
    const cut = command.wait().catch((error) => error)
    await other.commands.sendStdin(command.pid, 'one\n')
    await before.has('one 1\n')
    assert.equal(await other.pause(), true)
    assert((await cut) instanceof Error)
    assert.equal((await other.getInfo()).state, 'paused')
    assert.equal(await other.isRunning(), false)

    const same = await Sandbox.connect(other.sandboxId, { timeoutMs: 300_000 })
    const after = new Collected()
    await same.commands.connect(command.pid, { onStdout: after.add })
    await same.commands.sendStdin(command.pid, 'two\n')
    await after.has('two 2\n')
    await same.setTimeout(0)
    while (await same.isRunning());
  } finally {
    await other.kill()
  }
  await assert.rejects(other.getInfo(), SandboxNotFoundError)
})
