"""Credentials and secrets: added to requests to the API or host that they are for, and no other."""

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

# A credential is renewed this long before it expires, in seconds.
MARGIN = 30
# The least time between renewals after a rejection by the API, in seconds.
REFRESH = 60

Ask = Callable[[int, bool], Awaitable[dict[str, Any]]]


class CredentialError(Exception):
    """There is no credential, and the request must not be sent without it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Secret:
    """A secret, its placeholder, and the hosts that may get it."""

    name: str
    placeholder: str
    value: str
    patterns: tuple[hosts.Pattern, ...]

    @classmethod
    def parse(cls, value: dict[str, Any]) -> Secret:
        patterns = tuple(map(hosts.Pattern.parse, value["hosts"]))
        return cls(value["name"], value["placeholder"], value["value"], patterns)


@dataclass
class Credential:
    """What the platform wants to be added to requests to an API."""

    headers: dict[str, str]
    query: dict[str, str]
    base: str | None
    names: list[str]
    expires: float
    mask: Mask


@dataclass
class CachedCredential:
    credential: Credential | None = None
    is_rejected: bool = False
    refreshed: float = float("-inf")
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class CredentialStore:
    """The secrets and credentials of one VM."""

    def __init__(self, secrets: list[Secret], ask: Ask) -> None:
        self.secrets = secrets
        self.ask = ask
        self.cache: dict[int, CachedCredential] = {}

    async def get(self, api: int) -> Credential:
        """The credential of an API. Concurrent callers share one request to the runner."""
        cached = self.cache.setdefault(api, CachedCredential())
        async with cached.lock:
            now = time.time()
            if (
                cached.credential
                and not cached.is_rejected
                and cached.credential.expires > now + MARGIN
            ):
                return cached.credential
            answer = await self.ask(api, cached.is_rejected)
            if "status" in answer:
                raise CredentialError(
                    int(answer["status"]), str(answer.get("reason") or "no credential")
                )
            headers, query = answer.get("headers") or {}, answer.get("query") or {}
            cached.credential = Credential(
                headers,
                query,
                answer.get("base"),
                answer.get("resolvedSecrets") or [],
                float(answer.get("expiresAt") or now + MARGIN + REFRESH),
                Mask(sensitive(headers, query)),
            )
            cached.is_rejected = False
            return cached.credential

    def reject(self, api: int) -> None:
        """The API rejected the credential: the next request renews it, with a limited rate."""
        cached, now = self.cache.setdefault(api, CachedCredential()), time.monotonic()
        if now - cached.refreshed > REFRESH:
            cached.is_rejected, cached.refreshed = True, now

    def has_secret_for(self, host: str, port: int) -> bool:
        """Whether a host may get any secret."""
        return any(pattern.matches(host, port) for one in self.secrets for pattern in one.patterns)

    def replace_placeholders(self, request: Any, host: str, port: int) -> list[Secret]:
        """Replaces the placeholders of secrets for this host; returns the replaced ones."""
        meant = [one for one in self.secrets if any(p.matches(host, port) for p in one.patterns)]
        return [secret for secret in meant if replace(request, secret)]

    def remaining_placeholder(self, request: Any) -> Secret | None:
        """A secret whose placeholder is still in the request."""
        texts = [request.path, *(value for _, value in request.headers.items(multi=True))]
        texts += [decoded for text in texts if (decoded := basic(text)) is not None]
        for secret in self.secrets:
            if any(secret.placeholder in text for text in texts):
                return secret
        return None


def sensitive(headers: dict[str, str], query: dict[str, str]) -> list[str]:
    """Values to mask in responses: also without their authentication scheme."""
    values = [*headers.values(), *query.values()]
    values += [value.partition(" ")[2] for value in headers.values()]
    for value in headers.values():
        values += (basic(value) or "").split(":", 1)
    return values


def apply(credential: Credential, request: Any, prefix: tuple[str, ...]) -> None:
    """Adds a credential to a request, in place of the guest's own values."""
    for name, value in credential.headers.items():
        request.headers[name] = value
    url = urlsplit(request.path)
    pairs = [(name, value) for name, value in pairs_of(url.query) if name not in credential.query]
    pairs += credential.query.items()
    query = urlencode(pairs) if credential.query else url.query
    path = url.path
    if credential.base:
        base = urlsplit(credential.base)
        raw = path.split("/")[1:]
        if tuple(map(unquote, raw[: len(prefix)])) != prefix:
            raise CredentialError(
                403, "the path has an encoding that does not allow to replace its base"
            )
        below = "/".join(raw[len(prefix) :])
        path = base.path.rstrip("/") + "/" + below
    request.path = urlunsplit(("", "", path, query, ""))


def replace(request: Any, secret: Secret) -> bool:
    """Replaces a placeholder in headers and query; whether there was one."""
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
    """The decoded credentials of the scheme `Basic`."""
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(encoded).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
