"""What mitmproxy keeps for a client is bounded."""

from types import SimpleNamespace

from h11._receivebuffer import ReceiveBuffer
from mitmproxy.proxy import events

from egress.override import LONGEST_HEAD, bounded_wait


def test_what_comes_before_an_answer_is_kept_up_to_a_limit():
    connection = SimpleNamespace(buf=ReceiveBuffer())
    waited = []

    def wait(_connection, event):
        waited.append(event)
        yield "command"

    for piece in (b"x" * LONGEST_HEAD, b"x"):
        connection.buf += piece
        event = events.DataReceived(None, piece)
        assert list(bounded_wait(wait)(connection, event)) == ["command"]
        assert len(connection.buf) == (LONGEST_HEAD if len(piece) > 1 else 0)
    assert len(waited) == 2
