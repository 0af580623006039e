"""Decides about hosts and requests. All decisions are made here.

For the host of a firewall's API only the API decides: requests outside of its base are rejected.
For other hosts the lists of names decide, then `unknown`. Connections without a name are decided
by address. An error never allows anything.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from egress import host as hosts
from egress import path as paths
from egress import route

# DNS over TCP, TLS and HTTPS would bypass the DNS forwarder, which knows the policy.
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
    """The decision about a request or a connection, and its reason."""

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
    """The permissions that are granted for a firewall, by name."""

    allow: frozenset[str]
    deny: frozenset[str]
    ask: frozenset[str]
    unknown: str

    @classmethod
    def parse(cls, value: dict[str, Any]) -> Grants:
        lists = (frozenset(value.get(name) or ()) for name in ("allow", "deny", "ask"))
        return cls(*lists, value.get("unknownPolicy") or "deny")

    def verdict(self, permission: str) -> str | None:
        """`None` if no list has the permission."""
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
            raise ValueError(f"`{value['base']}` is not the base of an API")
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
        return self.pattern.port is not None and self.pattern.matches(host, self.pattern.port)

    def below(self, segments: tuple[str, ...]) -> tuple[str, ...] | None:
        """The rest of a path that begins with the base's."""
        count = len(self.prefix)
        if segments[:count] != self.prefix:
            return None
        return segments[count:] or ("",)

    def decide(self, method: str, segments: tuple[str, ...]) -> Decision:
        found = [(name, rule) for name, rule in self.rules if rule.matches(method, segments)]
        if self.grants is None:
            name, rule = found[0] if found else (None, None)
            text = rule.text if rule else None
            return Decision(True, f"{self.firewall} is open", self, name, text)
        # If several permissions cover a request, the strictest verdict applies.
        verdicts = [(self.grants.verdict(name), name, rule.text) for name, rule in found]
        verdicts = [one for one in verdicts if one[0] is not None] or [
            (self.grants.unknown, name, rule.text) for name, rule in found[:1]
        ]
        order = {"deny": 0, "ask": 1, "allow": 2}
        unknown = (self.grants.unknown, None, None)
        verdict, name, text = min(verdicts, key=lambda of: order.get(of[0], 0), default=unknown)
        what = f"permission {name} ({text})" if name else "what no permission covers"
        if verdict == "allow":
            return Decision(True, f"{self.firewall}: {what}", self, name, text)
        how = "needs approval" if verdict == "ask" else "is denied"
        return Decision(False, f"{self.firewall}: {what} {how}", self, name, text)


@dataclass(frozen=True)
class Reachable:
    """A private socket, or a socket of the host, that may be reached by its name."""

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
    """The policy of one VM."""

    unknown: str = "deny"
    allow: tuple[hosts.Pattern, ...] = ()
    deny: tuple[hosts.Pattern, ...] = ()
    addresses: tuple[Any, ...] = ()
    internal: tuple[Any, ...] = ()
    reachable: tuple[Reachable, ...] = ()
    apis: tuple[Api, ...] = ()
    secret_hosts: tuple[hosts.Pattern, ...] = field(default=())

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
            patterns("secret_hosts"),
        )

    def must_decrypt(self, host: str, port: int) -> bool:
        """Whether TLS has to be decrypted: to decide about requests, reject, or add secrets."""
        at_api = any(api.is_at(host) for api in self.apis)
        has_secret = any(pattern.matches(host, port) for pattern in self.secret_hosts)
        return at_api or has_secret or not self.decide_host(host, port).allowed

    def decide_host(self, host: str, port: int) -> Decision:
        """Decides about a host by its canonical name or address."""
        denied = self.denied(host, port)
        if denied:
            return denied
        if port in DNS_PORTS:
            return Decision(False, "no DNS servers but the gateway", rule=f"dns at port {port}")
        for pattern in (*self.allow, *self.secret_hosts):
            if pattern.matches(host, port):
                return Decision(True, f"allow {pattern}", rule=str(pattern))
        if any(pattern.matches(host, port) for pattern in DNS_OVER_HTTPS):
            return Decision(False, "no DNS servers but the gateway", rule="dns over https")
        if hosts.is_address(host):
            return self.decide_address(host)
        how = "needs approval" if self.unknown == "ask" else "is unknown"
        return Decision(self.unknown == "allow", f"{host} {how}", rule=f"unknown: {self.unknown}")

    def denied(self, host: str, port: int) -> Decision | None:
        """A denial by the list of denied names. A name without a port is denied at every port."""
        for pattern in self.deny:
            is_meant = pattern.matches(host, pattern.port or hosts.WEB_PORTS[0])
            if is_meant and pattern.port in (None, port):
                return Decision(False, f"deny {pattern}", rule=str(pattern))
        return None

    def decide_address(self, address: str) -> Decision:
        """Decides about a connection without a name."""
        parsed = hosts.unmapped(ipaddress.ip_address(address))
        for net in self.addresses:
            if parsed.version == net.version and parsed in net:
                return Decision(True, f"allow {net}", rule=str(net))
        return Decision(
            False, f"the address {address} has no name that is allowed", rule="addresses"
        )

    def resolvable_names(self) -> dict[str, Any]:
        """Which names may be resolved: those of hosts that may be reached."""
        allowed = (*self.allow, *self.secret_hosts, *(api.pattern for api in self.apis))
        denied = [*(pattern for pattern in self.deny if pattern.port is None), *DNS_OVER_HTTPS]
        return {
            "unknown": self.unknown == "allow",
            "allow": [pattern.hosts() for pattern in allowed],
            "deny": [pattern.hosts() for pattern in denied if pattern not in allowed],
        }

    def rejects(self, address: str, host: str, port: int) -> str | None:
        """Why the proxy must not connect to an address of a host; `None` if it may.

        An address of the runner's host is allowed only by a network of this one address.
        """
        parsed = hosts.unmapped(ipaddress.ip_address(address))
        if any(one.covers(host, port, parsed) for one in self.reachable):
            return None
        nets = [net for net in self.internal if parsed.version == net.version and parsed in net]
        if any(net.num_addresses == 1 for net in nets):
            return None
        if not route.is_external(parsed):
            return f"{host} is an address of the runner's own host or of its VMs"
        return None if nets or hosts.is_public(address) else f"{host} is not on the public internet"

    def decide(
        self, method: str, scheme: str, host: str, port: int, path: str, headers: Any = ()
    ) -> Decision:
        """Decides about a request; `host` is canonical, `headers` has lower-case names."""
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
        # The longest base applies; if there are several, the strictest decision.
        longest = max(len(one.prefix) for one, _ in covering)
        nearest = [(one, rest) for one, rest in covering if len(one.prefix) == longest]
        decisions = [one.decide(method, rest) for one, rest in nearest]
        return min(decisions, key=lambda decision: decision.allowed)
