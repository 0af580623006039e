//! Guests all of whose traffic is to go through a proxy.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::Arc;

use netns::guest::{ADDRESS, GATEWAY, MAC};
use netns::testing::{Guest, INTERNET, METADATA, PRIVATE, frame, original_destination};
use netns::{Lease, Pool};
use sandbox::{Policy, SINKHOLE};

use crate::scene::{Scene, Witness, connect, is_forbidden, lease_with, passes};

/// A question for `a.org`.
const QUESTION: &[u8] = b"\x07\x09\x01\0\0\x01\0\0\0\0\0\0\x01a\x03org\0\0\x01\0\x01";

fn intercepted(pool: &Pool, may_ask: bool) -> (Lease, TcpListener, Arc<Witness>) {
    let mut lease = lease_with(pool, Policy::intercepted(&[]));
    let proxy = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let witness = Witness::new(may_ask);
    let watch = Arc::clone(&witness);
    lease.intercept(proxy.local_addr().unwrap().port(), watch).unwrap();
    (lease, proxy, witness)
}

fn ask(guest: &Guest, to: Ipv4Addr, question: &[u8]) -> Vec<u8> {
    guest.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((to, 53)).unwrap();
        socket.send(question).unwrap();
        let mut buffer = [0; 512];
        let count = socket.recv(&mut buffer).unwrap();
        buffer[..count].to_vec()
    })
}

#[test]
#[ignore = "needs root"]
fn every_port_of_tcp_leads_to_the_proxy() {
    let scene = Scene::new();
    let pool = scene.pool(1);
    let (lease, proxy, _) = intercepted(&pool, true);
    let guest = Guest::behind(&lease);
    let _servers = [22, 443, 853].map(|port| scene.server(INTERNET, port));

    for (address, port) in [(INTERNET, 22), (INTERNET, 443), (INTERNET, 853), (SINKHOLE, 1)] {
        let client = guest.run(|| connect(address, port)).unwrap();
        let (peer, _) = proxy.accept().unwrap();
        assert_eq!(original_destination(&peer), SocketAddrV4::new(address, port));
        assert!(passes(&client, &peer));
    }
}

#[test]
#[ignore = "needs root"]
fn what_is_internal_is_refused_before_the_proxy_and_told() {
    let scene = Scene::new();
    let pool = scene.pool(1);
    let (lease, _proxy, witness) = intercepted(&pool, true);
    let guest = Guest::behind(&lease);

    for address in [PRIVATE, METADATA] {
        assert!(is_forbidden(&guest.run(|| connect(address, 80))));
        witness.wait_for(&format!("6 {address}:80"));
    }
}

#[test]
#[ignore = "needs root"]
fn datagrams_go_nowhere_and_are_told() {
    let scene = Scene::new();
    let pool = scene.pool(1);
    let (lease, _proxy, witness) = intercepted(&pool, true);
    let server = scene.world.on_the_internet(|| UdpSocket::bind((INTERNET, 443)).unwrap());
    server.set_nonblocking(true).unwrap();
    let mut tap = lease.open_tap().unwrap();

    for port in [443, 53, 853] {
        tap.write_all(&frame::udp(MAC, ADDRESS, INTERNET, port)).unwrap();
        assert_eq!(witness.next(), format!("17 {INTERNET}:{port}"));
    }
    // As another, and by IPv6.
    tap.write_all(&frame::udp(MAC, Ipv4Addr::new(192, 168, 241, 3), INTERNET, 9)).unwrap();
    assert_eq!(witness.next(), format!("17 {INTERNET}:9"));
    tap.write_all(&frame::ipv6("2001:db8::1".parse().unwrap(), 443)).unwrap();
    assert_eq!(witness.next(), "6 [2001:db8::1]:443");

    assert!(server.recv(&mut [0]).is_err());
}

#[test]
#[ignore = "needs root"]
fn multicast_and_what_is_no_ip_packet_are_counted_and_not_told() {
    let scene = Scene::new();
    let pool = scene.pool(1);
    let (mut lease, _proxy, witness) = intercepted(&pool, true);
    let mut tap = lease.open_tap().unwrap();
    let all_nodes = "ff02::1".parse().unwrap();

    // What a kernel sends by itself: multicast listener reports, router solicitations, IGMP.
    tap.write_all(&frame::ipv6(all_nodes, 0)).unwrap();
    tap.write_all(&frame::multicast(Ipv4Addr::new(224, 0, 0, 22))).unwrap();
    tap.write_all(&frame::of_type(MAC, 0x88cc)).unwrap();
    tap.write_all(&frame::udp(MAC, ADDRESS, INTERNET, 443)).unwrap();

    assert_eq!(witness.next(), format!("17 {INTERNET}:443"));
    assert!(witness.has_heard_nothing());
    let counters = lease.counters().unwrap();
    assert_eq!((counters.multicast.packets, counters.spoofed.packets), (2, 1));
}

#[test]
#[ignore = "needs root"]
fn a_name_that_may_not_be_asked_for_leads_to_where_it_is_told_why() {
    let scene = Scene::new();
    fs::write(scene.folder.path().join("resolv.conf"), format!("nameserver {INTERNET}\n")).unwrap();
    let pool = scene.pool(1);
    let (lease, _proxy, witness) = intercepted(&pool, false);
    let server = scene.world.on_the_internet(|| UdpSocket::bind((INTERNET, 53)).unwrap());
    server.set_nonblocking(true).unwrap();

    let answer = ask(&Guest::behind(&lease), GATEWAY, QUESTION);

    assert_eq!(answer[6..8], [0, 1]);
    assert!(answer.ends_with(&SINKHOLE.octets()));
    assert_eq!(witness.next(), "a.org");
    assert!(server.recv(&mut [0]).is_err());
}

#[test]
#[ignore = "needs root"]
fn a_name_that_may_be_asked_for_is_asked_of_the_hosts_name_server() {
    let scene = Scene::new();
    fs::write(scene.folder.path().join("resolv.conf"), format!("nameserver {INTERNET}\n")).unwrap();
    let pool = scene.pool(1);
    let (lease, _proxy, witness) = intercepted(&pool, true);
    let server = scene.world.on_the_internet(|| UdpSocket::bind((INTERNET, 53)).unwrap());

    let answer = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 512];
            let (count, from) = server.recv_from(&mut buffer).unwrap();
            buffer[2] |= 0x80;
            server.send_to(&buffer[..count], from).unwrap();
        });
        ask(&Guest::behind(&lease), GATEWAY, QUESTION)
    });

    assert_eq!(answer[2], 0x81);
    assert_eq!(witness.next(), "a.org");
    assert!(witness.has_heard_nothing());
}

#[test]
#[ignore = "needs root"]
fn questions_by_tcp_and_for_hidden_names_are_not_asked() {
    let scene = Scene::new();
    fs::write(scene.folder.path().join("resolv.conf"), format!("nameserver {INTERNET}\n")).unwrap();
    let pool = scene.pool(1);
    let (lease, _proxy, witness) = intercepted(&pool, true);
    let guest = Guest::behind(&lease);
    let https = [&QUESTION[..QUESTION.len() - 4], &[0, 65, 0, 1]].concat();

    let answer = ask(&guest, GATEWAY, &https);
    let mut client = guest.run(|| connect(GATEWAY, 53)).unwrap();

    assert_eq!((answer[3] & 0xf, answer[7]), (0, 0));
    assert_eq!(witness.next(), "a.org");
    assert!(client.read(&mut [0]).map_or(true, |count| count == 0));
    assert_eq!(witness.next(), format!("6 {GATEWAY}:53"));
}

#[test]
#[ignore = "needs root"]
fn the_way_to_the_proxy_can_be_tried_without_a_guest_on_a_host_of_nobodys() {
    let scene = Scene::new();
    let config = scene.config(1);
    let meant = netns::apart(move || {
        let pool = Pool::start(config).unwrap();
        let (lease, proxy, _) = intercepted(&pool, true);
        let to = SocketAddrV4::new(SINKHOLE, 80);
        let client = lease.connect(to, std::time::Duration::from_secs(20)).unwrap();
        let (peer, _) = proxy.accept().unwrap();
        assert!(passes(&client, &peer) && passes(&peer, &client));
        original_destination(&peer)
    });
    assert_eq!(meant.unwrap(), SocketAddrV4::new(SINKHOLE, 80));
}
