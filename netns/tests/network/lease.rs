//! The life of a network: lease, use, reset, removal.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use netns::testing::{Guest, HOST, INTERNET, frame};
use netns::{Config, Counters, Error, Pool};
use sandbox::{Limits, Network, Policy, Publish};

use crate::fixture::{Fixture, connect, is_forbidden, lease, passes, soon};

#[test]
#[ignore = "needs root"]
fn a_guest_reaches_the_internet_from_the_hosts_address() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let lease = lease(&pool);
    let guest = Guest::behind(&lease);
    let server = fixture.server(INTERNET, 80);

    let client = guest.run(|| connect(INTERNET, 80)).unwrap();

    let (peer, from) = server.accept().unwrap();
    assert!(passes(&client, &peer) && passes(&peer, &client));
    assert_eq!(from.ip(), HOST);
}

#[test]
#[ignore = "needs root"]
fn a_returned_network_is_reset() {
    let fixture = Fixture::new();
    let config = Config { range: "10.200.0.0/30".parse().unwrap(), ..fixture.config(1) };
    let pool = Pool::start(config).unwrap();
    let server = fixture.server(INTERNET, 80);
    let mut first = lease(&pool);
    let guest = Guest::behind(&first);
    first.apply(&Network { policy: Policy::none(), ..Network::default() }).unwrap();
    let refused = guest.run(|| connect(INTERNET, 80));
    first.apply(&Network::default()).unwrap();
    let client = guest.run(|| connect(INTERNET, 80)).unwrap();
    let (peer, _) = server.accept().unwrap();
    assert!(is_forbidden(&refused) && passes(&client, &peer));
    let used = first.counters().unwrap();
    assert!(used.sent.packets > 0 && used.received.packets > 0 && used.refused.packets > 0);
    assert!(
        fixture.world.inventory().iter().any(|entry| entry.starts_with("connection from 10.200."))
    );
    drop((guest, first));

    let mut second = lease(&pool);

    assert_eq!(second.counters().unwrap(), Counters::default());
    assert!(
        !fixture.world.inventory().iter().any(|entry| entry.starts_with("connection from 10.200."))
    );
    let guest = Guest::behind(&second);
    assert!(guest.run(|| connect(INTERNET, 80)).is_ok());
}

#[test]
#[ignore = "needs root"]
fn a_closed_network_passes_nothing_until_a_policy_is_applied() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let mut lease = lease(&pool);
    let guest = Guest::behind(&lease);
    let server = fixture.server(INTERNET, 80);
    let host = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let published = lease.publish(&Publish { host, port: 8080 }).unwrap();
    let client = guest.run(|| connect(INTERNET, 80)).unwrap();
    let (peer, _) = server.accept().unwrap();
    assert!(passes(&client, &peer));

    lease.close().unwrap();

    assert!(is_forbidden(&guest.run(|| connect(INTERNET, 80))));
    assert!(TcpStream::connect(published).is_err());
    lease.apply(&Network::default()).unwrap();
    let client = guest.run(|| connect(INTERNET, 80)).unwrap();
    let (peer, _) = server.accept().unwrap();
    assert!(passes(&client, &peer));
}

#[test]
#[ignore = "needs root"]
fn a_network_is_reused_many_times() {
    let fixture = Fixture::new();
    let config = Config { range: "10.200.0.0/30".parse().unwrap(), ..fixture.config(1) };
    let pool = Pool::start(config).unwrap();
    let links: Vec<_> = (0..50).map(|_| lease(&pool).link().unwrap()).collect();
    assert!(links.iter().all(|link| link == "sr-0ac80000"));
}

#[test]
#[ignore = "needs root"]
fn a_network_whose_monitor_still_runs_is_not_reused() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let first = lease(&pool);
    let link = first.link().unwrap();
    let monitor = first.open_tap().unwrap();

    drop(first);

    let second = lease(&pool);
    assert_ne!(second.link().unwrap(), link);
    assert!(!fixture.world.inventory().contains(&format!("link {link}")));
    drop(monitor);
}

#[test]
#[ignore = "needs root"]
fn a_network_that_was_changed_is_replaced() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let first = lease(&pool);
    let link = first.link().unwrap();
    fixture.world.remove_link(&link);

    drop(first);

    let second = lease(&pool);
    let (guest, _server) = (Guest::behind(&second), fixture.server(INTERNET, 80));
    assert_ne!(second.link().unwrap(), link);
    assert!(guest.run(|| connect(INTERNET, 80)).is_ok());
}

#[test]
#[ignore = "needs root"]
fn dropping_the_last_lease_after_the_pool_leaves_nothing() {
    let fixture = Fixture::new();
    let before = fixture.world.inventory();
    let pool = fixture.pool(4);
    let leases = [lease(&pool), lease(&pool)];
    drop(pool);
    let left: Vec<_> =
        leases.iter().map(|lease| format!("link {}", lease.link().unwrap())).collect();
    let during = fixture.world.inventory();
    assert!(left.iter().all(|link| during.contains(link)) && during.len() == before.len() + 3);

    drop(leases);

    assert_eq!(fixture.world.inventory(), before);
}

#[test]
#[ignore = "needs root"]
fn a_lease_from_an_empty_pool_waits_until_the_deadline() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let held = lease(&pool);
    let error = pool.lease(Instant::now()).unwrap_err();
    assert!(matches!(error, Error::NoneReady { size: 1, .. }), "{error}");
    drop(held);
    assert!(pool.lease(soon()).is_ok());
}

#[test]
#[ignore = "needs root"]
fn an_exhausted_range_is_an_error_with_its_name() {
    let fixture = Fixture::new();
    let config = Config { range: "10.200.0.0/30".parse().unwrap(), ..fixture.config(2) };
    let other = Pool::start(config.clone()).unwrap();
    let held = lease(&other);
    let pool = Pool::start(config).unwrap();

    let error = pool.lease(soon()).unwrap_err();

    let text = error.to_string();
    assert!(text.contains("all 1 networks of 10.200.0.0/30 are in use"), "{text}");
    drop((other, held));
    assert!(pool.lease(soon()).is_ok());
}

#[test]
#[ignore = "needs root"]
fn connections_beyond_the_limit_are_rejected() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let mut lease = lease(&pool);
    let limits = Limits { connections: 4, ..Limits::default() };
    lease.apply(&Network { limits, ..Network::default() }).unwrap();
    let (guest, _server) = (Guest::behind(&lease), fixture.server(INTERNET, 80));

    let within: Vec<TcpStream> =
        (0..4).map(|_| guest.run(|| connect(INTERNET, 80)).unwrap()).collect();
    let over = guest.run(|| connect(INTERNET, 80));

    assert!(is_forbidden(&over), "{over:?}");
    assert!(lease.counters().unwrap().over_limit.packets > 0);
    drop(within);
}

#[test]
#[ignore = "needs root"]
fn the_rate_is_limited_in_both_directions() {
    const BYTES: usize = 512 << 10;
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let mut lease = lease(&pool);
    // The burst (128 KiB) is not limited.
    let limits = Limits { upload: Some(4_000_000), download: Some(4_000_000), ..Limits::default() };
    lease.apply(&Network { limits, ..Network::default() }).unwrap();
    let (guest, server) = (Guest::behind(&lease), fixture.server(INTERNET, 80));
    let mut client = guest.run(|| connect(INTERNET, 80)).unwrap();
    let (mut peer, _) = server.accept().unwrap();
    let least = Duration::from_millis(700);

    let up = time(|| carry(&mut client, &mut peer, BYTES));
    let down = time(|| carry(&mut peer, &mut client, BYTES));

    assert!(up > least, "{up:?}");
    assert!(down > least, "{down:?}");
}

fn carry(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) {
    std::thread::scope(|scope| {
        scope.spawn(|| from.write_all(&vec![0; bytes]).unwrap());
        to.read_exact(&mut vec![0; bytes]).unwrap();
    });
}

fn time(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

#[test]
#[ignore = "needs root"]
fn dropping_a_pool_and_its_leases_together_leaves_nothing() {
    let fixture = Fixture::new();
    let before = fixture.world.inventory();
    for _ in 0..20 {
        let pool = fixture.pool(2);
        let leases = [lease(&pool), lease(&pool)];
        std::thread::scope(|scope| {
            scope.spawn(|| drop(leases));
            drop(pool);
        });
        assert_eq!(fixture.world.inventory(), before);
    }
}

#[test]
#[ignore = "needs root"]
fn packets_for_an_earlier_guest_do_not_reach_the_next_one() {
    const SECRET: &[u8] = b"for the first guest alone";
    let fixture = Fixture::new();
    let config = Config { range: "10.200.0.0/30".parse().unwrap(), ..fixture.config(1) };
    let pool = Pool::start(config).unwrap();
    let mut first = lease(&pool);
    let host = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let address = first.publish(&Publish { host, port: 80 }).unwrap();
    let guest = Guest::behind(&first);
    let server = guest.run(|| TcpListener::bind(("0.0.0.0", 80)).unwrap());
    let mut client = connect(*address.ip(), address.port()).unwrap();
    let (peer, _) = server.accept().unwrap();
    // The guest stops before it receives it.
    guest.stop();
    client.write_all(SECRET).unwrap();
    drop((peer, server, guest, client, first));

    let second = lease(&pool);

    let tap = second.open_tap().unwrap();
    let received = frame::listen(&tap, Duration::from_secs(2));
    let has_secret = |frame: &Vec<u8>| frame.windows(SECRET.len()).any(|part| part == SECRET);
    assert!(!received.iter().any(has_secret), "{} frames", received.len());
}
