//! What networks need of a host, and what they do to it.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::Command;

use netns::testing::{Guest, INTERNET};
use netns::{Check, Config, Error, Pool, check};

use crate::scene::{Scene, Witness, connect, is_forbidden, lease, passes, soon};

#[test]
#[ignore = "needs root"]
fn the_host_has_as_many_rules_with_one_network_as_with_many() {
    let scene = Scene::new();
    let few = scene.pool(1);
    let _one = lease(&few);
    let with_one = scene.world.count_rules();

    let many = scene.pool(64);
    let leases: Vec<_> = (0..64).map(|_| lease(&many)).collect();

    assert_eq!(scene.world.count_rules(), with_one);
    assert!(with_one > 0);
    drop(leases);
}

#[test]
#[ignore = "needs root"]
fn a_range_that_the_host_has_a_route_into_is_refused() {
    let scene = Scene::new();
    for range in ["100.0.0.0/16", "100.0.0.0/25", "100.0.0.0/24"] {
        let config = Config { range: range.parse().unwrap(), ..scene.config(1) };
        let error = Pool::start(config).unwrap_err().to_string();
        assert!(error.contains("100.0.0.0/24, which this host has on wan"), "{error}");
    }
    assert!(!scene.world.picture().iter().any(|entry| entry.starts_with("table")));
}

#[test]
#[ignore = "needs root"]
fn a_foreign_link_of_our_name_stays_and_another_network_is_made() {
    let scene = Scene::new();
    scene.world.make_link("sr-0ac80000");
    let pool = scene.pool(1);
    assert_eq!(lease(&pool).link().unwrap(), "sr-0ac80004");
    drop(pool);
    assert!(scene.world.picture().contains(&"link sr-0ac80000".to_owned()));
}

#[test]
#[ignore = "needs root"]
fn two_pools_share_a_range() {
    let scene = Scene::new();
    let (ours, theirs) = (scene.pool(8), scene.pool(8));
    let leases: Vec<_> = (0..8).flat_map(|_| [lease(&ours), lease(&theirs)]).collect();

    let mut links: Vec<_> = leases.iter().map(|lease| lease.link().unwrap()).collect();
    links.sort_unstable();
    links.dedup();

    assert_eq!(links.len(), 16);
    drop(ours);
    let (guest, _server) = (Guest::behind(&leases[1]), scene.server(INTERNET, 80));
    assert!(guest.run(|| connect(INTERNET, 80)).is_ok());
}

#[test]
#[ignore = "needs root"]
fn a_redirected_guest_talks_to_the_hosts_proxy_and_to_nobody_else() {
    let scene = Scene::new();
    let pool = scene.pool(1);
    let mut lease = lease(&pool);
    let proxy = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let other = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    lease.intercept(port(&proxy), Witness::new(true)).unwrap();
    let (guest, _server) = (Guest::behind(&lease), scene.server(INTERNET, 443));

    let client = guest.run(|| connect(INTERNET, 443)).unwrap();

    let (peer, from) = proxy.accept().unwrap();
    assert!(passes(&client, &peer));
    assert_eq!(from.ip(), lease.address().unwrap());
    let meant = netns::testing::original_destination(&peer);
    assert_eq!(meant, SocketAddrV4::new(INTERNET, 443));
    // The host's own address stays out of reach, whatever listens there.
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
fn a_check_finds_what_is_wrong_and_changes_nothing() {
    let scene = Scene::new();
    let before = scene.world.picture();
    let path = scene.folder.path().join("network.lock");

    let fresh = check(&path, "10.200.0.0/16".parse().unwrap());
    let taken = check(&path, "100.0.0.0/16".parse().unwrap());

    assert_eq!(fresh[0], Check::Works);
    assert!(fresh.contains(&Check::NotForwarding));
    assert!(taken.iter().any(|check| matches!(check, Check::RangeTaken { .. })));
    assert_eq!(scene.world.picture(), before);
    assert!(!path.exists());
}

#[test]
#[ignore = "needs root"]
fn who_uses_other_locks_touches_nothing() {
    let scene = Scene::new();
    let pool = scene.pool(1);
    let lease = lease(&pool);
    let (guest, _server) = (Guest::behind(&lease), scene.server(INTERNET, 80));
    let before = scene.world.picture();
    let lock_path = scene.folder.path().join("other.lock");

    let started = Pool::start(Config { lock_path: lock_path.clone(), ..scene.config(1) });
    let reclaimed = netns::reclaim(&lock_path, netns::Range::default());

    let error = started.unwrap_err().to_string();
    assert!(error.contains("other.lock") && error.contains("runtime directory"), "{error}");
    assert!(matches!(reclaimed, Err(Error::OtherLocks { .. })));
    assert_eq!(scene.world.picture(), before);
    assert!(guest.run(|| connect(INTERNET, 80)).is_ok());
}

#[test]
#[ignore = "needs root"]
fn ranges_may_differ_and_overlap() {
    let scene = Scene::new();
    let _server = scene.server(INTERNET, 80);
    let ranges = ["10.200.0.0/24", "10.200.1.0/24", "10.200.0.0/16", "10.200.0.0/25"];
    let pools = ranges.map(|range| {
        Pool::start(Config { range: range.parse().unwrap(), ..scene.config(1) }).unwrap()
    });
    for pool in &pools {
        let lease = lease(pool);
        let guest = Guest::behind(&lease);
        assert!(guest.run(|| connect(INTERNET, 80)).is_ok(), "{}", lease.link().unwrap());
    }
}

#[test]
#[ignore = "needs root"]
fn a_host_that_drops_what_is_passed_on_is_found() {
    let scene = Scene::new();
    scene.world.close_forwarding();
    let path = scene.folder.path().join("network.lock");
    let checks = check(&path, netns::Range::default());
    let closed = Check::Closed { chains: vec!["foreign FORWARD".to_owned()] };
    assert!(checks.contains(&closed), "{checks:?}");
}

/// Runs as a process of its own, as a user who may not configure networks.
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
fn who_may_not_configure_networks_is_told_so() {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", "host::unprivileged", "--include-ignored"]);
    let output = command.uid(65534).gid(65534).current_dir("/").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
