//! Policies: which destinations a guest reaches.

use netns::testing::{Guest, HOST, INTERNET, METADATA, PRIVATE};
use sandbox::{Limits, Network, Policy, Rule};

use crate::fixture::{
    Fixture, allow, connect, deny, is_forbidden, lease, lease_with, network, only, passes, tcp,
};

#[test]
#[ignore = "needs root"]
fn private_networks_metadata_and_the_host_are_out_of_reach() {
    let fixture = Fixture::new();
    let pool = fixture.pool(2);
    let lease = lease_with(&pool, Policy::open());
    let other = lease_with(&pool, Policy::open());
    let guest = Guest::behind(&lease);
    let _servers = [PRIVATE, METADATA, INTERNET].map(|address| fixture.server(address, 80));
    let _host = std::net::TcpListener::bind((HOST, 80)).unwrap();
    let neighbour = other.address().unwrap();

    for address in [PRIVATE, METADATA, HOST, neighbour, [127, 0, 0, 2].into()] {
        let result = guest.run(|| connect(address, 80));
        assert!(result.is_err(), "{address}");
    }
    for address in [PRIVATE, METADATA, HOST, neighbour] {
        let result = guest.run(|| connect(address, 80));
        assert!(is_forbidden(&result), "{address}: {result:?}");
    }
    assert!(guest.run(|| connect(INTERNET, 80)).is_ok());
}

#[test]
#[ignore = "needs root"]
fn a_guest_without_permission_reaches_nothing_and_is_rejected_at_once() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let mut lease = lease_with(&pool, Policy::none());
    let (guest, _server) = (Guest::behind(&lease), fixture.server(INTERNET, 80));

    let result = guest.run(|| connect(INTERNET, 80));
    let names = guest.run(|| connect(netns::guest::GATEWAY, 53));

    assert!(is_forbidden(&result), "{result:?}");
    assert!(is_forbidden(&names), "{names:?}");
    assert!(lease.counters().unwrap().refused.packets >= 2);
}

#[test]
#[ignore = "needs root"]
fn the_first_matching_rule_decides() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let rules =
        vec![tcp(deny("100.0.0.2/32"), 81), tcp(allow("100.0.0.0/24"), 80), allow("10.1.2.3/32")];
    let lease = lease_with(&pool, only(rules));
    let guest = Guest::behind(&lease);
    let _servers = [80, 81, 82].map(|port| fixture.server(INTERNET, port));
    let _private = fixture.server(PRIVATE, 82);

    assert!(guest.run(|| connect(INTERNET, 80)).is_ok());
    assert!(is_forbidden(&guest.run(|| connect(INTERNET, 81))));
    assert!(is_forbidden(&guest.run(|| connect(INTERNET, 82))));
    assert!(guest.run(|| connect(PRIVATE, 82)).is_ok());
    assert!(is_forbidden(&guest.run(|| connect(METADATA, 82))));
}

#[test]
#[ignore = "needs root"]
fn internal_networks_open_only_if_a_rule_names_them() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let lease = lease_with(&pool, only(vec![allow("0.0.0.0/0")]));
    let guest = Guest::behind(&lease);
    let _servers = [PRIVATE, METADATA, INTERNET].map(|address| fixture.server(address, 80));

    assert!(guest.run(|| connect(INTERNET, 80)).is_ok());
    assert!(is_forbidden(&guest.run(|| connect(METADATA, 80))));
    assert!(is_forbidden(&guest.run(|| connect(PRIVATE, 80))));
}

#[test]
#[ignore = "needs root"]
fn deny_rules_precede_an_open_default() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let policy = Policy { rules: vec![deny("100.0.0.0/8")], ..Policy::open() };
    let lease = lease_with(&pool, policy);
    let (guest, _server) = (Guest::behind(&lease), fixture.server(INTERNET, 80));

    assert!(is_forbidden(&guest.run(|| connect(INTERNET, 80))));
}

#[test]
#[ignore = "needs root"]
fn a_new_policy_applies_to_open_connections() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let mut lease = lease(&pool);
    let (guest, server) = (Guest::behind(&lease), fixture.server(INTERNET, 80));
    let client = guest.run(|| connect(INTERNET, 80)).unwrap();
    let (peer, _) = server.accept().unwrap();
    assert!(passes(&client, &peer));

    lease.apply(&network(only(vec![tcp(allow("100.0.0.2/32"), 80)]))).unwrap();
    assert!(passes(&client, &peer) && passes(&peer, &client));

    lease.apply(&network(Policy::none())).unwrap();
    peer.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    client.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    assert!(!passes(&client, &peer) && !passes(&peer, &client));

    lease.apply(&network(Policy::open())).unwrap();
    peer.set_read_timeout(None).unwrap();
    let mut received = [0; 5];
    std::io::Read::read_exact(&mut &peer, &mut received).unwrap();
    assert_eq!(&received, b"hello");
}

#[test]
#[ignore = "needs root"]
fn a_policy_may_have_thousands_of_rules() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    // Each becomes a rule for TCP and a rule for UDP.
    let rule = |port| Rule { ports: Some(port..=port), ..allow("100.0.0.2/32") };
    let lease = lease_with(&pool, only((1..=4096).map(rule).collect()));
    let guest = Guest::behind(&lease);
    let _servers = [4096, 4097].map(|port| fixture.server(INTERNET, port));

    assert!(guest.run(|| connect(INTERNET, 4096)).is_ok());
    assert!(is_forbidden(&guest.run(|| connect(INTERNET, 4097))));
}

#[test]
#[ignore = "needs root"]
fn a_new_policy_keeps_the_count_of_open_connections() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let mut lease = lease(&pool);
    let limits = Limits { connections: 4, ..Limits::default() };
    let network = |rules| Network { limits, policy: only(rules), ..Network::default() };
    lease.apply(&network(vec![allow("100.0.0.0/24")])).unwrap();
    let (guest, server) = (Guest::behind(&lease), fixture.server(INTERNET, 80));
    let open: Vec<_> = (0..4).map(|_| guest.run(|| connect(INTERNET, 80)).unwrap()).collect();
    let peers: Vec<_> = (0..4).map(|_| server.accept().unwrap().0).collect();

    lease.apply(&network(vec![allow("100.0.0.2/32")])).unwrap();

    assert!(open.iter().zip(&peers).all(|(client, peer)| passes(client, peer)));
    assert!(is_forbidden(&guest.run(|| connect(INTERNET, 80))));
}
