"""The functions of mitmproxy that are replaced; its version is pinned because of them."""

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

# The descriptor of the socket that the runner gives us.
LISTENER = 4
BACKLOG = 4096
# The longest head of a request or an answer.
LONGEST_HEAD = 256 << 10

# For whom this task connects to a server.
client_of: contextvars.ContextVar[Vm | None] = contextvars.ContextVar("client_of", default=None)


def install(started: Any) -> None:
    """Before anything listens; `started` is told of the server."""
    mode_servers.TransparentInstance.listen = functools.partialmethod(listen, started)  # type: ignore[method-assign]
    ReceiveBuffer.maybe_extract_lines = bounded(ReceiveBuffer.maybe_extract_lines)  # type: ignore[method-assign]
    Http1Connection.wait = bounded_wait(Http1Connection.wait)  # type: ignore[method-assign]
    HttpStream.check_body_size = check_body_size  # type: ignore[method-assign]
    WebsocketConnection.events = websocket.events  # type: ignore[method-assign]
    PerMessageDeflate.frame_inbound_payload_data = websocket.frame_inbound_payload_data  # type: ignore[method-assign]


def guard_names(loop: Any) -> None:
    """Where names lead is looked at from now on."""
    loop.getaddrinfo = functools.partial(look_up, loop.getaddrinfo)


async def look_up(look_up: Any, host: Any, port: Any, **options: Any) -> list[Any]:
    """Where a name leads, without what is not for the VM that it is looked up for."""
    found = await look_up(host, port, **options)
    vm = client_of.get()
    if vm is None:
        return found
    said = [vm.policy.refuses(one[4][0].partition("%")[0], host, port) for one in found]
    allowed = [one for one, refusal in zip(found, said, strict=True) if refusal is None]
    if not allowed:
        raise OSError(next(filter(None, said), f"{host} leads nowhere"))
    return allowed


async def listen(instance: Any, started: Any, _host: str, _port: int) -> list[asyncio.Server]:
    """Listens at the runner's socket: it stays when we end, so that nobody else can have its port,
    and whoever connects meanwhile waits. Connections are taken when the runner says so."""
    listener = socket.socket(fileno=LISTENER)
    server = await asyncio.start_server(
        instance.handle_stream, sock=listener, backlog=BACKLOG, start_serving=False
    )
    started(server)
    return [server]


def bounded(extract: Any) -> Any:
    """Forgets a head of a message that does not end."""

    def maybe_extract_lines(buffer: Any) -> Any:
        lines = extract(buffer)
        if lines is None and len(buffer) > LONGEST_HEAD:
            buffer.maybe_extract_at_most(len(buffer))
        return lines

    return maybe_extract_lines


def bounded_wait(wait: Any) -> Any:
    """Forgets what comes behind a request before that is answered, if it is too much: nobody sends
    so many requests at once. What is left of them makes no sense, and ends the connection."""

    def wait_for_answer(connection: Any, event: Any) -> Any:
        if isinstance(event, events.DataReceived) and len(connection.buf) > LONGEST_HEAD:
            connection.buf.maybe_extract_at_most(len(connection.buf))
        yield from wait(connection, event)

    return wait_for_answer


def check_body_size(stream: HttpStream, request: bool):
    """Forgets what is sent with a request that is refused, rather than keeping it until its end."""
    if request and stream.flow.response is not None:
        stream.request_body_buf.clear()
    return False
    yield
