"""Limits of mitmproxy's buffers."""

from types import SimpleNamespace

from h11._receivebuffer import ReceiveBuffer
from mitmproxy.proxy import events

from egress.override import MAX_HEAD, limit_pipeline


def test_pipelined_requests_are_buffered_up_to_a_limit():
    connection = SimpleNamespace(buf=ReceiveBuffer())
    waited = []

    def wait(_connection, event):
        waited.append(event)
        yield "command"

    for piece in (b"x" * MAX_HEAD, b"x"):
        connection.buf += piece
        event = events.DataReceived(None, piece)
        assert list(limit_pipeline(wait)(connection, event)) == ["command"]
        assert len(connection.buf) == (MAX_HEAD if len(piece) > 1 else 0)
    assert len(waited) == 2
