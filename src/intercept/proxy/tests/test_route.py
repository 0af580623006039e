"""Which addresses belong to the host or to VMs."""

import errno
import ipaddress
import socket
import struct

import pytest

from egress import policy, route


def answer(route_type, link=None):
    body = route.ROUTE.pack(socket.AF_INET, 32, 0, 0, 0, 0, 0, route_type, 0)
    if link is not None:
        index = socket.if_nametoindex(link)
        body += route.ATTRIBUTE.pack(8, route.RTA_OIF) + struct.pack("=I", index)
    header = route.HEADER.pack(route.HEADER.size + len(body), route.RTM_NEWROUTE, 0, 1, 0)
    return header + body


def error(code):
    return route.HEADER.pack(20, route.NLMSG_ERROR, 0, 1, 0) + struct.pack("=i", -code)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "224.0.0.1", "255.255.255.255"])
def test_loopback_multicast_and_broadcast_are_not_external(address):
    assert not route.is_external(ipaddress.ip_address(address))


def test_only_a_unicast_route_is_external():
    assert route.read(answer(route.RTN_UNICAST, "lo"))
    assert not route.read(answer(2))
    assert not route.read(answer(5))


def test_a_route_to_a_vm_is_not_external(monkeypatch):
    monkeypatch.setattr(socket, "if_indextoname", lambda _: "sr-0ac80004")
    assert not route.read(answer(route.RTN_UNICAST, "lo"))


def test_an_address_without_a_route_is_external_and_other_errors_are_raised():
    assert route.read(error(errno.ENETUNREACH))
    with pytest.raises(OSError):
        route.read(error(errno.ENOBUFS))


def test_an_address_of_the_host_is_rejected_unless_it_is_named_alone(monkeypatch):
    monkeypatch.setattr(route, "is_external", lambda _: False)
    own = "100.0.0.1"

    def refused(**value):
        return policy.Policy.parse(value).rejects(own, "a.org", 9100) is not None

    reachable = {"host": "a.org", "port": 9100, "addresses": [own]}
    assert refused()
    assert refused(internal=["100.0.0.0/24"])
    assert refused(addresses=[own])
    assert not refused(internal=[own])
    assert not refused(reachable=[reachable])
    assert refused(reachable=[{**reachable, "port": 9101}])
    assert refused(reachable=[{**reachable, "host": "b.org"}])
    assert refused(reachable=[{**reachable, "addresses": ["100.0.0.2"]}])
