"""Names of hosts, addresses, and patterns that they fit."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")
NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)\Z")
WEB_PORTS = (80, 443)
# All that is given out of IPv6.
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")


class BadHost(ValueError):
    """A text that names no host, or might name one to some and another to others."""


def normalize(text: str) -> str:
    """A host as it is compared: a name in lower case, or an address in its usual form."""
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
    # Some take 0x7f.1 or 2130706433 for an address.
    if len(name) > 253 or NUMBER.match(labels[-1]) or not all(map(LABEL.match, labels)):
        raise BadHost(text)
    return name


def unmapped(address):
    """An address of IPv4 that is written as one of IPv6, as what it is."""
    return getattr(address, "ipv4_mapped", None) or address


def is_address(host: str) -> bool:
    """Whether a normalized host is an address."""
    return ":" in host or NUMBER.match(host.rpartition(".")[2]) is not None


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet."""
    parsed = unmapped(ipaddress.ip_address(address))
    # IPv6 has other ways to write an address of IPv4; none of them is global unicast.
    if parsed.version == 6 and parsed not in GLOBAL_UNICAST:
        return False
    if getattr(parsed, "sixtofour", None) or getattr(parsed, "teredo", None):
        return False
    # Where one cloud tells its secrets though it be public by its number.
    return parsed.is_global and not parsed.is_multicast and str(parsed) != "168.63.129.16"


@dataclass(frozen=True)
class Pattern:
    """`example.com`, `*.example.com` for all below it; with a port, or for those of the web."""

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

    def fits(self, host: str, port: int) -> bool:
        """Whether a normalized host is meant, at this port."""
        if self.port != port and (self.port is not None or port not in WEB_PORTS):
            return False
        return host.endswith("." + self.name) if self.below else host == self.name

    def hosts(self) -> str:
        """Without the port."""
        return ("*." if self.below else "") + self.name

    def __str__(self) -> str:
        return self.hosts() + (f":{self.port}" if self.port else "")
