"""Messages of WebSockets: mitmproxy keeps each until it is whole, so their length is limited."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from typing import Any

from wsproto.connection import Connection
from wsproto.events import CloseConnection, Event, Message
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason

# The longest message, unpacked.
LONGEST = 16 << 20
# What the pieces of one cost besides, so that it does not come as any number of empty ones.
PIECE = 64
TOO_LONG = CloseReason.MESSAGE_TOO_BIG


def events(connection: Any) -> Iterator[Event]:
    """As wsproto's, but of whole frames: mitmproxy copies all that it has with each piece.
    A message that is too long closes the connection, both ways."""
    pieces, kept = getattr(connection, "kept", ([], 0))
    for event in Connection.events(connection):
        if not isinstance(event, Message):
            yield event
            continue
        pieces.append(event.data)
        kept += PIECE + length(event.data)
        if kept > LONGEST:
            connection.kept, connection.frame_buf = ([], 0), [b""]
            yield CloseConnection(TOO_LONG, "the message is too long")
            return
        if event.frame_finished:
            whole = dataclasses.replace(event, data=type(event.data)().join(pieces))
            pieces, kept = [], 0 if event.message_finished else kept
            yield whole
    connection.kept = (pieces, kept)


def length(data: str | bytes) -> int:
    return len(data.encode()) if isinstance(data, str) and not data.isascii() else len(data)


def frame_inbound_payload_data(
    deflate: PerMessageDeflate, _decoder: Any, data: bytes
) -> bytes | CloseReason:
    """As wsproto's, which unpacks a thousandfold if asked to."""
    if not deflate._inbound_compressed or not deflate._inbound_is_compressible:
        return data
    unpacker = deflate._decompressor
    try:
        unpacked = unpacker.decompress(bytes(data), LONGEST)
    except zlib.error:
        return CloseReason.INVALID_FRAME_PAYLOAD_DATA
    return TOO_LONG if unpacker.unconsumed_tail else unpacked
