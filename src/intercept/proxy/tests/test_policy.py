"""Decisions about hosts and requests."""

import pytest

from egress.policy import Policy

GITHUB = {
    "name": "github",
    "policy": {
        "allow": ["read"],
        "deny": ["delete"],
        "ask": ["write"],
        "unknownPolicy": "deny",
    },
    "apis": [
        {
            "base": "https://api.github.com",
            "hasCredential": True,
            "permissions": [
                {"name": "read", "rules": ["GET /repos/{owner}/{repo}", "GET /raw/{path+}"]},
                {"name": "write", "rules": ["POST /repos/{owner}/{repo}/issues"]},
                {"name": "delete", "rules": ["DELETE /{all*}"]},
            ],
        }
    ],
}
POLICY = Policy.parse({"unknown": "allow", "deny": ["*.evil.com"], "firewalls": [GITHUB]})


def decide(method, path, host="api.github.com", scheme="https", port=443, headers=()):
    return POLICY.decide(method, scheme, host, port, path, headers)


def test_an_allowed_permission_allows_the_requests_of_its_rules():
    decision = decide("GET", "/repos/a/b?x=/../y")
    assert decision.allowed
    assert (decision.permission, decision.rule) == ("read", "GET /repos/{owner}/{repo}")


@pytest.mark.parametrize(
    ("method", "path", "says"),
    [
        ("DELETE", "/repos/a/b", "permission delete (DELETE /{all*}) is denied"),
        ("POST", "/repos/a/b/issues", "permission write (POST /repos/{owner}/{repo}/issues) needs"),
        ("GET", "/user", "what no permission covers is denied"),
        ("get", "/repos/a/b", "no permission covers"),
        ("GET", "/raw/", "no permission covers"),
        ("GET", "/repos/a/b/", "no permission covers"),
        ("GET", "/repos/a%2Fb/c", "no permission covers"),
    ],
)
def test_a_rejection_names_the_rule(method, path, says):
    decision = decide(method, path)
    assert not decision.allowed
    assert says in decision.reason


@pytest.mark.parametrize(
    "path",
    [
        "/raw/../user",
        "/raw/%2e%2e/user",
        "/raw/%252e%252e/user",
        "/raw/%25252525252e%2e/user",
        "/raw/..;x=1/user",
        "/raw/%2e./user",
        "/raw/x\\..\\user",
        "/raw//user",
        "/raw/a%00b",
        "/raw/a%0d%0ab",
        "/raw/%ff",
        "/raw/\uff0e\uff0e/user",
        "/raw/./x",
        "/raw/x#/../../user",
        "raw/x",
        "*",
    ],
)
def test_an_ambiguous_path_is_rejected(path):
    decision = decide("GET", path)
    assert not decision.allowed
    assert decision.rule == "path"


def test_an_encoded_path_is_decoded():
    assert decide("GET", "/%72epos/a/%62").permission == "read"
    assert decide("GET", "/raw/a%2520b/c").allowed


def test_a_method_override_header_is_rejected():
    assert not decide("GET", "/repos/a/b", headers={"x-http-method-override"}).allowed


def test_requests_outside_of_an_apis_base_are_rejected():
    assert not decide("GET", "/repos/a/b", scheme="http", port=80).allowed
    assert not decide("GET", "/repos/a/b", port=8443).allowed
    assert decide("GET", "/", host="www.github.com").allowed


def test_the_strictest_of_several_permissions_applies():
    both = {**GITHUB, "policy": {"allow": ["read"], "deny": ["also"]}}
    both["apis"] = [
        {
            "base": "https://x.org/v1",
            "permissions": [
                {"name": "read", "rules": ["GET /a"]},
                {"name": "also", "rules": ["ANY /{p+}"]},
            ],
        }
    ]
    policy = Policy.parse({"firewalls": [both]})
    assert not policy.decide("GET", "https", "x.org", 443, "/v1/a").allowed
    assert not policy.decide("GET", "https", "x.org", 443, "/v2/a").allowed


def test_an_unlisted_permission_gets_the_unknown_policy():
    given = {"allow": ["read"], "unknownPolicy": "ask"}
    policy = Policy.parse({"firewalls": [{**GITHUB, "policy": given}]})
    decision = policy.decide("DELETE", "https", "api.github.com", 443, "/repos/a/b")
    assert "permission delete (DELETE /{all*}) needs approval" in decision.reason
    assert policy.decide("GET", "https", "api.github.com", 443, "/repos/a/b").allowed


def test_a_firewall_without_a_policy_allows_everything():
    policy = Policy.parse({"firewalls": [{**GITHUB, "policy": None}]})
    assert policy.decide("DELETE", "https", "api.github.com", 443, "/x").allowed
    assert not policy.decide("GET", "https", "example.com", 443, "/").allowed


def test_a_denied_name_is_denied_at_every_port_and_takes_precedence():
    assert not POLICY.decide_host("a.evil.com", 443).allowed
    assert not POLICY.decide_host("a.evil.com", 9999).allowed
    assert POLICY.decide_host("evil.com", 443).allowed
    policy = Policy.parse({"deny": ["api.github.com"], "firewalls": [GITHUB]})
    assert not policy.decide("GET", "https", "api.github.com", 443, "/repos/a/b").allowed


def test_an_empty_policy_allows_nothing():
    policy = Policy.parse({})
    assert not policy.decide_host("example.com", 443).allowed
    assert not policy.decide_host("9.9.9.9", 443).allowed
    assert not policy.resolvable_names()["unknown"]


def test_a_name_is_allowed_at_its_own_port_or_at_80_and_443():
    policy = Policy.parse({"allow": ["a.org", "*.b.org", "c.org:8443"]})
    assert policy.decide_host("a.org", 443).allowed
    assert not policy.decide_host("a.org", 22).allowed
    assert not policy.decide_host("x.a.org", 443).allowed
    assert policy.decide_host("x.b.org", 80).allowed
    assert not policy.decide_host("b.org", 443).allowed
    assert not policy.decide_host("xb.org", 443).allowed
    assert policy.decide_host("c.org", 8443).allowed
    assert not policy.decide_host("c.org", 443).allowed
    assert policy.resolvable_names()["allow"] == ["a.org", "*.b.org", "c.org"]


def test_an_address_is_allowed_only_by_the_list_of_addresses():
    policy = Policy.parse({"unknown": "allow", "addresses": ["100.0.0.0/24"]})
    assert policy.decide_host("100.0.0.2", 22).allowed
    assert not policy.decide_host("9.9.9.9", 443).allowed
    assert not policy.decide_host("::1", 443).allowed


def test_other_dns_servers_are_rejected_unless_named():
    assert not POLICY.decide_host("dns.google", 443).allowed
    assert not POLICY.decide_host("example.com", 853).allowed
    assert not POLICY.decide_host("example.com", 53).allowed
    assert "dns.google" in POLICY.resolvable_names()["deny"]
    assert Policy.parse({"allow": ["dns.google"]}).decide_host("dns.google", 443).allowed


def test_a_rejection_for_lack_of_approval_says_so():
    decision = Policy.parse({"unknown": "ask"}).decide_host("example.com", 443)
    assert not decision.allowed
    assert "needs approval" in decision.reason


def test_tls_is_decrypted_only_if_necessary():
    assert POLICY.must_decrypt("api.github.com", 443)
    assert POLICY.must_decrypt("a.evil.com", 443)
    assert not POLICY.must_decrypt("example.com", 443)


@pytest.mark.parametrize("base", ["ftp://x.org", "x.org", "https://", "https://127.1"])
def test_a_malformed_base_is_rejected(base):
    with pytest.raises(ValueError):
        Policy.parse({"firewalls": [{"name": "x", "apis": [{"base": base}]}]})


@pytest.mark.parametrize("rule", ["FETCH /a", "GET a", "GET", "GET /{a+}/b", "/a"])
def test_a_malformed_rule_is_rejected(rule):
    api = {"base": "https://x.org", "permissions": [{"name": "x", "rules": [rule]}]}
    with pytest.raises(ValueError):
        Policy.parse({"firewalls": [{"name": "x", "apis": [api]}]})
