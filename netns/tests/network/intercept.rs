//! Guests whose traffic is redirected to a proxy.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::Arc;

use netns::guest::{ADDRESS, GATEWAY, MAC};
use netns::testing::{Guest, INTERNET, METADATA, PRIVATE, frame, original_destination};
use netns::{Lease, Pool};
use sandbox::{Policy, SINKHOLE};

use crate::fixture::{Fixture, RecordingObserver, connect, is_forbidden, lease_with, passes};

/// A query for `a.org`.
const QUESTION: &[u8] = b"\x07\x09\x01\0\0\x01\0\0\0\0\0\0\x01a\x03org\0\0\x01\0\x01";

fn intercepted(pool: &Pool, may_resolve: bool) -> (Lease, TcpListener, Arc<RecordingObserver>) {
    let mut lease = lease_with(pool, Policy::intercepted(&[]));
    let proxy = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let observer = RecordingObserver::new(may_resolve);
    let watch = Arc::clone(&observer);
    lease.intercept(proxy.local_addr().unwrap().port(), watch).unwrap();
    (lease, proxy, observer)
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
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let (lease, proxy, _) = intercepted(&pool, true);
    let guest = Guest::behind(&lease);
    let _servers = [22, 443, 853].map(|port| fixture.server(INTERNET, port));

    for (address, port) in [(INTERNET, 22), (INTERNET, 443), (INTERNET, 853), (SINKHOLE, 1)] {
        let client = guest.run(|| connect(address, port)).unwrap();
        let (peer, _) = proxy.accept().unwrap();
        assert_eq!(original_destination(&peer), SocketAddrV4::new(address, port));
        assert!(passes(&client, &peer));
    }
}

#[test]
#[ignore = "needs root"]
fn connections_to_internal_networks_are_rejected_and_reported() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let (lease, _proxy, observer) = intercepted(&pool, true);
    let guest = Guest::behind(&lease);

    for address in [PRIVATE, METADATA] {
        assert!(is_forbidden(&guest.run(|| connect(address, 80))));
        observer.wait_for(&format!("6 {address}:80"));
    }
}

#[test]
#[ignore = "needs root"]
fn datagrams_are_dropped_and_reported() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let (lease, _proxy, observer) = intercepted(&pool, true);
    let server = fixture.world.on_the_internet(|| UdpSocket::bind((INTERNET, 443)).unwrap());
    server.set_nonblocking(true).unwrap();
    let mut tap = lease.open_tap().unwrap();

    for port in [443, 53, 853] {
        tap.write_all(&frame::udp(MAC, ADDRESS, INTERNET, port)).unwrap();
        assert_eq!(observer.next(), format!("17 {INTERNET}:{port}"));
    }
    // From a spoofed address, and by IPv6.
    tap.write_all(&frame::udp(MAC, Ipv4Addr::new(192, 168, 241, 3), INTERNET, 9)).unwrap();
    assert_eq!(observer.next(), format!("17 {INTERNET}:9"));
    tap.write_all(&frame::ipv6("2001:db8::1".parse().unwrap(), 443)).unwrap();
    assert_eq!(observer.next(), "6 [2001:db8::1]:443");

    assert!(server.recv(&mut [0]).is_err());
}

#[test]
#[ignore = "needs root"]
fn multicast_and_other_protocols_than_ip_are_counted_and_not_reported() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let (mut lease, _proxy, observer) = intercepted(&pool, true);
    let mut tap = lease.open_tap().unwrap();
    let all_nodes = "ff02::1".parse().unwrap();

    // Packets that a kernel sends by itself: multicast listener reports, router solicitations, IGMP.
    tap.write_all(&frame::ipv6(all_nodes, 0)).unwrap();
    tap.write_all(&frame::multicast(Ipv4Addr::new(224, 0, 0, 22))).unwrap();
    tap.write_all(&frame::of_type(MAC, 0x88cc)).unwrap();
    tap.write_all(&frame::udp(MAC, ADDRESS, INTERNET, 443)).unwrap();

    assert_eq!(observer.next(), format!("17 {INTERNET}:443"));
    assert!(observer.has_no_event());
    let counters = lease.counters().unwrap();
    assert_eq!((counters.multicast.packets, counters.spoofed.packets), (2, 1));
}

#[test]
#[ignore = "needs root"]
fn a_forbidden_name_resolves_to_the_sinkhole() {
    let fixture = Fixture::new();
    fs::write(fixture.folder.path().join("resolv.conf"), format!("nameserver {INTERNET}\n"))
        .unwrap();
    let pool = fixture.pool(1);
    let (lease, _proxy, observer) = intercepted(&pool, false);
    let server = fixture.world.on_the_internet(|| UdpSocket::bind((INTERNET, 53)).unwrap());
    server.set_nonblocking(true).unwrap();

    let answer = ask(&Guest::behind(&lease), GATEWAY, QUESTION);

    assert_eq!(answer[6..8], [0, 1]);
    assert!(answer.ends_with(&SINKHOLE.octets()));
    assert_eq!(observer.next(), "a.org");
    assert!(server.recv(&mut [0]).is_err());
}

#[test]
#[ignore = "needs root"]
fn an_allowed_name_is_resolved_by_the_hosts_dns_server() {
    let fixture = Fixture::new();
    fs::write(fixture.folder.path().join("resolv.conf"), format!("nameserver {INTERNET}\n"))
        .unwrap();
    let pool = fixture.pool(1);
    let (lease, _proxy, observer) = intercepted(&pool, true);
    let server = fixture.world.on_the_internet(|| UdpSocket::bind((INTERNET, 53)).unwrap());

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
    assert_eq!(observer.next(), "a.org");
    assert!(observer.has_no_event());
}

#[test]
#[ignore = "needs root"]
fn queries_by_tcp_and_for_https_records_are_not_forwarded() {
    let fixture = Fixture::new();
    fs::write(fixture.folder.path().join("resolv.conf"), format!("nameserver {INTERNET}\n"))
        .unwrap();
    let pool = fixture.pool(1);
    let (lease, _proxy, observer) = intercepted(&pool, true);
    let guest = Guest::behind(&lease);
    let https = [&QUESTION[..QUESTION.len() - 4], &[0, 65, 0, 1]].concat();

    let answer = ask(&guest, GATEWAY, &https);
    let mut client = guest.run(|| connect(GATEWAY, 53)).unwrap();

    assert_eq!((answer[3] & 0xf, answer[7]), (0, 0));
    assert_eq!(observer.next(), "a.org");
    assert!(client.read(&mut [0]).map_or(true, |count| count == 0));
    assert_eq!(observer.next(), format!("6 {GATEWAY}:53"));
}

#[test]
#[ignore = "needs root"]
fn the_path_to_the_proxy_can_be_tested_without_a_guest() {
    let fixture = Fixture::new();
    let config = fixture.config(1);
    let meant = netns::in_new_namespace(move || {
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
