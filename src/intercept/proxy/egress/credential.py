"""Real values instead of placeholders: added here, for the API that they are for and no other."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from egress import host as hosts
from egress.mask import Mask

# A value that ends so soon is asked for anew, in seconds.
MARGIN = 30
# After a refusal by the API, values are asked for anew at most so often, in seconds.
REFRESH = 60

Ask = Callable[[int, bool], Awaitable[dict[str, Any]]]


class Refused(Exception):
    """There is no value, and the request must not go without it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Secret:
    """A value that a placeholder stands for, at some hosts."""

    name: str
    placeholder: str
    value: str
    patterns: tuple[hosts.Pattern, ...]

    @classmethod
    def parse(cls, value: dict[str, Any]) -> Secret:
        patterns = tuple(map(hosts.Pattern.parse, value["hosts"]))
        return cls(value["name"], value["placeholder"], value["value"], patterns)


@dataclass
class Grant:
    """What an API's requests are to have, as it was told by the platform."""

    headers: dict[str, str]
    query: dict[str, str]
    base: str | None
    names: list[str]
    expires: float
    mask: Mask


@dataclass
class Slot:
    grant: Grant | None = None
    is_refused: bool = False
    refreshed: float = float("-inf")
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Wallet:
    """The values of one VM."""

    def __init__(self, secrets: list[Secret], ask: Ask) -> None:
        self.secrets = secrets
        self.ask = ask
        self.slots: dict[int, Slot] = {}

    async def grant(self, api: int) -> Grant:
        """What requests to an API are to have; asked for once for all that wait for it."""
        slot = self.slots.setdefault(api, Slot())
        async with slot.lock:
            now = time.time()
            if slot.grant and not slot.is_refused and slot.grant.expires > now + MARGIN:
                return slot.grant
            answer = await self.ask(api, slot.is_refused)
            if "status" in answer:
                raise Refused(int(answer["status"]), str(answer.get("reason") or "no credential"))
            headers, query = answer.get("headers") or {}, answer.get("query") or {}
            slot.grant = Grant(
                headers,
                query,
                answer.get("base"),
                answer.get("resolvedSecrets") or [],
                float(answer.get("expiresAt") or now + MARGIN + REFRESH),
                Mask(sensitive(headers, query)),
            )
            slot.is_refused = False
            return slot.grant

    def refused(self, api: int) -> None:
        """The API did not take a value: the next request asks for another, but not all the time."""
        slot, now = self.slots.setdefault(api, Slot()), time.monotonic()
        if now - slot.refreshed > REFRESH:
            slot.is_refused, slot.refreshed = True, now

    def is_for(self, host: str, port: int) -> bool:
        """Whether any secret is for a host."""
        return any(pattern.fits(host, port) for one in self.secrets for pattern in one.patterns)

    def insert(self, request: Any, host: str, port: int) -> list[Secret]:
        """Replaces placeholders by what they stand for at this host; returns which."""
        meant = [one for one in self.secrets if any(p.fits(host, port) for p in one.patterns)]
        return [secret for secret in meant if replace(request, secret)]

    def left(self, request: Any) -> Secret | None:
        """A placeholder that is in a request still."""
        texts = [request.path, *(value for _, value in request.headers.items(multi=True))]
        texts += [decoded for text in texts if (decoded := basic(text)) is not None]
        for secret in self.secrets:
            if any(secret.placeholder in text for text in texts):
                return secret
        return None


def sensitive(headers: dict[str, str], query: dict[str, str]) -> list[str]:
    """What must not come back: values, and each without the scheme that it is sent with."""
    values = [*headers.values(), *query.values()]
    values += [value.partition(" ")[2] for value in headers.values()]
    for value in headers.values():
        values += (basic(value) or "").split(":", 1)
    return values


def apply(grant: Grant, request: Any, prefix: tuple[str, ...]) -> None:
    """Gives a request what its API wants; what the guest has said there is gone."""
    for name, value in grant.headers.items():
        request.headers[name] = value
    url = urlsplit(request.path)
    pairs = [(name, value) for name, value in pairs_of(url.query) if name not in grant.query]
    pairs += grant.query.items()
    query = urlencode(pairs) if grant.query else url.query
    path = url.path
    if grant.base:
        base = urlsplit(grant.base)
        raw = path.split("/")[1:]
        if tuple(map(unquote, raw[: len(prefix)])) != prefix:
            raise Refused(403, "the path is written so that its base cannot be replaced")
        below = "/".join(raw[len(prefix) :])
        path = base.path.rstrip("/") + "/" + below
    request.path = urlunsplit(("", "", path, query, ""))


def replace(request: Any, secret: Secret) -> bool:
    """Replaces a placeholder in headers and query."""
    found = False
    for name, value in list(request.headers.items(multi=True)):
        decoded = basic(value)
        if secret.placeholder in value:
            new = value.replace(secret.placeholder, secret.value)
        elif decoded is not None and secret.placeholder in decoded:
            real = decoded.replace(secret.placeholder, secret.value)
            new = "Basic " + base64.b64encode(real.encode()).decode()
        else:
            continue
        values = request.headers.get_all(name)
        request.headers.set_all(name, [new if one == value else one for one in values])
        found = True
    url = urlsplit(request.path)
    if secret.placeholder in url.query:
        pairs = [(n, v.replace(secret.placeholder, secret.value)) for n, v in pairs_of(url.query)]
        request.path = urlunsplit(("", "", url.path, urlencode(pairs), ""))
        found = True
    return found


def pairs_of(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True)


def basic(value: str) -> str | None:
    """What `Basic` credentials say."""
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(encoded).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
