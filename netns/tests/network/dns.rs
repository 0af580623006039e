//! DNS queries are forwarded to the host's DNS servers.

use std::fs;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::time::Duration;

use netns::guest::GATEWAY;
use netns::testing::{Guest, INTERNET};
use sandbox::Policy;

use crate::fixture::{Fixture, connect, lease_with, network};

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
