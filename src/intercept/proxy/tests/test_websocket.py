import zlib

import pytest
from mitmproxy.proxy.layers.websocket import WebsocketConnection
from wsproto import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol, Opcode

from egress import websocket
from egress.websocket import FRAGMENT_COST, TOO_LONG

MAX_BYTES = 1 << 20
CHUNK = MAX_BYTES >> 4


@pytest.fixture(autouse=True)
def overridden(monkeypatch):
    monkeypatch.setattr(websocket, "MAX_BYTES", MAX_BYTES)
    monkeypatch.setattr(WebsocketConnection, "events", websocket.events)
    limited = websocket.frame_inbound_payload_data
    monkeypatch.setattr(PerMessageDeflate, "frame_inbound_payload_data", limited)


def deflate():
    extension = PerMessageDeflate()
    extension.finalize("permessage-deflate")
    return [extension]


def pair(is_client, extensions=lambda: []):
    """A sender, and our receiving connection."""
    kind = ConnectionType.SERVER if is_client else ConnectionType.CLIENT
    return FrameProtocol(is_client, extensions()), WebsocketConnection(
        kind, extensions(), conn=None
    )


def receive(connection, data):
    received = []
    for begin in range(0, len(data), 65536):
        connection.receive_data(data[begin : begin + 65536])
        for event in connection.events():
            received.append(event)
            if isinstance(event, CloseConnection):
                return received
    return received


def is_closed(events):
    return isinstance(events[-1], CloseConnection) and events[-1].code == TOO_LONG


@pytest.mark.parametrize("is_client", [True, False])
def test_a_message_beyond_the_limit_closes_the_connection(is_client):
    sender, connection = pair(is_client)
    allowed = sender.send_data(bytes(MAX_BYTES - CHUNK), True)
    for _ in range(3):
        (message,) = receive(connection, allowed)
        assert len(message.data) == MAX_BYTES - CHUNK
    received = receive(connection, sender.send_data(bytes(MAX_BYTES + CHUNK), True))
    assert is_closed(received)
    assert sum(len(event.data) for event in received[:-1]) <= MAX_BYTES


@pytest.mark.parametrize("is_client", [True, False])
def test_the_fragments_of_a_message_count_together(is_client):
    sender, connection = pair(is_client)
    received = []
    for _ in range(MAX_BYTES // CHUNK):
        received += receive(connection, sender.send_data(bytes(CHUNK), False))
    assert is_closed(received)


def test_empty_fragments_count_and_text_counts_in_bytes():
    sender, connection = pair(True)
    sender.send_data(b"x", False)
    empty = sender.send_data(b"", False)
    connection.receive_data(b"\x01\x80\0\0\0\0")
    assert is_closed(receive(connection, empty * (MAX_BYTES // FRAGMENT_COST + 1)))
    sender, connection = pair(True)
    wide = "\N{EURO SIGN}" * (MAX_BYTES // 3)
    assert is_closed(receive(connection, sender.send_data(wide, True)))


def test_a_compressed_message_counts_decompressed():
    sender, connection = pair(True, deflate)
    assert receive(connection, sender.send_data("hello", True)) == [TextMessage("hello")]
    received = receive(connection, sender.send_data(b"ab" * 1000, True))
    assert received == [BytesMessage(b"ab" * 1000)]
    (event,) = receive(connection, sender.send_data(bytes(MAX_BYTES - CHUNK), True))
    assert event.data == bytes(MAX_BYTES - CHUNK)
    received = receive(connection, sender.send_data(bytes(MAX_BYTES * 16), True))
    assert is_closed(received)
    assert sum(len(event.data) for event in received[:-1]) <= MAX_BYTES


def test_malformed_compression_closes_the_connection():
    compressed = zlib.compress(b"x")
    frame = bytes([0xC0 | Opcode.BINARY, 0x80 | len(compressed), 0, 0, 0, 0]) + compressed
    _, connection = pair(True, deflate)
    (closed,) = receive(connection, frame)
    assert isinstance(closed, CloseConnection)
    assert closed.code != TOO_LONG
