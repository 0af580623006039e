//! The host's own addresses: out of reach for VMs and proxies, except exceptions.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};

use netns::ProxyFilter;
use netns::testing::{Guest, HOST, INTERNET, PRIVATE};
use sandbox::{HostFilter, HostSocket, Network, PROXY_UID, Policy};

use crate::fixture::{Fixture, connect, is_forbidden, lease, lease_with, only, passes};

/// The user ID of a proxy.
const PROXY: u32 = PROXY_UID + 7;

fn permit(uid: u32, sockets: &[HostSocket]) {
    ProxyFilter.permit(uid, &sockets.iter().copied().collect::<BTreeSet<_>>()).unwrap();
}

/// Whether a process of a user may connect.
fn may_connect(fixture: &Fixture, uid: u32, to: impl Into<IpAddr> + Send, port: u16) -> bool {
    let result = fixture.world.as_user(uid, || connect(to, port));
    assert!(result.is_ok() || is_forbidden(&result) || is_denied(&result), "{result:?}");
    result.is_ok()
}

/// The error for IPv6 that corresponds to "unreachable" for IPv4.
fn is_denied<T>(result: &std::io::Result<T>) -> bool {
    matches!(result, Err(error) if error.raw_os_error() == Some(libc::EACCES))
}

#[test]
#[ignore = "needs root"]
fn a_proxy_connects_to_no_address_of_the_host_old_or_new() {
    let fixture = Fixture::new();
    let _pool = fixture.pool(1);
    let server = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let (loopback, mapped) = (Ipv4Addr::LOCALHOST, HOST.to_ipv6_mapped());
    let added = Ipv4Addr::new(100, 9, 9, 9);
    let elsewhere = fixture.server(INTERNET, 80);

    for address in [IpAddr::from(HOST), loopback.into(), mapped.into(), Ipv6Addr::LOCALHOST.into()]
    {
        assert!(!may_connect(&fixture, PROXY, address, port), "{address}");
        assert!(may_connect(&fixture, 0, address, port), "{address}");
    }
    fixture.world.add_host_address(added);
    assert!(!may_connect(&fixture, PROXY, added, port));
    assert!(may_connect(&fixture, PROXY, INTERNET, 80));
    drop(elsewhere);
}

#[test]
#[ignore = "needs root"]
fn a_proxy_connects_to_no_vm_but_to_the_hosts_dns_server() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let vm = lease(&pool).address().unwrap();
    let names = UdpSocket::bind((HOST, 53)).unwrap();

    assert!(!may_connect(&fixture, PROXY, vm, 80));
    let send = |port| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((HOST, port)).unwrap();
        socket.send(b"x").and_then(|_| socket.send(b"x")).is_ok()
    };
    assert!(fixture.world.as_user(PROXY, || send(53)));
    assert!(names.recv(&mut [0]).is_ok());
    assert!(!fixture.world.as_user(PROXY, || send(5353)));
}

#[test]
#[ignore = "needs root"]
fn an_exception_applies_to_one_user_and_one_socket_until_it_is_removed() {
    let fixture = Fixture::new();
    let _pool = fixture.pool(1);
    let servers = [0, 0].map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    let [named, other] = servers.each_ref().map(|one| one.local_addr().unwrap().port());
    let at = |address, port| HostSocket { address, port };
    permit(PROXY, &[at(HOST, Some(named)), at(Ipv4Addr::LOCALHOST, None)]);
    permit(PROXY + 1, &[at(HOST, Some(other))]);

    assert!(
        may_connect(&fixture, PROXY, HOST, named) && !may_connect(&fixture, PROXY, HOST, other)
    );
    assert!(may_connect(&fixture, PROXY, Ipv4Addr::LOCALHOST, other));
    assert!(!may_connect(&fixture, PROXY + 1, HOST, named));
    permit(PROXY, &[]);
    assert!(!may_connect(&fixture, PROXY, HOST, named));
    assert!(may_connect(&fixture, PROXY + 1, HOST, other));
}

#[test]
#[ignore = "needs root"]
fn restricting_a_proxy_fails_without_the_hosts_table() {
    let _scene = Fixture::new();
    assert!(ProxyFilter.permit(PROXY, &BTreeSet::new()).is_err());
}

#[test]
#[ignore = "needs root"]
fn a_vm_reaches_only_the_named_socket_of_the_host_regardless_of_its_policy() {
    let fixture = Fixture::new();
    let pool = fixture.pool(2);
    let own = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = own.local_addr().unwrap().port();
    let other = TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap().port();
    let private = fixture.server(PRIVATE, 9000);
    let reachable = vec![SocketAddrV4::new(HOST, port), SocketAddrV4::new(PRIVATE, 9000)];
    let mut named = lease(&pool);
    let network = Network { policy: Policy::none(), reachable, ..Network::default() };
    named.apply(&network).unwrap();
    let guest = Guest::behind(&named);
    let stranger = lease_with(&pool, only(Vec::new()));

    let client = guest.run(|| connect(HOST, port)).unwrap();
    assert!(passes(&client, &own.accept().unwrap().0));
    let client = guest.run(|| connect(PRIVATE, 9000)).unwrap();
    assert!(passes(&client, &private.accept().unwrap().0));
    for to in [SocketAddr::from((HOST, other)), (PRIVATE, 9001).into(), (INTERNET, port).into()] {
        assert!(is_forbidden(&guest.run(|| connect(to.ip(), to.port()))), "{to}");
    }
    let stranger = Guest::behind(&stranger);
    assert!(is_forbidden(&stranger.run(|| connect(HOST, port))));
    drop(guest);
    named.apply(&Network { policy: Policy::open(), ..Network::default() }).unwrap();
    assert!(is_forbidden(&Guest::behind(&named).run(|| connect(HOST, port))));
}
