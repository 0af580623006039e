"""Secrets for placeholders, and credentials of APIs."""

import asyncio
import base64

import pytest
from mitmproxy.http import Headers, Request

from egress.credential import CredentialError, CredentialStore, Secret, apply

SECRET = Secret.parse(
    {
        "name": "KEY",
        "placeholder": "placeholder-1",
        "value": "real-value",
        "hosts": ["api.example.com"],
    }
)


def request(path="/", **headers):
    return Request.make("GET", f"https://api.example.com{path}", headers=headers)


def credentials(*answers):
    asked, answers = [], list(answers)

    async def ask(api, force):
        asked.append((api, force))
        return answers.pop(0)

    return CredentialStore([SECRET], ask), asked


def test_a_placeholder_is_replaced_for_its_host():
    basic = base64.b64encode(b"user:placeholder-1").decode()
    made = request("/x?key=placeholder-1", authorization=f"Basic {basic}", x="a placeholder-1")
    own, _ = credentials()
    assert own.replace_placeholders(made, "api.example.com", 443) == [SECRET]
    assert made.path == "/x?key=real-value"
    assert base64.b64decode(made.headers["authorization"][6:]) == b"user:real-value"
    assert made.headers["x"] == "a real-value"
    assert own.remaining_placeholder(made) is None


def test_a_placeholder_for_another_host_remains_and_is_found():
    made = request(authorization="Bearer placeholder-1")
    own, _ = credentials()
    assert own.replace_placeholders(made, "other.example.com", 443) == []
    assert own.replace_placeholders(made, "api.example.com", 8443) == []
    assert own.remaining_placeholder(made) is SECRET


def test_headers_of_the_same_name_are_replaced_independently():
    made = request()
    made.headers = Headers([(b"x", b"placeholder-1"), (b"x", b"other")])
    own, _ = credentials()
    own.replace_placeholders(made, "api.example.com", 443)
    assert made.headers.get_all("x") == ["real-value", "other"]


def test_a_credential_replaces_the_values_of_the_guest():
    answer = {
        "headers": {"authorization": "Bearer real"},
        "query": {"key": "k"},
        "base": "https://tenant.example.com/v9/",
        "expiresAt": 1e12,
    }
    own, _ = credentials(answer)
    made = request("/v1/things?key=mine&a=1", authorization="Bearer mine")
    apply(asyncio.run(own.get(0)), made, ("v1",))
    assert made.headers["authorization"] == "Bearer real"
    assert made.path == "/v9/things?a=1&key=k"


def test_an_encoded_base_is_not_replaced():
    own, _ = credentials({"base": "https://tenant.example.com", "expiresAt": 1e12})
    grant = asyncio.run(own.get(0))
    with pytest.raises(CredentialError):
        apply(grant, request("/v1%2Fthings"), ("v1",))


def test_a_credential_is_requested_once_until_it_expires():
    lasting = {"headers": {}, "expiresAt": 1e12}
    own, asked = credentials(lasting)

    async def twice():
        await asyncio.gather(own.get(0), own.get(0))
        await own.get(0)

    asyncio.run(twice())
    assert asked == [(0, False)]
    own, asked = credentials({"expiresAt": 1}, {"expiresAt": 1})
    asyncio.run(twice_in_a_row(own))
    assert len(asked) == 2


async def twice_in_a_row(own):
    await own.get(0)
    await own.get(0)


def test_a_rejection_by_the_api_forces_one_renewal():
    lasting = {"headers": {}, "expiresAt": 1e12}
    own, asked = credentials(lasting, lasting)

    async def refused():
        await own.get(0)
        own.reject(0)
        await own.get(0)
        own.reject(0)
        await own.get(0)

    asyncio.run(refused())
    assert asked == [(0, False), (0, True)]


def test_a_request_without_a_credential_is_rejected():
    own, _ = credentials({"status": 424, "reason": "not configured"})
    with pytest.raises(CredentialError) as error:
        asyncio.run(own.get(0))
    assert error.value.status == 424
