//! Hostile guests: spoofed addresses and floods.

use std::io::Write;
use std::net::{Ipv4Addr, UdpSocket};

use netns::guest::{ADDRESS, GATEWAY, MAC};
use netns::testing::{Guest, INTERNET, frame};
use sandbox::{Limits, Network};

use crate::fixture::{Fixture, connect, lease};

#[test]
#[ignore = "needs root"]
fn packets_with_a_spoofed_address_or_mac_are_dropped() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let mut lease = lease(&pool);
    let mut tap = lease.open_tap().unwrap();
    let server = fixture.world.on_the_internet(|| UdpSocket::bind((INTERNET, 9)).unwrap());
    let foreign = Ipv4Addr::new(192, 168, 241, 3);
    let mac = [2, 0, 0, 0, 0, 9];

    tap.write_all(&frame::udp(MAC, foreign, INTERNET, 9)).unwrap();
    tap.write_all(&frame::udp(mac, ADDRESS, INTERNET, 9)).unwrap();
    tap.write_all(&frame::arp(MAC, foreign, GATEWAY)).unwrap();
    tap.write_all(&frame::arp(mac, ADDRESS, GATEWAY)).unwrap();
    tap.write_all(&frame::of_type(MAC, 0x86dd)).unwrap();
    tap.write_all(&frame::of_type(MAC, 0x8100)).unwrap();
    assert_eq!(lease.counters().unwrap().spoofed.packets, 6);
    tap.write_all(&frame::udp(MAC, ADDRESS, INTERNET, 9)).unwrap();

    // Only this packet arrives.
    let mut buffer = [0; 64];
    let (count, _) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], frame::PAYLOAD);
    server.set_nonblocking(true).unwrap();
    assert!(server.recv_from(&mut buffer).is_err());
}

#[test]
#[ignore = "needs root"]
fn a_flood_of_arp_is_rate_limited() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let mut lease = lease(&pool);
    let mut tap = lease.open_tap().unwrap();

    for _ in 0..20_000 {
        tap.write_all(&frame::arp(MAC, ADDRESS, GATEWAY)).unwrap();
    }

    let dropped = lease.counters().unwrap().spoofed.packets;
    assert!(dropped > 15_000, "{dropped}");
    drop(tap);
    let (guest, _server) = (Guest::behind(&lease), fixture.server(INTERNET, 80));
    assert!(guest.run(|| connect(INTERNET, 80)).is_ok());
}

#[test]
#[ignore = "needs root"]
fn a_flood_of_connections_stops_at_the_limit_without_effect_on_other_vms() {
    const FLOOD: u32 = 100_000;
    let fixture = Fixture::new();
    let pool = fixture.pool(2);
    let (mut hostile, good) = (lease(&pool), lease(&pool));
    let limits = Limits { connections: 1000, ..Limits::default() };
    hostile.apply(&Network { limits, ..Network::default() }).unwrap();
    let mut tap = hostile.open_tap().unwrap();

    for number in 0..FLOOD {
        let to = Ipv4Addr::from(0x6400_0100 + number / 50_000);
        tap.write_all(&frame::syn(ADDRESS, to, (number % 50_000) as u16 + 1024)).unwrap();
    }

    let counters = hostile.counters().unwrap();
    let remembered = fixture.world.count_connections(hostile.address().unwrap());
    assert_eq!(counters.sent.packets, u64::from(FLOOD));
    assert!(counters.over_limit.packets >= u64::from(FLOOD) - 1000, "{counters:?}");
    assert!(remembered <= 1000, "{remembered}");
    let (guest, _server) = (Guest::behind(&good), fixture.server(INTERNET, 80));
    assert!(guest.run(|| connect(INTERNET, 80)).is_ok());
}

#[test]
#[ignore = "needs root"]
fn a_flood_of_the_gateway_does_not_fill_the_conntrack_table() {
    const FLOOD: u16 = 60_000;
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let mut lease = lease(&pool);
    lease.apply(&Network::default()).unwrap();
    let mut tap = lease.open_tap().unwrap();

    for port in 1..=FLOOD {
        tap.write_all(&frame::udp(MAC, ADDRESS, GATEWAY, port)).unwrap();
    }
    for port in 1..=FLOOD {
        tap.write_all(&frame::udp_from(port, GATEWAY, 53)).unwrap();
    }

    let remembered = lease.count_connections().unwrap();
    assert!(remembered <= 4096, "{remembered}");
    assert_eq!(lease.counters().unwrap().sent.packets, 2 * u64::from(FLOOD));
}
