"""Whether the kernel would route a packet to this host itself, to a VM, or elsewhere.

Each check asks the kernel (RTM_GETROUTE), so a new address of the host counts at once.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct

# The prefix of the names of links to VMs.
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
# A time-out in seconds, which only a failure exceeds: the kernel replies during `send`.
TIMEOUT = 1.0
# The errors for an address without a route, to which a connection fails as well.
NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)


def is_external(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether a unicast address belongs neither to this host nor to a VM."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as route_socket:
        route_socket.settimeout(TIMEOUT)
        route_socket.send(request(address))
        return read(route_socket.recv(1 << 16))


def request(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
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
        raise OSError(-code, "cannot get the route to an address")
    if kind != RTM_NEWROUTE:
        raise OSError(errno.EPROTO, "malformed reply to RTM_GETROUTE")
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
    """Whether the kernel's filter for proxies is in force. `port` has a listener."""
    with socket.socket() as probe:
        probe.settimeout(TIMEOUT)
        try:
            probe.connect(("127.0.0.1", port))
        except OSError:
            return True
    return False
