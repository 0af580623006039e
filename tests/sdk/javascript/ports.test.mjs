// Servers in sandboxes, reached from outside by their host names: no DNS has these, so all names below the
// server's domain are its address here.

import assert from 'node:assert/strict'
import dns from 'node:dns'
import { readFile } from 'node:fs/promises'
import { before, test } from 'node:test'
import { sandbox, serve } from './sandbox.mjs'

const server = new URL(process.env.E2B_API_URL)
const lookup = dns.lookup

dns.lookup = (name, options, callback) =>
  lookup(name.endsWith('.sandboxes.test') ? server.hostname : name, options, callback)

// Where a port of the sandbox is reached.
const address = (port) => `${sandbox.getHost(port)}:${server.port}`

before(async () => {
  const program = await readFile(new URL('../server/websocket_echo.py', import.meta.url), 'utf8')
  await sandbox.files.write('websocket_echo.py', program)
  await sandbox.files.write('site/page.txt', 'a page')
  await serve('cd site && python3 -u -m http.server 8000 --bind 127.0.0.1', 'Serving HTTP')
  await serve('python3 -u websocket_echo.py 8001', 'listening')
})

test('a web server is reached by its host name', async () => {
  assert.match(sandbox.getHost(8000), /^8000-[a-z0-9]+\.sandboxes\.test$/)
  const reply = await fetch(`http://${address(8000)}/page.txt`)
  assert.deepEqual([reply.status, await reply.text()], [200, 'a page'])
  assert.equal((await fetch(`http://${address(8000)}/none`)).status, 404)
})

test('a web server is reached by headers', async () => {
  const headers = { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': '8000' }
  const reply = await fetch(new URL('/page.txt', server), { headers })
  assert.equal(await reply.text(), 'a page')
})

test('a port without a server says so', async () => {
  const reply = await fetch(`http://${address(8002)}/`)
  assert.equal(reply.status, 502)
  assert.equal((await reply.json()).port, 8002)
})

test('a WebSocket passes messages both ways', async () => {
  const socket = new WebSocket(`ws://${address(8001)}/`)
  const event = (name) => new Promise((resolve) => socket.addEventListener(name, resolve, { once: true }))
  await event('open')
  for (const text of ['hello', 'wörld 😀']) {
    const message = event('message')
    socket.send(text)
    assert.equal((await message).data, text)
  }
  const closed = event('close')
  socket.close(1000)
  assert.equal((await closed).code, 1000)
})
