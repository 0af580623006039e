"""Host names, addresses, and patterns for them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")
NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)\Z")
WEB_PORTS = (80, 443)
# The addresses of IPv6 that are allocated.
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")


class BadHost(ValueError):
    """A text that is not a host, or that programs could interpret in different ways."""


def normalize(text: str) -> str:
    """The canonical form of a host: a name in lower case, or an address."""
    name = text.strip().lower()
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    if name.endswith("."):
        name = name[:-1]
    try:
        return str(unmapped(ipaddress.ip_address(name)))
    except ValueError:
        pass
    labels = name.split(".")
    # Some programs accept 0x7f.1 or 2130706433 as an address.
    if len(name) > 253 or NUMBER.match(labels[-1]) or not all(map(LABEL.match, labels)):
        raise BadHost(text)
    return name


def unmapped(address):
    """The IPv4 address of an IPv4-mapped IPv6 address."""
    return getattr(address, "ipv4_mapped", None) or address


def is_address(host: str) -> bool:
    """Whether a canonical host is an address."""
    return ":" in host or NUMBER.match(host.rpartition(".")[2]) is not None


def is_public(address: str) -> bool:
    """Whether an address is on the public internet."""
    parsed = unmapped(ipaddress.ip_address(address))
    # Other IPv6 addresses that embed an IPv4 address are not global unicast.
    if parsed.version == 6 and parsed not in GLOBAL_UNICAST:
        return False
    if getattr(parsed, "sixtofour", None) or getattr(parsed, "teredo", None):
        return False
    # 168.63.129.16 is Azure's metadata service.
    return parsed.is_global and not parsed.is_multicast and str(parsed) != "168.63.129.16"


@dataclass(frozen=True)
class Pattern:
    """`example.com`, or `*.example.com` for subdomains; with a port, or for ports 80 and 443."""

    name: str
    below: bool
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Pattern:
        name, port = text, None
        if text.count(":") == 1:
            name, _, digits = text.partition(":")
            port = int(digits)
        below = name.startswith(("*.", "."))
        return cls(normalize(name.lstrip("*").lstrip(".")), below, port)

    def matches(self, host: str, port: int) -> bool:
        """Whether the pattern matches a canonical host at this port."""
        if self.port != port and (self.port is not None or port not in WEB_PORTS):
            return False
        return host.endswith("." + self.name) if self.below else host == self.name

    def hosts(self) -> str:
        """The pattern without its port."""
        return ("*." if self.below else "") + self.name

    def __str__(self) -> str:
        return self.hosts() + (f":{self.port}" if self.port else "")
