"""Who may be reached, and by which requests. Whatever is allowed or refused, is so here.

A host that an API of a firewall is at is known by that alone: what its base does not cover there
is refused. All other hosts are decided about by the lists of names, then by `unknown`. What has no
name is decided about by its address. Nothing is allowed because of an error.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from egress import host as hosts
from egress import path as paths
from egress import route

# Name servers over TCP, TLS and HTTPS: whoever asks them goes past the one that knows the policy.
DNS_PORTS = (53, 853)
DNS_OVER_HTTPS = tuple(
    hosts.Pattern.parse(name)
    for name in (
        "dns.google",
        "cloudflare-dns.com",
        "*.cloudflare-dns.com",
        "one.one.one.one",
        "dns.quad9.net",
        "*.quad9.net",
        "doh.opendns.com",
        "dns.adguard-dns.com",
        "dns.nextdns.io",
        "dns.mullvad.net",
        "doh.cleanbrowsing.org",
    )
)
OVERRIDES = ("x-http-method-override", "x-http-method", "x-method-override")


@dataclass(frozen=True)
class Decision:
    """What becomes of a request or a connection, and because of what."""

    allowed: bool
    reason: str
    api: Api | None = None
    permission: str | None = None
    rule: str | None = None

    @property
    def firewall(self) -> str | None:
        return self.api.firewall if self.api else None


@dataclass(frozen=True)
class Grants:
    """What a job may do with a firewall's APIs, by the names of permissions."""

    allow: frozenset[str]
    deny: frozenset[str]
    ask: frozenset[str]
    unknown: str

    @classmethod
    def parse(cls, value: dict[str, Any]) -> Grants:
        lists = (frozenset(value.get(name) or ()) for name in ("allow", "deny", "ask"))
        return cls(*lists, value.get("unknownPolicy") or "deny")

    def verdict(self, permission: str) -> str | None:
        """None if nothing is said of it."""
        verdicts = ("deny", "ask", "allow")
        return next((one for one in verdicts if permission in getattr(self, one)), None)


@dataclass(frozen=True, eq=False)
class Api:
    """One API of a firewall."""

    index: int
    firewall: str
    base: str
    scheme: str
    pattern: hosts.Pattern
    prefix: tuple[str, ...]
    has_credential: bool
    rules: tuple[tuple[str, paths.Rule], ...]
    grants: Grants | None

    @classmethod
    def parse(cls, index: int, firewall: str, value: dict[str, Any], grants: Grants | None) -> Api:
        base = urlsplit(value["base"])
        if base.scheme not in ("http", "https") or not base.hostname:
            raise ValueError(f"`{value['base']}` is no base of an API")
        port = base.port or (443 if base.scheme == "https" else 80)
        rules = tuple(
            (permission["name"], paths.Rule.parse(rule))
            for permission in value.get("permissions") or ()
            for rule in permission.get("rules") or ()
        )
        return cls(
            index,
            firewall,
            value["base"],
            base.scheme,
            hosts.Pattern.parse(f"{base.hostname}:{port}"),
            tuple(segment for segment in base.path.split("/") if segment),
            bool(value.get("hasCredential")),
            rules,
            grants,
        )

    def is_at(self, host: str) -> bool:
        return self.pattern.port is not None and self.pattern.fits(host, self.pattern.port)

    def below(self, segments: tuple[str, ...]) -> tuple[str, ...] | None:
        """The rest of a path that begins with the base's."""
        count = len(self.prefix)
        if segments[:count] != self.prefix:
            return None
        return segments[count:] or ("",)

    def decide(self, method: str, segments: tuple[str, ...]) -> Decision:
        found = [(name, rule) for name, rule in self.rules if rule.fits(method, segments)]
        if self.grants is None:
            name, rule = found[0] if found else (None, None)
            text = rule.text if rule else None
            return Decision(True, f"{self.firewall} is open", self, name, text)
        # Where several permissions cover a request, the strictest of what is said holds.
        said = [(self.grants.verdict(name), name, rule.text) for name, rule in found]
        said = [one for one in said if one[0] is not None] or [
            (self.grants.unknown, name, rule.text) for name, rule in found[:1]
        ]
        order = {"deny": 0, "ask": 1, "allow": 2}
        unknown = (self.grants.unknown, None, None)
        verdict, name, text = min(said, key=lambda of: order.get(of[0], 0), default=unknown)
        what = f"permission {name} ({text})" if name else "what no permission covers"
        if verdict == "allow":
            return Decision(True, f"{self.firewall}: {what}", self, name, text)
        how = "needs approval" if verdict == "ask" else "is denied"
        return Decision(False, f"{self.firewall}: {what} {how}", self, name, text)


@dataclass(frozen=True)
class Reachable:
    """A socket that may be reached by a name though it is private or the host's own."""

    host: str
    port: int
    addresses: frozenset[Any]

    @classmethod
    def parse(cls, value: dict[str, Any]) -> Reachable:
        addresses = frozenset(map(ipaddress.ip_address, value.get("addresses") or ()))
        return cls(hosts.normalize(value["host"]), int(value["port"]), addresses)

    def covers(self, host: str, port: int, address: Any) -> bool:
        return (self.host, self.port) == (host, port) and address in self.addresses


@dataclass
class Policy:
    """What one VM may do."""

    unknown: str = "deny"
    allow: tuple[hosts.Pattern, ...] = ()
    deny: tuple[hosts.Pattern, ...] = ()
    addresses: tuple[Any, ...] = ()
    internal: tuple[Any, ...] = ()
    reachable: tuple[Reachable, ...] = ()
    apis: tuple[Api, ...] = ()
    seen: tuple[hosts.Pattern, ...] = field(default=())

    @classmethod
    def parse(cls, value: dict[str, Any]) -> Policy:
        apis: list[Api] = []
        for firewall in value.get("firewalls") or ():
            grants = firewall.get("policy")
            parsed = Grants.parse(grants) if grants is not None else None
            for api in firewall.get("apis") or ():
                apis.append(Api.parse(len(apis), firewall["name"], api, parsed))

        def patterns(name: str) -> tuple[hosts.Pattern, ...]:
            return tuple(map(hosts.Pattern.parse, value.get(name) or ()))

        def networks(name: str) -> tuple[Any, ...]:
            return tuple(map(ipaddress.ip_network, value.get(name) or ()))

        return cls(
            value.get("unknown") or "deny",
            patterns("allow"),
            patterns("deny"),
            networks("addresses"),
            networks("internal"),
            tuple(map(Reachable.parse, value.get("reachable") or ())),
            tuple(apis),
            patterns("seen"),
        )

    def must_see(self, host: str, port: int) -> bool:
        """Whether a connection has to be looked into: to decide, to answer, or to add something."""
        at_api = any(api.is_at(host) for api in self.apis)
        at_secret = any(pattern.fits(host, port) for pattern in self.seen)
        return at_api or at_secret or not self.decide_host(host, port).allowed

    def decide_host(self, host: str, port: int) -> Decision:
        """About a host as such, by its normalized name or address."""
        denied = self.denied(host, port)
        if denied:
            return denied
        if port in DNS_PORTS:
            return Decision(False, "no name servers but the gateway", rule=f"dns at port {port}")
        for pattern in (*self.allow, *self.seen):
            if pattern.fits(host, port):
                return Decision(True, f"allow {pattern}", rule=str(pattern))
        if any(pattern.fits(host, port) for pattern in DNS_OVER_HTTPS):
            return Decision(False, "no name servers but the gateway", rule="dns over https")
        if hosts.is_address(host):
            return self.decide_address(host)
        how = "needs approval" if self.unknown == "ask" else "is unknown"
        return Decision(self.unknown == "allow", f"{host} {how}", rule=f"unknown: {self.unknown}")

    def denied(self, host: str, port: int) -> Decision | None:
        """If the list of denied names has the host: without a port, at any."""
        for pattern in self.deny:
            is_meant = pattern.fits(host, pattern.port or hosts.WEB_PORTS[0])
            if is_meant and pattern.port in (None, port):
                return Decision(False, f"deny {pattern}", rule=str(pattern))
        return None

    def decide_address(self, address: str) -> Decision:
        """About what has no name."""
        parsed = hosts.unmapped(ipaddress.ip_address(address))
        for net in self.addresses:
            if parsed.version == net.version and parsed in net:
                return Decision(True, f"allow {net}", rule=str(net))
        return Decision(
            False, f"the address {address} has no name that is allowed", rule="addresses"
        )

    def names(self) -> dict[str, Any]:
        """Which names may be asked for: those of which anything may be reached."""
        allowed = (*self.allow, *self.seen, *(api.pattern for api in self.apis))
        denied = [*(pattern for pattern in self.deny if pattern.port is None), *DNS_OVER_HTTPS]
        return {
            "unknown": self.unknown == "allow",
            "allow": [pattern.hosts() for pattern in allowed],
            "deny": [pattern.hosts() for pattern in denied if pattern not in allowed],
        }

    def refuses(self, address: str, host: str, port: int) -> str | None:
        """Why the proxy may not connect to an address that a host's name leads to, if it may not.

        An address of the host's own has to be named by itself: a network that has it is not enough.
        """
        parsed = hosts.unmapped(ipaddress.ip_address(address))
        if any(one.covers(host, port, parsed) for one in self.reachable):
            return None
        nets = [net for net in self.internal if parsed.version == net.version and parsed in net]
        if any(net.num_addresses == 1 for net in nets):
            return None
        if not route.leads_away(parsed):
            return f"{host} is an address of the runner's own host or of its VMs"
        return None if nets or hosts.is_public(address) else f"{host} is not on the public internet"

    def decide(
        self, method: str, scheme: str, host: str, port: int, path: str, headers: Any = ()
    ) -> Decision:
        """About a request; `host` is normalized, `headers` has lower-case names."""
        here = [api for api in self.apis if api.is_at(host)]
        denied = self.denied(host, port)
        if denied or not here:
            return denied or self.decide_host(host, port)
        api = here[0]
        at_port = [one for one in here if (one.scheme, one.pattern.port) == (scheme, port)]
        if not at_port:
            reason = f"{api.firewall}: not {api.scheme} at port {api.pattern.port}"
            return Decision(False, reason, api, rule="base")
        if any(name in headers for name in OVERRIDES):
            return Decision(False, "a header names another method", api, rule="method override")
        try:
            segments = paths.split(path)
        except paths.BadPath as error:
            return Decision(False, f"the path {error}", api, rule="path")
        covering = [(one, rest) for one in at_port if (rest := one.below(segments)) is not None]
        if not covering:
            return Decision(False, f"{api.firewall}: not below {api.base}", api, rule="base")
        # The longest base is the nearest; where there are several, the strictest holds.
        longest = max(len(one.prefix) for one, _ in covering)
        nearest = [(one, rest) for one, rest in covering if len(one.prefix) == longest]
        decisions = [one.decide(method, rest) for one, rest in nearest]
        return min(decisions, key=lambda decision: decision.allowed)
