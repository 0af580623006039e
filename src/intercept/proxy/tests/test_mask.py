"""Values that must not come back."""

import base64
from urllib.parse import quote

import pytest

from egress.mask import Mask, Stream

SECRET = 'sk-"real+value/é'


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        quote(SECRET, safe=""),
        'sk-\\"real+value/\\u00e9',
        *(base64.b64encode(b"x" * n + SECRET.encode() + b"yz").decode() for n in range(3)),
        *(base64.urlsafe_b64encode(b"x" * n + SECRET.encode()).decode() for n in range(3)),
    ],
)
def test_a_value_is_masked_in_every_form_and_lengths_stay(text):
    data = f"before {text} after".encode()
    masked = Mask([SECRET]).bytes(data)
    assert len(masked) == len(data)
    assert b"*****" in masked
    assert masked.startswith(b"before ")
    assert masked.endswith(b" after")


def test_a_short_value_is_left_alone():
    assert Mask(["abc", ""]).bytes(b"abcdef") == b"abcdef"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_value_that_comes_in_pieces_is_masked(size):
    data = b"aaaa secret-value bbbb secret-value"
    stream = Stream(Mask(["secret-value"]))
    pieces = [stream(data[at : at + size]) for at in range(0, len(data), size)] + [stream(b"")]
    assert b"".join(pieces) == data.replace(b"secret-value", b"*" * 12)


def test_nothing_is_held_back_that_begins_no_value():
    stream = Stream(Mask(["secret-value"]))
    assert stream(b"data: {}\n\n") == b"data: {}\n\n"
    assert stream(b"secr") == b""
    assert stream(b"etary") == b"secretary"
