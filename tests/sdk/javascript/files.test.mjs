// Files in sandboxes.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { FilesystemEventType, FileType, NotFoundError } from 'e2b'
import { sandbox } from './sandbox.mjs'

const MIB = 1024 * 1024
const LARGE = 100

test('a file comes back as it was written', async () => {
  const content = Uint8Array.from({ length: MIB }, (_, index) => index % 251)
  const info = await sandbox.files.write('data/é 文.bin', content.buffer)
  assert.equal(info.path, '/home/user/data/é 文.bin')
  assert.deepEqual(await sandbox.files.read('data/é 文.bin', { format: 'bytes' }), content)
  const { stdout } = await sandbox.commands.run("stat -c '%U %s' data/*")
  assert.equal(stdout, 'user 1048576\n')
  await sandbox.files.write('text', 'naïve 😀\r\n')
  assert.equal(await sandbox.files.read('text'), 'naïve 😀\r\n')
  await sandbox.files.write('empty', '')
  assert.equal(await sandbox.files.read('empty'), '')
})

test('a large file goes up and comes down as a stream', async () => {
  const piece = Uint8Array.from({ length: MIB }, (_, index) => (index * 7) % 256)
  const sent = createHash('sha256')
  let count = 0
  const content = new ReadableStream({
    pull(controller) {
      piece[0] = count
      sent.update(piece)
      controller.enqueue(piece.slice())
      count += 1
      if (count === LARGE) controller.close()
    },
  })
  await sandbox.files.write('large', content, { requestTimeoutMs: 0 })
  const came = createHash('sha256')
  for await (const bytes of await sandbox.files.read('large', { format: 'stream', requestTimeoutMs: 0 })) {
    came.update(bytes)
  }
  const digest = sent.digest('hex')
  assert.equal(came.digest('hex'), digest)
  const { stdout } = await sandbox.commands.run('sha256sum < large; rm large')
  assert.equal(stdout, `${digest}  -\n`)
})

test('many files are written at once and listed', async () => {
  const files = Array.from({ length: 10 }, (_, number) => ({ path: `many/${number}`, data: `${number}` }))
  await sandbox.files.write(files)
  const entries = await sandbox.files.list('many')
  assert.deepEqual(entries.map(({ name }) => name).sort(), Array.from({ length: 10 }, (_, number) => `${number}`))
  assert.equal(await sandbox.files.read('many/7'), '7')
})

test('files are made, moved and removed', async () => {
  assert.equal(await sandbox.files.makeDir('folder/below'), true)
  assert.equal(await sandbox.files.makeDir('folder/below'), false)
  assert.equal((await sandbox.files.getInfo('folder')).type, FileType.DIR)
  assert.deepEqual((await sandbox.files.list('folder', { depth: 2 })).map(({ path }) => path), [
    '/home/user/folder/below',
  ])
  await sandbox.files.rename('folder', 'renamed')
  assert.equal(await sandbox.files.exists('renamed/below'), true)
  assert.equal(await sandbox.files.exists('folder'), false)
  await sandbox.files.remove('renamed')
  await assert.rejects(sandbox.files.read('renamed'), NotFoundError)
})

test('a watch reports changes', async () => {
  await sandbox.files.makeDir('watched')
  let report
  const reported = new Promise((resolve) => (report = resolve))
  const watch = await sandbox.files.watchDir('watched', (event) => event.name === 'new' && report(event.type), {
    timeoutMs: 0,
  })
  await sandbox.files.write('watched/new', 'x')
  assert.equal(await reported, FilesystemEventType.CREATE)
  await watch.stop()
})

test('a signed URL needs no key', async () => {
  await sandbox.files.write('signed.txt', 'signed')
  const reply = await fetch(await sandbox.downloadUrl('signed.txt'))
  assert.equal(await reply.text(), 'signed')
})
