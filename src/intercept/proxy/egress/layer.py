"""Chooses the protocol layer of a connection, and whether TLS is decrypted.

```text
  first bytes ─▶ TLS hello ─▶ no rules for requests ─▶ forwarded unchanged, bytes counted
              │            └▶ rules for requests ────▶ TLS with both ends ─▶ HTTP, or closed
              ├▶ HTTP
              └▶ anything else: forwarded unchanged if the address is allowed, or closed
```

The server is always the host that the client names, resolved by the host's DNS servers; the address
that the client has chosen is not used.
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
# The limits of a TLS hello and of a method, up to which more bytes are awaited.
MAX_HELLO = 64 << 10
MAX_METHOD = 33


class CountedTcp(layers.TCPLayer):
    """Forwards bytes unchanged, and counts them."""

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


class ClosedConnection(layer.Layer):
    """Closes the connection without a response."""

    def _handle_event(self, event: events.Event):
        if isinstance(event, events.Start):
            yield commands.CloseConnection(self.context.client)


def choose(context: Context, data: bytes, connection: Connection) -> layer.Layer | None:
    """The next layer; `None` if more bytes are needed."""
    if context.client.tls_established:
        return choose_within_tls(context, data, connection)
    if data[:1] == b"\x16":
        return choose_for_tls(context, data, connection)
    if HTTP.match(data):
        return layers.HttpLayer(context, HTTPMode.transparent)
    if len(data) < MAX_METHOD and re.fullmatch(rb"[A-Za-z][A-Za-z-]*( )?", data):
        return None
    return choose_for_other(context, connection)


def choose_within_tls(context: Context, data: bytes, connection: Connection) -> layer.Layer | None:
    """Within decrypted TLS: HTTP, or closed."""
    if context.client.alpn in (b"h2", b"http/1.1", b"http/1.0") or HTTP.match(data):
        return layers.HttpLayer(context, HTTPMode.transparent)
    if len(data) < MAX_METHOD and re.fullmatch(rb"([A-Za-z][A-Za-z-]*( )?)?", data):
        return None
    return close(context, connection, Decision(False, "not HTTP within decrypted TLS"))


def choose_for_tls(context: Context, data: bytes, connection: Connection) -> layer.Layer | None:
    """TLS: decrypted if the policy has rules for requests to the host."""
    try:
        hello = parse_client_hello(data)
        if hello is None:
            if len(data) > MAX_HELLO:
                raise ValueError
            return None
        connection.name(hosts.normalize(hello.sni) if hello.sni else None)
    except ValueError:
        return close(context, connection, Decision(False, "malformed TLS hello"))
    policy, host, port = connection.vm.policy, connection.host, connection.port
    context.server.address = (host, port)
    if policy.must_decrypt(host, port):
        server = ServerTLSLayer(context)
        server.child_layer = ClientTLSLayer(context)
        return server
    connection.decision = policy.decide_host(host, port)
    return CountedTcp(context, connection)


def choose_for_other(context: Context, connection: Connection) -> layer.Layer:
    """Neither TLS nor HTTP: the connection has an address only."""
    decision = connection.vm.policy.decide_host(connection.host, connection.port)
    if not decision.allowed:
        return close(context, connection, decision)
    connection.decision = decision
    return CountedTcp(context, connection)


def close(context: Context, connection: Connection, decision: Decision) -> layer.Layer:
    connection.decision = decision
    return ClosedConnection(context)
