// What the tests share: a sandbox, since a start takes many seconds without KVM, and what waits for its output.
// tests/vm/sdk.rs starts the server and sets E2B_API_URL, E2B_SANDBOX_URL and E2B_API_KEY.

import { after } from 'node:test'
import { Sandbox } from 'e2b'

export const sandbox = await Sandbox.create('base', {
  metadata: { test: 'javascript' },
  envs: { GREETING: 'hello' },
  timeoutMs: 900_000,
})

after(() => sandbox.kill())

// Collects text that comes in pieces.
export class Collected {
  text = ''
  #decoder = new TextDecoder()
  #waiting = []

  add = (piece) => {
    this.text += typeof piece === 'string' ? piece : this.#decoder.decode(piece, { stream: true })
    this.#waiting = this.#waiting.filter(({ wanted, resolve }) => !this.text.includes(wanted) || resolve())
  }

  // Resolves when the text has this in it.
  has(wanted) {
    return new Promise((resolve) => {
      this.#waiting.push({ wanted, resolve })
      this.add('')
    })
  }
}

// Runs a server in the sandbox and returns when it says that it listens.
export async function serve(command, listening) {
  const output = new Collected()
  const options = { background: true, onStdout: output.add, onStderr: output.add, timeoutMs: 0 }
  await sandbox.commands.run(command, options)
  await output.has(listening)
}
