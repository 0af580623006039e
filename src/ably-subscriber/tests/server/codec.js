// Ably's own encoder and classes, from its package for JavaScript.

'use strict';

const Ably = require('ably');

const { _MsgPack: msgpack, ProtocolMessage, Message } = Ably.Realtime;

const actions = {
  HEARTBEAT: 0,
  CONNECTED: 4,
  DISCONNECTED: 6,
  CLOSE: 7,
  CLOSED: 8,
  ERROR: 9,
  ATTACH: 10,
  ATTACHED: 11,
  DETACHED: 13,
  MESSAGE: 15,
  AUTH: 17,
};

// Without what is undefined, as Ably's client does it.
const encode = (frame) => msgpack.encode(Object.assign(new ProtocolMessage(), frame), true);

const decode = (bytes) => Ably.makeProtocolMessageFromDeserialized()(msgpack.decode(bytes));

// Messages as they are on the wire. `base64` instead of `data` stands for bytes.
function messages(list) {
  return Promise.all(
    list.map(async ({ base64, ...values }) => {
      if (base64 !== undefined) values.data = Buffer.from(base64, 'base64');
      const wire = await Message.fromValues(values).encode({});
      if (values.encoding) wire.encoding = values.encoding; // encoded by whoever wrote the test
      return wire;
    }),
  );
}

module.exports = { actions, decode, encode, messages };
