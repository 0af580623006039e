import base64

import pytest

from egress.body import MAX_BYTES, Body
from egress.mask import Mask
from egress.registry import Registry


def fields(pieces, values=(), ended=True):
    body = Body([Mask(values)])
    for piece in pieces:
        body.add(piece)
    if ended:
        body.add(b"")
    return body.log_fields("b")


def test_text_is_logged_unchanged_and_an_empty_body_is_omitted():
    assert fields(["ä".encode()[:1], "ä".encode()[1:], b" b"]) == {"b": "ä b"}
    assert fields([]) == {}


def test_binary_data_is_logged_as_base64():
    for data in (b"\xff\x00\x01", b"a\0b"):
        assert fields([data]) == {"b": base64.b64encode(data).decode(), "b_encoding": "base64"}


def test_a_long_body_is_truncated_and_memory_is_limited():
    body = Body([Mask(["secret-value"])])
    for _ in range(1000):
        body.add(b"x" * 65536)
    assert len(body.buffer) < MAX_BYTES + 100
    assert body.log_fields("b") == {"b": "x" * MAX_BYTES, "b_truncated": True}
    # An incomplete character is omitted, and the rest is text.
    wide = fields(["€".encode() * MAX_BYTES])
    assert wide == {"b": "€" * (MAX_BYTES // 3), "b_truncated": True}


def test_secrets_are_masked_across_chunks_and_at_the_limit():
    value = "secret-value"
    assert fields([b"a sec", b"ret-val", b"ue b"], [value]) == {"b": "a ************ b"}
    at_limit = fields([b"x" * (MAX_BYTES - 3) + value.encode() + b"y"], [value])
    assert at_limit["b"].endswith("x***")
    # The connection failed within the secret.
    assert fields([b"a secret-v"], [value], ended=False) == {"b": "a ********", "b_truncated": True}


def test_the_signature_of_a_presigned_url_is_masked():
    signed = "https://s.org/a?X-Amz-Date=1&X-Amz-Signature=0123456789abcdef&X-Amz-Expires=9"
    stars = signed.replace("0123456789abcdef", "*" * 16)
    assert fields([signed.encode()]) == {"b": stars}
    azure = b'{"url":"https://x.net/c?sv=2\\u0026sig=aB%2Bc%3Dxyz\\u0026se=1"}'
    assert fields([azure]) == {"b": azure.replace(b"aB%2Bc%3Dxyz", b"*" * 12).decode()}
    assert fields([b"?signature=short&design=abcdefghijk"]) == {
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
def test_bodies_of_the_platform_and_of_presigned_urls_are_not_logged(host, port, path, kept):
    registry = Registry(None, lambda _: None)
    private = ["platform.example", "203.0.113.5:3000"]
    registry.register("10.0.0.1", {"bodies": True, "private": private})
    assert registry.get("10.0.0.1").may_log_bodies(host, port, path) is kept


def test_secrets_within_secrets_are_masked():
    body = Body([Mask(["inner"]), Mask(["outer-inner-outer"])])
    body.add(b"[outer-inner-outer] inner")
    body.add(b"")
    assert body.log_fields("b") == {"b": "[*****************] *****"}
