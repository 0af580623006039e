// Ably's own client, subscribed to `jobs` on the server at the port in the first argument. Says what
// happens to it, a line each, until it has got a message named `end`.

'use strict';

const Ably = require('ably');

const port = Number(process.argv[2]);

async function token() {
  const url = `http://127.0.0.1:${port}/keys/app.key/requestToken`;
  return (await fetch(url, { method: 'POST', body: '{}' })).json();
}

const client = new Ably.Realtime({
  authCallback: (_, done) => token().then((token) => done(null, token), done),
  endpoint: '127.0.0.1',
  port,
  tls: false,
  useBinaryProtocol: true,
  logLevel: 0,
});
const channel = client.channels.get('jobs');
channel.on('attached', ({ resumed }) => console.log(`attached ${resumed}`));
channel.subscribe(({ name, data }) => {
  console.log(`message ${name} ${JSON.stringify(data)}`);
  if (name === 'end') process.exit();
});
