import zlib

import pytest
from mitmproxy.proxy.layers.websocket import WebsocketConnection
from wsproto import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol, Opcode

from egress import websocket
from egress.websocket import PIECE, TOO_LONG

LONGEST = 1 << 20
CHUNK = LONGEST >> 4


@pytest.fixture(autouse=True)
def overridden(monkeypatch):
    monkeypatch.setattr(websocket, "LONGEST", LONGEST)
    monkeypatch.setattr(WebsocketConnection, "events", websocket.events)
    bounded = websocket.frame_inbound_payload_data
    monkeypatch.setattr(PerMessageDeflate, "frame_inbound_payload_data", bounded)


def deflate():
    extension = PerMessageDeflate()
    extension.finalize("permessage-deflate")
    return [extension]


def pair(is_client, extensions=lambda: []):
    """One who sends, and our end that hears it."""
    kind = ConnectionType.SERVER if is_client else ConnectionType.CLIENT
    return FrameProtocol(is_client, extensions()), WebsocketConnection(
        kind, extensions(), conn=None
    )


def hear(connection, data):
    heard = []
    for begin in range(0, len(data), 65536):
        connection.receive_data(data[begin : begin + 65536])
        for event in connection.events():
            heard.append(event)
            if isinstance(event, CloseConnection):
                return heard
    return heard


def is_closed(events):
    return isinstance(events[-1], CloseConnection) and events[-1].code == TOO_LONG


@pytest.mark.parametrize("is_client", [True, False])
def test_a_message_that_is_too_long_closes_the_connection(is_client):
    sender, connection = pair(is_client)
    allowed = sender.send_data(bytes(LONGEST - CHUNK), True)
    for _ in range(3):
        (message,) = hear(connection, allowed)
        assert len(message.data) == LONGEST - CHUNK
    heard = hear(connection, sender.send_data(bytes(LONGEST + CHUNK), True))
    assert is_closed(heard)
    assert sum(len(event.data) for event in heard[:-1]) <= LONGEST


@pytest.mark.parametrize("is_client", [True, False])
def test_its_fragments_count_together(is_client):
    sender, connection = pair(is_client)
    heard = []
    for _ in range(LONGEST // CHUNK):
        heard += hear(connection, sender.send_data(bytes(CHUNK), False))
    assert is_closed(heard)


def test_empty_fragments_count_and_text_counts_in_bytes():
    sender, connection = pair(True)
    sender.send_data(b"x", False)
    empty = sender.send_data(b"", False)
    connection.receive_data(b"\x01\x80\0\0\0\0")
    assert is_closed(hear(connection, empty * (LONGEST // PIECE + 1)))
    sender, connection = pair(True)
    wide = "\N{EURO SIGN}" * (LONGEST // 3)
    assert is_closed(hear(connection, sender.send_data(wide, True)))


def test_what_is_packed_counts_unpacked():
    sender, connection = pair(True, deflate)
    assert hear(connection, sender.send_data("hello", True)) == [TextMessage("hello")]
    heard = hear(connection, sender.send_data(b"ab" * 1000, True))
    assert heard == [BytesMessage(b"ab" * 1000)]
    (event,) = hear(connection, sender.send_data(bytes(LONGEST - CHUNK), True))
    assert event.data == bytes(LONGEST - CHUNK)
    heard = hear(connection, sender.send_data(bytes(LONGEST * 16), True))
    assert is_closed(heard)
    assert sum(len(event.data) for event in heard[:-1]) <= LONGEST


def test_what_is_packed_wrong_closes_the_connection():
    packed = zlib.compress(b"x")
    frame = bytes([0xC0 | Opcode.BINARY, 0x80 | len(packed), 0, 0, 0, 0]) + packed
    _, connection = pair(True, deflate)
    (closed,) = hear(connection, frame)
    assert isinstance(closed, CloseConnection)
    assert closed.code != TOO_LONG
