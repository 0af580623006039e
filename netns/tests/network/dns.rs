//! DNS queries are forwarded to the host's DNS servers.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use netns::guest::GATEWAY;
use netns::testing::{Guest, HOST, INTERNET, PRIVATE};
use sandbox::{Destinations, Policy};

use crate::fixture::{Fixture, connect, is_forbidden, lease_with, network};

const QUESTION: [u8; 17] = [7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1];

fn answer(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer.push(42);
    answer
}

/// Sends a query from a guest; returns the response.
fn ask(guest: &Guest) -> Vec<u8> {
    guest.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.connect((GATEWAY, 53)).unwrap();
        socket.send(&QUESTION).unwrap();
        let mut buffer = [0; 512];
        let count = socket.recv(&mut buffer).unwrap();
        buffer[..count].to_vec()
    })
}

#[test]
#[ignore = "needs root"]
fn the_second_server_is_asked_if_the_first_does_not_respond() {
    let fixture = Fixture::new();
    let servers = format!("nameserver 100.0.0.9\nnameserver {INTERNET}\n");
    fs::write(fixture.folder.path().join("resolv.conf"), servers).unwrap();
    let pool = fixture.pool(1);
    let lease = lease_with(&pool, Policy::open());
    let guest = Guest::behind(&lease);
    let server = fixture.world.on_the_internet(|| UdpSocket::bind((INTERNET, 53)).unwrap());

    let received = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 512];
            let (count, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(&answer(&buffer[..count]), from).unwrap();
        });
        ask(&guest)
    });

    assert_eq!(received, answer(&QUESTION));
}

#[test]
#[ignore = "needs root"]
fn without_a_server_the_response_is_servfail() {
    let fixture = Fixture::new();
    fs::write(fixture.folder.path().join("resolv.conf"), "# none\n").unwrap();
    let pool = fixture.pool(1);
    let lease = lease_with(&pool, Policy::open());

    let received = ask(&Guest::behind(&lease));

    assert_eq!(received[..4], [7, 9, 0x81, 2]);
}

#[test]
#[ignore = "needs root"]
fn a_long_response_passes_by_tcp() {
    let fixture = Fixture::new();
    fs::write(fixture.folder.path().join("resolv.conf"), format!("nameserver {INTERNET}\n"))
        .unwrap();
    let pool = fixture.pool(1);
    let lease = lease_with(&pool, Policy::open());
    let (guest, server) = (Guest::behind(&lease), fixture.server(INTERNET, 53));

    let mut client = guest.run(|| connect(GATEWAY, 53)).unwrap();

    let (mut peer, _) = server.accept().unwrap();
    client.write_all(&QUESTION).unwrap();
    let mut asked = [0; QUESTION.len()];
    peer.read_exact(&mut asked).unwrap();
    assert_eq!(asked, QUESTION);
    peer.write_all(&[1; 100_000]).unwrap();
    drop(peer);
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert_eq!(received, [1; 100_000]);
}

#[test]
#[ignore = "needs root"]
fn the_policy_enables_and_disables_dns() {
    let fixture = Fixture::new();
    fs::write(fixture.folder.path().join("resolv.conf"), "").unwrap();
    let pool = fixture.pool(1);
    let mut lease = lease_with(&pool, Policy::none());
    let guest = Guest::behind(&lease);
    let before = guest.run(|| connect(GATEWAY, 53)).is_ok();

    lease.apply(&network(Policy::open())).unwrap();

    assert!(!before);
    assert_eq!(ask(&guest)[3], 2);
}

/// A query for the address of a name of two labels.
fn query(name: &str) -> Vec<u8> {
    let (first, second) = name.split_once('.').unwrap();
    let mut query = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [first, second] {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// Answers all queries with one address, until a message is empty.
fn answer_until_empty(server: &UdpSocket, address: Ipv4Addr) {
    let mut buffer = [0; 512];
    loop {
        let (count, from) = server.recv_from(&mut buffer).unwrap();
        if count == 0 {
            return;
        }
        let mut response = buffer[..count].to_vec();
        (response[2], response[3], response[7]) = (0x81, 0x80, 1);
        response.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        response.extend(address.octets());
        server.send_to(&response, from).unwrap();
    }
}

/// Resolves a name in a guest, by a server that knows one address; returns the response code.
fn resolve(guest: &Guest, server: &UdpSocket, name: &str, address: Ipv4Addr) -> u8 {
    let query = query(name);
    std::thread::scope(|scope| {
        let client = guest.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client.connect((GATEWAY, 53)).unwrap();
        scope.spawn(|| answer_until_empty(server, address));
        client.send(&query).unwrap();
        let mut buffer = [0; 512];
        let count = client.recv(&mut buffer).unwrap();
        let end = UdpSocket::bind((HOST, 0)).unwrap();
        end.send_to(b"", server.local_addr().unwrap()).unwrap();
        assert_eq!(buffer[..2], query[..2]);
        assert!(count >= query.len());
        buffer[3] & 0xf
    })
}

/// The policy that reaches these hosts on the public internet.
fn to_hosts(names: &[&str]) -> Policy {
    let hosts = names.iter().map(|name| (*name).to_owned()).collect();
    let only = Some(Destinations { hosts, ..Destinations::default() });
    Policy { only, ..Policy::open() }
}

#[test]
#[ignore = "needs root"]
fn hosts_of_a_policy_are_reached_once_they_are_resolved_if_its_rules_allow_it() {
    let fixture = Fixture::new();
    fs::write(fixture.folder.path().join("resolv.conf"), format!("nameserver {INTERNET}\n"))
        .unwrap();
    let pool = fixture.pool(1);
    let mut lease = lease_with(&pool, to_hosts(&["a.example", "b.example"]));
    let guest = Guest::behind(&lease);
    let server = fixture.world.on_the_internet(|| UdpSocket::bind((INTERNET, 53)).unwrap());
    let _servers = [INTERNET, PRIVATE].map(|address| fixture.server(address, 80));
    let reach = |address| guest.run(|| connect(address, 80));

    assert!(is_forbidden(&reach(INTERNET)));
    assert_eq!(resolve(&guest, &server, "c.example", INTERNET), 5);
    assert!(is_forbidden(&reach(INTERNET)));
    assert_eq!(resolve(&guest, &server, "b.example", PRIVATE), 0);
    assert!(is_forbidden(&reach(PRIVATE)), "the rules hold for hosts");
    assert_eq!(resolve(&guest, &server, "A.example", INTERNET), 0);
    assert!(reach(INTERNET).is_ok());
    // The next policy does not know the addresses.
    lease.apply(&network(to_hosts(&["a.example"]))).unwrap();
    assert!(is_forbidden(&reach(INTERNET)));
    assert_eq!(resolve(&guest, &server, "a.example", INTERNET), 0);
    assert!(reach(INTERNET).is_ok());
    // Nor does the same one, when it is applied again.
    lease.apply(&network(to_hosts(&["a.example"]))).unwrap();
    assert!(is_forbidden(&reach(INTERNET)));
    let link = lease.link().unwrap();
    drop(guest);
    drop(lease);

    let next = lease_with(&pool, Policy::open());

    assert_eq!(next.link().unwrap(), link, "the network was not changed by others");
}

#[test]
#[ignore = "needs root"]
fn networks_are_reached_beside_hosts() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let nets = vec![format!("{INTERNET}/32").parse().unwrap()];
    let only = Some(Destinations { nets, hosts: vec!["a.example".to_owned()] });
    let lease = lease_with(&pool, Policy { only, ..Policy::open() });
    let (guest, _server) = (Guest::behind(&lease), fixture.server(INTERNET, 80));

    assert!(guest.run(|| connect(INTERNET, 80)).is_ok());
    assert!(is_forbidden(&guest.run(|| connect("1.1.1.1".parse::<Ipv4Addr>().unwrap(), 80))));
}
