//! Names are resolved by the host's own name servers.

use std::fs;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::time::Duration;

use netns::guest::GATEWAY;
use netns::testing::{Guest, INTERNET};
use sandbox::Policy;

use crate::scene::{Scene, connect, lease_with, network};

const QUESTION: [u8; 17] = [7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1];

fn answer(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer.push(42);
    answer
}

/// Asks from a guest; the answer.
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
fn the_second_server_is_asked_where_the_first_is_silent() {
    let scene = Scene::new();
    let servers = format!("nameserver 100.0.0.9\nnameserver {INTERNET}\n");
    fs::write(scene.folder.path().join("resolv.conf"), servers).unwrap();
    let pool = scene.pool(1);
    let lease = lease_with(&pool, Policy::open());
    let guest = Guest::behind(&lease);
    let server = scene.world.on_the_internet(|| UdpSocket::bind((INTERNET, 53)).unwrap());

    let heard = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 512];
            let (count, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(&answer(&buffer[..count]), from).unwrap();
        });
        ask(&guest)
    });

    assert_eq!(heard, answer(&QUESTION));
}

#[test]
#[ignore = "needs root"]
fn without_a_server_the_guest_is_told_so() {
    let scene = Scene::new();
    fs::write(scene.folder.path().join("resolv.conf"), "# none\n").unwrap();
    let pool = scene.pool(1);
    let lease = lease_with(&pool, Policy::open());

    let heard = ask(&Guest::behind(&lease));

    assert_eq!(heard[..4], [7, 9, 0x81, 2]);
}

#[test]
#[ignore = "needs root"]
fn a_long_answer_comes_by_tcp() {
    let scene = Scene::new();
    fs::write(scene.folder.path().join("resolv.conf"), format!("nameserver {INTERNET}\n")).unwrap();
    let pool = scene.pool(1);
    let lease = lease_with(&pool, Policy::open());
    let (guest, server) = (Guest::behind(&lease), scene.server(INTERNET, 53));

    let mut client = guest.run(|| connect(GATEWAY, 53)).unwrap();

    let (mut peer, _) = server.accept().unwrap();
    client.write_all(&QUESTION).unwrap();
    let mut asked = [0; QUESTION.len()];
    peer.read_exact(&mut asked).unwrap();
    assert_eq!(asked, QUESTION);
    peer.write_all(&[1; 100_000]).unwrap();
    drop(peer);
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, [1; 100_000]);
}

#[test]
#[ignore = "needs root"]
fn names_come_and_go_with_the_policy() {
    let scene = Scene::new();
    fs::write(scene.folder.path().join("resolv.conf"), "").unwrap();
    let pool = scene.pool(1);
    let mut lease = lease_with(&pool, Policy::none());
    let guest = Guest::behind(&lease);
    let before = guest.run(|| connect(GATEWAY, 53)).is_ok();

    lease.apply(&network(Policy::open())).unwrap();

    assert!(!before);
    assert_eq!(ask(&guest)[3], 2);
}
