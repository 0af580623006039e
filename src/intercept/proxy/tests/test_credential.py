"""Real values instead of placeholders."""

import asyncio
import base64

import pytest
from mitmproxy.http import Headers, Request

from egress.credential import Refused, Secret, Wallet, apply

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


def wallet(*answers):
    asked, answers = [], list(answers)

    async def ask(api, force):
        asked.append((api, force))
        return answers.pop(0)

    return Wallet([SECRET], ask), asked


def test_a_placeholder_is_replaced_for_its_host():
    basic = base64.b64encode(b"user:placeholder-1").decode()
    made = request("/x?key=placeholder-1", authorization=f"Basic {basic}", x="a placeholder-1")
    own, _ = wallet()
    assert own.insert(made, "api.example.com", 443) == [SECRET]
    assert made.path == "/x?key=real-value"
    assert base64.b64decode(made.headers["authorization"][6:]) == b"user:real-value"
    assert made.headers["x"] == "a real-value"
    assert own.left(made) is None


def test_a_placeholder_for_another_host_stays_and_is_found():
    made = request(authorization="Bearer placeholder-1")
    own, _ = wallet()
    assert own.insert(made, "other.example.com", 443) == []
    assert own.insert(made, "api.example.com", 8443) == []
    assert own.left(made) is SECRET


def test_each_header_of_a_name_is_replaced_alone():
    made = request()
    made.headers = Headers([(b"x", b"placeholder-1"), (b"x", b"other")])
    own, _ = wallet()
    own.insert(made, "api.example.com", 443)
    assert made.headers.get_all("x") == ["real-value", "other"]


def test_what_an_api_wants_is_added_and_what_the_guest_said_is_gone():
    answer = {
        "headers": {"authorization": "Bearer real"},
        "query": {"key": "k"},
        "base": "https://tenant.example.com/v9/",
        "expiresAt": 1e12,
    }
    own, _ = wallet(answer)
    made = request("/v1/things?key=mine&a=1", authorization="Bearer mine")
    apply(asyncio.run(own.grant(0)), made, ("v1",))
    assert made.headers["authorization"] == "Bearer real"
    assert made.path == "/v9/things?a=1&key=k"


def test_a_base_is_replaced_only_where_it_is_plain_to_see():
    own, _ = wallet({"base": "https://tenant.example.com", "expiresAt": 1e12})
    grant = asyncio.run(own.grant(0))
    with pytest.raises(Refused):
        apply(grant, request("/v1%2Fthings"), ("v1",))


def test_values_are_asked_for_once_until_they_end():
    lasting = {"headers": {}, "expiresAt": 1e12}
    own, asked = wallet(lasting)

    async def twice():
        await asyncio.gather(own.grant(0), own.grant(0))
        await own.grant(0)

    asyncio.run(twice())
    assert asked == [(0, False)]
    own, asked = wallet({"expiresAt": 1}, {"expiresAt": 1})
    asyncio.run(twice_in_a_row(own))
    assert len(asked) == 2


async def twice_in_a_row(own):
    await own.grant(0)
    await own.grant(0)


def test_a_refusal_by_the_api_forces_one_refresh():
    lasting = {"headers": {}, "expiresAt": 1e12}
    own, asked = wallet(lasting, lasting)

    async def refused():
        await own.grant(0)
        own.refused(0)
        await own.grant(0)
        own.refused(0)
        await own.grant(0)

    asyncio.run(refused())
    assert asked == [(0, False), (0, True)]


def test_without_a_value_the_request_is_refused():
    own, _ = wallet({"status": 424, "reason": "not configured"})
    with pytest.raises(Refused) as error:
        asyncio.run(own.grant(0))
    assert error.value.status == 424
