import base64

import pytest

from egress.body import LONGEST, Body
from egress.mask import Mask
from egress.registry import Registry


def told(pieces, values=(), ended=True):
    body = Body([Mask(values)])
    for piece in pieces:
        body.add(piece)
    if ended:
        body.add(b"")
    return body.told("b")


def test_text_is_told_as_it_is_and_nothing_is_not_told():
    assert told(["ä".encode()[:1], "ä".encode()[1:], b" b"]) == {"b": "ä b"}
    assert told([]) == {}


def test_what_is_no_text_is_told_as_base64():
    for data in (b"\xff\x00\x01", b"a\0b"):
        assert told([data]) == {"b": base64.b64encode(data).decode(), "b_encoding": "base64"}


def test_a_long_body_is_cut_and_memory_is_bounded():
    body = Body([Mask(["secret-value"])])
    for _ in range(1000):
        body.add(b"x" * 65536)
    assert len(body.kept) < LONGEST + 100
    assert body.told("b") == {"b": "x" * LONGEST, "b_truncated": True}
    # A character that is cut is left out, and what remains is text.
    wide = told(["€".encode() * LONGEST])
    assert wide == {"b": "€" * (LONGEST // 3), "b_truncated": True}


def test_values_are_masked_wherever_pieces_and_the_limit_cut_them():
    value = "secret-value"
    assert told([b"a sec", b"ret-val", b"ue b"], [value]) == {"b": "a ************ b"}
    at_limit = told([b"x" * (LONGEST - 3) + value.encode() + b"y"], [value])
    assert at_limit["b"].endswith("x***")
    # The connection broke in the middle of it.
    assert told([b"a secret-v"], [value], ended=False) == {"b": "a ********", "b_truncated": True}


def test_a_presigned_url_is_told_without_its_signature():
    signed = "https://s.org/a?X-Amz-Date=1&X-Amz-Signature=0123456789abcdef&X-Amz-Expires=9"
    stars = signed.replace("0123456789abcdef", "*" * 16)
    assert told([signed.encode()]) == {"b": stars}
    azure = b'{"url":"https://x.net/c?sv=2\\u0026sig=aB%2Bc%3Dxyz\\u0026se=1"}'
    assert told([azure]) == {"b": azure.replace(b"aB%2Bc%3Dxyz", b"*" * 12).decode()}
    assert told([b"?signature=short&design=abcdefghijk"]) == {
        "b": "?signature=short&design=abcdefghijk"
    }


@pytest.mark.parametrize(
    ("host", "port", "path", "kept"),
    [
        ("a.org", 443, "/x?q=1", True),
        ("platform.example", 443, "/api", False),
        ("platform.example", 8443, "/api", True),
        ("203.0.113.5", 3000, "/api", False),
        ("bucket.s3.example", 443, "/k?X-Amz-Signature=0123456789abcdef", False),
    ],
)
def test_bodies_of_the_platform_and_of_presigned_urls_are_not_kept(host, port, path, kept):
    registry = Registry(None, lambda _: None)
    private = ["platform.example", "203.0.113.5:3000"]
    registry.register("10.0.0.1", {"bodies": True, "private": private})
    assert registry.get("10.0.0.1").may_keep(host, port, path) is kept


def test_values_within_values_are_masked_as_a_whole():
    body = Body([Mask(["inner"]), Mask(["outer-inner-outer"])])
    body.add(b"[outer-inner-outer] inner")
    body.add(b"")
    assert body.told("b") == {"b": "[*****************] *****"}
