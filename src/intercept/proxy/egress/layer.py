"""Which protocol a connection speaks, and whether we look into it.

```text
  first bytes ─▶ TLS hello ─▶ nothing to see ──▶ passed on as it is, its bytes counted
              │            └▶ something to see ─▶ TLS with both ends ─▶ HTTP, or refused
              ├▶ HTTP
              └▶ anything else: passed on as it is if its address is allowed, or refused
```

The server is always the one that the client names, found by the host's own name servers: not the
address that the client has chosen.
"""

from __future__ import annotations

import re

from mitmproxy.proxy import commands, events, layer, layers
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.proxy.layers.tls import ClientTLSLayer, ServerTLSLayer, parse_client_hello

from egress import host as hosts
from egress.policy import Decision
from egress.registry import Connection

HTTP = re.compile(rb"[A-Za-z][A-Za-z-]{2,31} [^\n]")
# The longest hello, and the longest beginning of a request line that is waited for.
LONGEST_HELLO = 64 << 10
LONGEST_METHOD = 33


class Counted(layers.TCPLayer):
    """Bytes that are passed on as they are."""

    def __init__(self, context: Context, connection: Connection) -> None:
        super().__init__(context, ignore=True)
        self.connection = connection

    def handle_event(self, event: events.Event):
        if isinstance(event, events.DataReceived):
            if event.connection is self.context.client:
                self.connection.sent += len(event.data)
            else:
                self.connection.received += len(event.data)
        yield from super().handle_event(event)


class Refused(layer.Layer):
    """A connection that is closed without a word."""

    def _handle_event(self, event: events.Event):
        if isinstance(event, events.Start):
            yield commands.CloseConnection(self.context.client)


def choose(context: Context, data: bytes, connection: Connection) -> layer.Layer | None:
    """What is next; none if more has to be heard first."""
    if context.client.tls_established:
        return inside(context, data, connection)
    if data[:1] == b"\x16":
        return outside(context, data, connection)
    if HTTP.match(data):
        return layers.HttpLayer(context, HTTPMode.transparent)
    if len(data) < LONGEST_METHOD and re.fullmatch(rb"[A-Za-z][A-Za-z-]*( )?", data):
        return None
    return raw(context, connection)


def inside(context: Context, data: bytes, connection: Connection) -> layer.Layer | None:
    """What a client says by TLS that we have ended: nothing but HTTP is understood."""
    if context.client.alpn in (b"h2", b"http/1.1", b"http/1.0") or HTTP.match(data):
        return layers.HttpLayer(context, HTTPMode.transparent)
    if len(data) < LONGEST_METHOD and re.fullmatch(rb"([A-Za-z][A-Za-z-]*( )?)?", data):
        return None
    return refuse(context, connection, Decision(False, "not HTTP, though it would be looked into"))


def outside(context: Context, data: bytes, connection: Connection) -> layer.Layer | None:
    """TLS: passed on as it is if there is nothing to see."""
    try:
        hello = parse_client_hello(data)
        if hello is None:
            if len(data) > LONGEST_HELLO:
                raise ValueError
            return None
        connection.name(hosts.normalize(hello.sni) if hello.sni else None)
    except ValueError:
        return refuse(context, connection, Decision(False, "no TLS hello that could be understood"))
    policy, host, port = connection.vm.policy, connection.host, connection.port
    context.server.address = (host, port)
    if policy.must_see(host, port):
        server = ServerTLSLayer(context)
        server.child_layer = ClientTLSLayer(context)
        return server
    connection.decision = policy.decide_host(host, port)
    return Counted(context, connection)


def raw(context: Context, connection: Connection) -> layer.Layer:
    """Neither TLS nor HTTP: nobody says a name."""
    decision = connection.vm.policy.decide_host(connection.host, connection.port)
    if not decision.allowed:
        return refuse(context, connection, decision)
    connection.decision = decision
    return Counted(context, connection)


def refuse(context: Context, connection: Connection, decision: Decision) -> layer.Layer:
    connection.decision = decision
    return Refused(context)
