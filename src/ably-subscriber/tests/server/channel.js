// A channel: what was published, and who gets it again.

'use strict';

const { actions } = require('./codec');

const flags = { RESUMED: 4, MODE_SUBSCRIBE: 1 << 18 };

class Channel {
  constructor(knobs) {
    this.knobs = knobs;
    this.frames = []; // what can be sent again
    this.first = 1; // serial of the first of them
  }

  last() {
    return this.first + this.frames.length - 1;
  }

  publish(messages, extra, live, send) {
    const serial = this.last() + 1;
    const frame = {
      action: actions.MESSAGE,
      channel: 'jobs',
      id: `publisher:${serial}`,
      connectionId: 'publisher',
      timestamp: 1700000000000 + serial,
      channelSerial: String(serial),
      messages,
      ...extra,
    };
    this.frames.push(frame);
    for (const connection of live) if (connection.attached) send(connection, frame);
  }

  forget() {
    this.first += this.frames.length + 1;
    this.frames = [];
  }

  attach({ channel, channelSerial, params }, connection, send) {
    const after = Number(channelSerial);
    const resumed = channelSerial !== undefined && after >= this.first - 1;
    const rewind = Number((params && params.rewind) || 0);
    const from = resumed ? after - this.knobs.repeat : this.last() - rewind;
    const { flags: wanted } = this.knobs;
    send(connection, {
      action: actions.ATTACHED,
      channel,
      channelSerial: String(this.last()),
      flags: wanted === null ? (resumed ? flags.RESUMED : 0) | flags.MODE_SUBSCRIBE : wanted,
      params,
    });
    if (this.knobs.cut-- > 0) return setImmediate(() => connection.tcp.destroy());
    connection.attached = true;
    this.frames.slice(Math.max(0, from - this.first + 1)).forEach((frame) => send(connection, frame));
  }
}

module.exports = { Channel };
