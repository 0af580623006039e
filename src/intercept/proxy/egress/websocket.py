"""Limits the length of WebSocket messages, which mitmproxy buffers until they are complete."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from typing import Any

from wsproto.connection import Connection
from wsproto.events import CloseConnection, Event, Message
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason

# The limit of a message, decompressed.
MAX_BYTES = 16 << 20
# Added to the length of each fragment, so that the number of empty fragments is limited as well.
FRAGMENT_COST = 64
TOO_LONG = CloseReason.MESSAGE_TOO_BIG


def events(connection: Any) -> Iterator[Event]:
    """Like wsproto's function, but yields whole frames, since mitmproxy copies its buffer with each
    event. A message beyond the limit closes the connection in both directions."""
    fragments, kept = getattr(connection, "kept", ([], 0))
    for event in Connection.events(connection):
        if not isinstance(event, Message):
            yield event
            continue
        fragments.append(event.data)
        kept += FRAGMENT_COST + length(event.data)
        if kept > MAX_BYTES:
            connection.kept, connection.frame_buf = ([], 0), [b""]
            yield CloseConnection(TOO_LONG, "the message is too long")
            return
        if event.frame_finished:
            whole = dataclasses.replace(event, data=type(event.data)().join(fragments))
            fragments, kept = [], 0 if event.message_finished else kept
            yield whole
    connection.kept = (fragments, kept)


def length(data: str | bytes) -> int:
    return len(data.encode()) if isinstance(data, str) and not data.isascii() else len(data)


def frame_inbound_payload_data(
    deflate: PerMessageDeflate, _decoder: Any, data: bytes
) -> bytes | CloseReason:
    """Like wsproto's function, with a limit of the decompressed length."""
    if not deflate._inbound_compressed or not deflate._inbound_is_compressible:
        return data
    decompressor = deflate._decompressor
    try:
        decompressed = decompressor.decompress(bytes(data), MAX_BYTES)
    except zlib.error:
        return CloseReason.INVALID_FRAME_PAYLOAD_DATA
    return TOO_LONG if decompressor.unconsumed_tail else decompressed
