"""Masked secrets."""

import base64
import json
from pathlib import Path

import pytest

from egress.mask import Mask, Stream

# The vectors of the crate `mask`, which guest agent and platform use.
VECTORS = json.loads((Path(__file__).parents[3] / "mask/vectors.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["about"])
def test_every_vector_is_masked_without_a_change_of_length(vector):
    before, hidden, after = (vector[part].encode() for part in ("before", "hidden", "after"))
    whole = before + hidden + after
    expected = before + b"*" * len(hidden) + after
    mask = Mask([vector["secret"]])
    assert mask.bytes(whole) == expected
    for size in (1, 2, 3, 7):
        stream = Stream(mask)
        pieces = [stream(whole[at : at + size]) for at in range(0, len(whole), size)]
        assert b"".join([*pieces, stream(b"")]) == expected


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_overlapping_secrets_are_masked(size):
    data = b"xabcdefghijkly abcdefg"
    stream = Stream(Mask(["abcdef", "defghi", "ghijkl"]))
    pieces = [stream(data[at : at + size]) for at in range(0, len(data), size)] + [stream(b"")]
    assert b"".join(pieces) == b"x************y ******g"


def test_base64_is_masked_wherever_lines_break():
    secret = "".join(chr(97 + n * n % 23) for n in range(200))
    mask = Mask([secret])
    for width, before in ((64, 0), (76, 1), (76, 50)):
        text = base64.b64encode(b" " * before + secret.encode()).decode()
        lines = [text[at : at + width] for at in range(0, len(text), width)]
        masked = mask.text("\r\n".join(lines))
        left = masked.replace("*", "").replace("\r\n", "")
        assert len(left.removeprefix(text[: before // 3 * 4])) <= 20


def test_a_short_secret_is_not_masked():
    assert Mask(["abc", ""]).bytes(b"abcdef") == b"abcdef"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_secret_in_several_chunks_is_masked(size):
    data = b"aaaa secret-value bbbb secret-value"
    stream = Stream(Mask(["secret-value"]))
    pieces = [stream(data[at : at + size]) for at in range(0, len(data), size)] + [stream(b"")]
    assert b"".join(pieces) == data.replace(b"secret-value", b"*" * 12)


def test_only_the_beginning_of_a_secret_is_held_back():
    stream = Stream(Mask(["secret-value"]))
    assert stream(b"data: {}\n\n") == b"data: {}\n\n"
    assert stream(b"secr") == b""
    assert stream(b"etary") == b"secretary"
