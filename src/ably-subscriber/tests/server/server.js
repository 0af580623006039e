// A server that speaks Ably's realtime protocol with Ably's own codec and classes, and fails on command.
//
// Standard input has one command a line, in JSON; each is answered by one line. See `commands`.
// Arguments: certificate and key files, if it is to speak TLS.

'use strict';

const fs = require('fs');
const http = require('http');
const https = require('https');
const readline = require('readline');
const { WebSocketServer } = require('ws');
const { Channel } = require('./channel');
const codec = require('./codec');

// What tests change by `set`.
const knobs = {
  tokenLife: 3600e3, // how long tokens are said to live, in ms; they are good until they are revoked
  clock: 0, // how much the server's clock is ahead, in ms
  tokenReply: null, // {status, body} instead of tokens
  chunked: false, // whether replies with tokens are chunked
  upgradeReply: null, // {status, headers} instead of WebSockets
  deaf: false, // accept connections and say nothing
  greeting: null, // a frame instead of CONNECTED
  details: {}, // added to CONNECTED's connectionDetails
  attach: null, // a frame instead of ATTACHED; 'silence' for none
  flags: null, // instead of ATTACHED's flags
  cut: 0, // so many connections are lost between ATTACHED and what is sent again
  repeat: 0, // so many messages before the serial are sent again, too
};

const channel = new Channel(knobs);
const live = new Set(); // connections
const keys = new Map(); // connection key -> connection id
const tokens = new Map(); // token -> whether it is good
const counts = {};
const seen = []; // what came: {what, ...}, for tests to look at
let waiting = [];
let serial = 0;

const now = () => Date.now() + knobs.clock;
const send = (connection, frame) => connection.socket.send(codec.encode(frame));

function note(what, details = {}) {
  counts[what] = (counts[what] || 0) + 1;
  seen.push({ what, ...details });
  waiting = waiting.filter((one) => !one());
}

function onRequest(request, response) {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    const body = Buffer.concat(chunks).toString();
    note('token', { url: request.url, version: request.headers['x-ably-version'], body });
    if (knobs.deaf) return;
    const reply = knobs.tokenReply || { status: 201, body: newToken() };
    const text = JSON.stringify(reply.body);
    const head = { 'content-type': 'application/json' };
    if (!knobs.chunked) head['content-length'] = Buffer.byteLength(text);
    response.writeHead(reply.status, head);
    response.write(text.slice(0, 5));
    response.end(text.slice(5));
  });
}

function newToken() {
  const token = `app.token-${++serial}:+/secret`;
  const issued = now();
  tokens.set(token, true);
  return { token, issued, expires: issued + knobs.tokenLife, keyName: 'app.key', capability: '{}' };
}

function tokenError(token) {
  const message = `token ${token} is not good`; // servers do repeat tokens
  if (!tokens.has(token)) return { code: 40140, statusCode: 401, message };
  if (!tokens.get(token)) return { code: 40142, statusCode: 401, message };
  return null;
}

function onUpgrade(sockets, request, socket, head) {
  note('upgrade', { url: request.url });
  if (knobs.deaf) return;
  if (knobs.upgradeReply) {
    const { status, headers } = knobs.upgradeReply;
    const lines = Object.entries(headers || {}).map(([name, value]) => `${name}: ${value}\r\n`);
    socket.end(`HTTP/1.1 ${status} No\r\n${lines.join('')}\r\n`);
    return;
  }
  sockets.handleUpgrade(request, socket, head, (ws) => {
    onConnection(ws, socket, new URL(request.url, 'http://host').searchParams);
  });
}

function onConnection(ws, tcp, query) {
  const resumed = keys.get(query.get('resume'));
  const id = resumed || `connection-${++serial}`;
  const connection = { socket: ws, tcp, id, key: `${id}!${++serial}`, attached: false };
  tcp.setNoDelay(true);
  live.add(connection);
  ws.on('message', (bytes) => onFrame(connection, codec.decode(bytes)));
  ws.on('pong', () => note('pong'));
  ws.on('error', () => {});
  ws.on('close', () => {
    live.delete(connection);
    note('gone');
  });
  const error = tokenError(query.get('access_token'));
  if (error) return send(connection, { action: codec.actions.ERROR, error });
  if (knobs.greeting) return send(connection, knobs.greeting);
  keys.set(connection.key, id);
  send(connection, connected(connection));
  note('connect', { id, resume: query.get('resume') });
}

function connected(connection) {
  const details = {
    connectionKey: connection.key,
    maxIdleInterval: 15000,
    connectionStateTtl: 120000,
    maxMessageSize: 65536,
    ...knobs.details,
  };
  return {
    action: codec.actions.CONNECTED,
    connectionId: connection.id,
    connectionKey: connection.key,
    connectionDetails: details,
  };
}

function onFrame(connection, frame) {
  switch (frame.action) {
    case codec.actions.ATTACH:
      // Noted when it is answered, so that who waits for it can rely on that.
      if (knobs.attach !== 'silence') {
        if (knobs.attach) send(connection, knobs.attach);
        else channel.attach(frame, connection, send);
      }
      return note('attach', { frame });
    case codec.actions.AUTH: {
      const error = tokenError(frame.auth.accessToken);
      if (error) send(connection, { action: codec.actions.ERROR, error });
      else send(connection, connected(connection));
      return note('auth', { good: !error });
    }
    case codec.actions.CLOSE:
      return note('close');
    default:
      return note('other', { frame });
  }
}

const ways = {
  destroy: (connection) => connection.tcp.resetAndDestroy(),
  close: (connection) => connection.socket.close(),
  // Half-open: it reads no more, and nothing that it says arrives.
  silence: (connection) => {
    connection.tcp.pause();
    connection.attached = false;
    live.delete(connection);
  },
};

function drop(way) {
  for (const connection of [...live]) ways[way](connection);
}

const commands = {
  set: async (command) => Object.assign(knobs, command.knobs),
  // Publishes messages as a client of Ably's would have them encoded.
  publish: async ({ messages, frame }) => {
    channel.publish(await codec.messages(messages), frame || {}, live, send);
  },
  // Publishes `count` messages named 0, 1, 2…, and drops the connections after every `every`th; some of
  // those after that are published while there is no connection.
  flood: async ({ count, every, way }) => {
    let attached = 0;
    for (let index = 0; index < count; index++) {
      channel.publish(await codec.messages([{ name: String(index) }]), {}, live, send);
      if (every && index % every === every - 1) {
        attached = counts.attach + 1;
        drop(way);
      } else if (index % 16 === 0) {
        await until(() => counts.attach >= attached);
        await new Promise(setImmediate); // what is sent shall be under way
      }
    }
  },
  // Sends everybody, attached or not, a message whose data is the time, by the monotonic clock in ns.
  stamp: async () => {
    const data = process.hrtime.bigint().toString();
    const messages = await codec.messages([{ data }]);
    const frame = { action: codec.actions.MESSAGE, channel: 'jobs', messages };
    live.forEach((connection) => send(connection, frame));
  },
  // Sends a frame that is not remembered.
  send: async ({ frame }) => live.forEach((connection) => send(connection, frame)),
  sendRaw: async ({ base64, text }) => {
    live.forEach(({ socket }) => socket.send(text === undefined ? Buffer.from(base64, 'base64') : text));
  },
  ping: async () => live.forEach(({ socket }) => socket.ping()),
  drop: async ({ way }) => drop(way),
  // What was published so far cannot be sent again, and no connection be resumed.
  forget: async () => {
    channel.forget();
    keys.clear();
  },
  // The last token, plain and as in a URL.
  latest: async () => {
    const token = [...tokens.keys()].pop();
    const encode = (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`;
    return [token, token.replace(/[^a-zA-Z0-9]/g, encode)];
  },
  revoke: async () => tokens.forEach((_, token) => tokens.set(token, false)),
  wait: ({ what, count }) => until(() => (counts[what] || 0) >= count),
  counts: async () => counts,
  seen: async ({ what }) => seen.filter((one) => one.what === what),
};

function until(condition) {
  return new Promise((resolve) => {
    const check = () => condition() && (resolve(), true);
    if (!check()) waiting.push(check);
  });
}

const [certificate, key] = process.argv.slice(2);
const server = certificate
  ? https.createServer({ cert: fs.readFileSync(certificate), key: fs.readFileSync(key) }, onRequest)
  : http.createServer(onRequest);
const sockets = new WebSocketServer({ noServer: true });
server.on('upgrade', (request, socket, head) => onUpgrade(sockets, request, socket, head));
server.on('tlsClientError', () => note('refused'));
server.listen(0, certificate ? '127.0.0.2' : '127.0.0.1', () => {
  process.stdout.write(`${JSON.stringify({ port: server.address().port })}\n`);
});

const lines = readline.createInterface({ input: process.stdin });
lines.on('line', async (line) => {
  const command = JSON.parse(line);
  const result = await commands[command.op](command);
  process.stdout.write(`${JSON.stringify(result === undefined ? null : result)}\n`);
});
lines.on('close', () => process.exit(0));
