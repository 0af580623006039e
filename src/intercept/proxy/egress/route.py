"""Where the kernel would send a packet: to this host itself, to a VM, or elsewhere.

The kernel is asked each time (RTM_GETROUTE of rtnetlink), so an address counts as the host's
own from the moment that the host has it.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct

# What the links to VMs are named.
VM_LINK = "sr-"

HEADER = struct.Struct("=IHHII")
ROUTE = struct.Struct("=BBBBBBBBI")
ATTRIBUTE = struct.Struct("=HH")
NLMSG_ERROR = 2
RTM_NEWROUTE = 24
RTM_GETROUTE = 26
NLM_F_REQUEST = 1
RTA_DST = 1
RTA_OIF = 4
RTN_UNICAST = 1
# How long an answer may take, in seconds: the kernel gives it before the question's call returns.
PATIENCE = 1.0
# What the kernel says where it knows no way, so that a connection fails as well.
NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)


def leads_away(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is neither one of this host's own, nor a VM's, nor a group of hosts."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asked:
        asked.settimeout(PATIENCE)
        asked.send(question(address))
        return read(asked.recv(1 << 16))


def question(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    route = ROUTE.pack(family, 8 * len(address.packed), 0, 0, 0, 0, 0, 0, 0)
    target = ATTRIBUTE.pack(ATTRIBUTE.size + len(address.packed), RTA_DST) + address.packed
    length = HEADER.size + len(route) + len(target)
    return HEADER.pack(length, RTM_GETROUTE, NLM_F_REQUEST, 1, 0) + route + target


def read(answer: bytes) -> bool:
    length, kind, *_ = HEADER.unpack_from(answer)
    if kind == NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, HEADER.size)
        if -code in NO_ROUTE:
            return True
        raise OSError(-code, "the kernel does not say where an address leads")
    if kind != RTM_NEWROUTE:
        raise OSError(errno.EPROTO, "the kernel's answer about a route is not understood")
    (*_, route_type, _flags) = ROUTE.unpack_from(answer, HEADER.size)
    if route_type != RTN_UNICAST:
        return False
    rest = answer[HEADER.size + ROUTE.size : length]
    while len(rest) >= ATTRIBUTE.size:
        size, kind = ATTRIBUTE.unpack_from(rest)
        if kind == RTA_OIF:
            (index,) = struct.unpack_from("=I", rest, ATTRIBUTE.size)
            return not socket.if_indextoname(index).startswith(VM_LINK)
        rest = rest[(size + 3) // 4 * 4 :] if size else b""
    return True


def is_filtered(port: int) -> bool:
    """Whether the kernel keeps this process from the host's own addresses: from a port where
    something listens."""
    with socket.socket() as probe:
        probe.settimeout(PATIENCE)
        try:
            probe.connect(("127.0.0.1", port))
        except OSError:
            return True
    return False
