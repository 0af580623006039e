"""Host names and addresses."""

import pytest

from egress import host


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Example.COM.", "example.com"),
        ("[::1]", "::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("1.2.3.4", "1.2.3.4"),
        ("_dmarc.a-b.org", "_dmarc.a-b.org"),
    ],
)
def test_a_host_has_a_canonical_form(text, name):
    assert host.normalize(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a..b",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0x7f000001",
        "1.2.3.4.5",
        "a b",
        "-a.org",
        "a.org\r\nb",
        "\u0430.org",
        "a/b",
        "a@b",
        "a:b",
        "x" * 64 + ".org",
        "a." * 130 + "org",
    ],
)
def test_an_ambiguous_host_is_rejected(text):
    with pytest.raises(host.BadHost):
        host.normalize(text)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "100.64.0.1",
        "192.168.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "168.63.129.16",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_special_addresses_are_not_public(address):
    assert not host.is_public(address)


def test_addresses_of_the_internet_are_public():
    assert host.is_public("9.9.9.9")
    assert host.is_public("2620:fe::fe")


@pytest.mark.parametrize(
    "address",
    [
        "::7f00:1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
        "fec0::1",
        "fd00::1",
        "fe80::1",
    ],
)
def test_an_ipv6_address_that_embeds_another_is_not_public(address):
    assert not host.is_public(address)
