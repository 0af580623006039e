//! What networks need of a host, and what they change on it.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::Command;

use netns::testing::{Guest, INTERNET};
use netns::{Check, Config, Error, Pool, check};

use crate::fixture::{Fixture, RecordingObserver, connect, is_forbidden, lease, passes, soon};

#[test]
#[ignore = "needs root"]
fn the_host_has_as_many_rules_with_one_network_as_with_many() {
    let fixture = Fixture::new();
    let few = fixture.pool(1);
    let _one = lease(&few);
    let with_one = fixture.world.count_rules();

    let many = fixture.pool(64);
    let leases: Vec<_> = (0..64).map(|_| lease(&many)).collect();

    assert_eq!(fixture.world.count_rules(), with_one);
    assert!(with_one > 0);
    drop(leases);
}

#[test]
#[ignore = "needs root"]
fn a_range_that_the_host_has_a_route_into_is_refused() {
    let fixture = Fixture::new();
    for range in ["100.0.0.0/16", "100.0.0.0/25", "100.0.0.0/24"] {
        let config = Config { range: range.parse().unwrap(), ..fixture.config(1) };
        let error = Pool::start(config).unwrap_err().to_string();
        assert!(error.contains("100.0.0.0/24, which this host has on wan"), "{error}");
    }
    assert!(!fixture.world.inventory().iter().any(|entry| entry.starts_with("table")));
}

#[test]
#[ignore = "needs root"]
fn a_foreign_link_with_our_name_stays_and_another_network_is_made() {
    let fixture = Fixture::new();
    fixture.world.make_link("sr-0ac80000");
    let pool = fixture.pool(1);
    assert_eq!(lease(&pool).link().unwrap(), "sr-0ac80004");
    drop(pool);
    assert!(fixture.world.inventory().contains(&"link sr-0ac80000".to_owned()));
}

#[test]
#[ignore = "needs root"]
fn two_pools_share_a_range() {
    let fixture = Fixture::new();
    let (ours, theirs) = (fixture.pool(8), fixture.pool(8));
    let leases: Vec<_> = (0..8).flat_map(|_| [lease(&ours), lease(&theirs)]).collect();

    let mut links: Vec<_> = leases.iter().map(|lease| lease.link().unwrap()).collect();
    links.sort_unstable();
    links.dedup();

    assert_eq!(links.len(), 16);
    drop(ours);
    let (guest, _server) = (Guest::behind(&leases[1]), fixture.server(INTERNET, 80));
    assert!(guest.run(|| connect(INTERNET, 80)).is_ok());
}

#[test]
#[ignore = "needs root"]
fn a_redirected_guest_reaches_only_the_proxy() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let mut lease = lease(&pool);
    let proxy = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let other = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    lease.intercept(port(&proxy), RecordingObserver::new(true)).unwrap();
    let (guest, _server) = (Guest::behind(&lease), fixture.server(INTERNET, 443));

    let client = guest.run(|| connect(INTERNET, 443)).unwrap();

    let (peer, from) = proxy.accept().unwrap();
    assert!(passes(&client, &peer));
    assert_eq!(from.ip(), lease.address().unwrap());
    let meant = netns::testing::original_destination(&peer);
    assert_eq!(meant, SocketAddrV4::new(INTERNET, 443));
    // Even a listener on the host's own address is out of reach.
    let direct = guest.run(|| connect(netns::testing::HOST, port(&other)));
    assert!(direct.is_ok());
    let (redirected, _) = proxy.accept().unwrap();
    drop(redirected);
    drop((guest, lease));
    let again = pool.lease(soon()).unwrap();
    let guest = Guest::behind(&again);
    let direct = guest.run(|| connect(netns::testing::HOST, port(&other)));
    assert!(is_forbidden(&direct), "{direct:?}");
    assert!(guest.run(|| connect(INTERNET, 443)).is_ok());
}

#[test]
#[ignore = "needs root"]
fn a_check_finds_problems_and_changes_nothing() {
    let fixture = Fixture::new();
    let before = fixture.world.inventory();
    let path = fixture.folder.path().join("network.lock");

    let fresh = check(&path, "10.200.0.0/16".parse().unwrap());
    let taken = check(&path, "100.0.0.0/16".parse().unwrap());

    assert_eq!(fresh[0], Check::Works);
    assert!(fresh.contains(&Check::NotForwarding));
    assert!(taken.iter().any(|check| matches!(check, Check::RangeTaken { .. })));
    assert_eq!(fixture.world.inventory(), before);
    assert!(!path.exists());
}

#[test]
#[ignore = "needs root"]
fn a_pool_with_another_lock_file_is_rejected_and_changes_nothing() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let lease = lease(&pool);
    let (guest, _server) = (Guest::behind(&lease), fixture.server(INTERNET, 80));
    let before = fixture.world.inventory();
    let lock_path = fixture.folder.path().join("other.lock");

    let started = Pool::start(Config { lock_path: lock_path.clone(), ..fixture.config(1) });
    let reclaimed = netns::reclaim(&lock_path, netns::Range::default());

    let error = started.unwrap_err().to_string();
    assert!(error.contains("other.lock") && error.contains("runtime directory"), "{error}");
    assert!(matches!(reclaimed, Err(Error::OtherLockFile { .. })));
    assert_eq!(fixture.world.inventory(), before);
    assert!(guest.run(|| connect(INTERNET, 80)).is_ok());
}

#[test]
#[ignore = "needs root"]
fn pools_with_different_and_overlapping_ranges_work() {
    let fixture = Fixture::new();
    let _server = fixture.server(INTERNET, 80);
    let ranges = ["10.200.0.0/24", "10.200.1.0/24", "10.200.0.0/16", "10.200.0.0/25"];
    let pools = ranges.map(|range| {
        Pool::start(Config { range: range.parse().unwrap(), ..fixture.config(1) }).unwrap()
    });
    for pool in &pools {
        let lease = lease(pool);
        let guest = Guest::behind(&lease);
        assert!(guest.run(|| connect(INTERNET, 80)).is_ok(), "{}", lease.link().unwrap());
    }
}

#[test]
#[ignore = "needs root"]
fn a_check_finds_a_host_that_drops_forwarded_packets() {
    let fixture = Fixture::new();
    fixture.world.close_forwarding();
    let path = fixture.folder.path().join("network.lock");
    let checks = check(&path, netns::Range::default());
    let closed = Check::ForwardDropped { chains: vec!["foreign FORWARD".to_owned()] };
    assert!(checks.contains(&closed), "{checks:?}");
}

/// Runs in a process of its own, as an unprivileged user.
#[test]
#[ignore = "is run by the test below"]
fn unprivileged() {
    if nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = Config { lock_path: folder.path().join("network.lock"), ..Config::default() };
    let error = Pool::start(config).unwrap_err();
    assert!(matches!(error, Error::NotPermitted), "{error}");
    assert!(error.to_string().contains("run as root"));
}

#[test]
#[ignore = "needs root"]
fn an_unprivileged_user_gets_an_error_with_the_remedy() {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", "host::unprivileged", "--include-ignored"]);
    let output = command.uid(65534).gid(65534).current_dir("/").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
