"""Replacements of mitmproxy's functions, because of which its version is pinned."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import socket
from typing import Any

from h11._receivebuffer import ReceiveBuffer
from mitmproxy.proxy import events, mode_servers
from mitmproxy.proxy.layers.http import HttpStream
from mitmproxy.proxy.layers.http._http1 import Http1Connection
from mitmproxy.proxy.layers.websocket import WebsocketConnection
from wsproto.extensions import PerMessageDeflate

from egress import websocket
from egress.registry import Vm

# The file descriptor of the listener, inherited from the runner.
LISTENER = 4
BACKLOG = 4096
# The limit of the head of a request or response.
MAX_HEAD = 256 << 10

# The VM for which this task connects to a server.
current_vm: contextvars.ContextVar[Vm | None] = contextvars.ContextVar("current_vm", default=None)


def install(started: Any) -> None:
    """Installs the replacements, before mitmproxy listens. `started` is called with the server."""
    mode_servers.TransparentInstance.listen = functools.partialmethod(listen, started)  # type: ignore[method-assign]
    ReceiveBuffer.maybe_extract_lines = limit_head(ReceiveBuffer.maybe_extract_lines)  # type: ignore[method-assign]
    Http1Connection.wait = limit_pipeline(Http1Connection.wait)  # type: ignore[method-assign]
    HttpStream.check_body_size = check_body_size  # type: ignore[method-assign]
    WebsocketConnection.events = websocket.events  # type: ignore[method-assign]
    PerMessageDeflate.frame_inbound_payload_data = websocket.frame_inbound_payload_data  # type: ignore[method-assign]


def filter_addresses(loop: Any) -> None:
    """Filters the results of name resolution from now on."""
    loop.getaddrinfo = functools.partial(resolve, loop.getaddrinfo)


async def resolve(resolve: Any, host: Any, port: Any, **options: Any) -> list[Any]:
    """Resolves a name to the addresses that the policy of the current VM allows."""
    found = await resolve(host, port, **options)
    vm = current_vm.get()
    if vm is None:
        return found
    reasons = [vm.policy.rejects(one[4][0].partition("%")[0], host, port) for one in found]
    allowed = [one for one, refusal in zip(found, reasons, strict=True) if refusal is None]
    if not allowed:
        raise OSError(next(filter(None, reasons), f"{host} does not resolve"))
    return allowed


async def listen(instance: Any, started: Any, _host: str, _port: int) -> list[asyncio.Server]:
    """Listens on the runner's socket, which outlives the proxy: no other program can take its port,
    and connections wait in it. Connections are accepted after the command `serve`."""
    listener = socket.socket(fileno=LISTENER)
    server = await asyncio.start_server(
        instance.handle_stream, sock=listener, backlog=BACKLOG, start_serving=False
    )
    started(server)
    return [server]


def limit_head(extract: Any) -> Any:
    """Discards a head that exceeds the limit."""

    def maybe_extract_lines(buffer: Any) -> Any:
        lines = extract(buffer)
        if lines is None and len(buffer) > MAX_HEAD:
            buffer.maybe_extract_at_most(len(buffer))
        return lines

    return maybe_extract_lines


def limit_pipeline(wait: Any) -> Any:
    """Discards pipelined requests that exceed the limit before the response. The rest is malformed,
    which closes the connection."""

    def wait_for_response(connection: Any, event: Any) -> Any:
        if isinstance(event, events.DataReceived) and len(connection.buf) > MAX_HEAD:
            connection.buf.maybe_extract_at_most(len(connection.buf))
        yield from wait(connection, event)

    return wait_for_response


def check_body_size(stream: HttpStream, request: bool):
    """Discards the body of a rejected request, which mitmproxy would buffer to its end."""
    if request and stream.flow.response is not None:
        stream.request_body_buf.clear()
    return False
    yield
