//! Published ports.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

use netns::guest::GATEWAY;
use netns::testing::Guest;
use sandbox::{Policy, Publish, Service};

use crate::scene::{Scene, connect, lease, lease_with, passes};

fn any_port() -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)
}

#[test]
#[ignore = "needs root"]
fn who_is_on_the_host_reaches_a_published_port() {
    let scene = Scene::new();
    let pool = scene.pool(1);
    let mut lease = lease(&pool);
    let guest = Guest::behind(&lease);
    let server = guest.run(|| TcpListener::bind(("0.0.0.0", 8080)).unwrap());

    let address = lease.publish(&Publish { host: any_port(), port: 8080 }).unwrap();

    let client = connect(*address.ip(), address.port()).unwrap();
    let (peer, from) = server.accept().unwrap();
    assert!(passes(&client, &peer) && passes(&peer, &client));
    assert_eq!(from.ip(), GATEWAY);
    drop((peer, server));
    let mut rest = Vec::new();
    assert_eq!(std::io::Read::read_to_end(&mut &client, &mut rest).unwrap(), 0);
    drop(lease);
    assert!(connect(*address.ip(), address.port()).is_err());
}

#[test]
#[ignore = "needs root"]
fn a_guest_without_permission_still_reaches_what_the_host_serves_it() {
    let scene = Scene::new();
    let pool = scene.pool(1);
    let mut lease = lease_with(&pool, Policy::none());
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let guest = Guest::behind(&lease);
    let host = server.local_addr().unwrap();

    lease.serve(&Service { port: 8700, host }).unwrap();

    let client = guest.run(|| connect(GATEWAY, 8700)).unwrap();
    let (peer, _) = server.accept().unwrap();
    assert!(passes(&client, &peer) && passes(&peer, &client));
    assert!(guest.run(|| connect(GATEWAY, 8701)).is_err());
}

#[test]
#[ignore = "needs root"]
fn a_port_where_nobody_listens_ends_the_connection() {
    let scene = Scene::new();
    let pool = scene.pool(1);
    let mut lease = lease(&pool);
    let _guest = Guest::behind(&lease);

    let address = lease.publish(&Publish { host: any_port(), port: 8080 }).unwrap();

    let client = connect(*address.ip(), address.port()).unwrap();
    assert!(!passes(&client, &client));
}

#[test]
#[ignore = "needs root"]
fn a_port_that_is_taken_is_named() {
    let scene = Scene::new();
    let pool = scene.pool(1);
    let mut lease = lease(&pool);
    let first = lease.publish(&Publish { host: any_port(), port: 80 }).unwrap();

    let error = lease.publish(&Publish { host: first, port: 80 }).unwrap_err();

    assert_eq!(error.to_string(), format!("cannot listen on {first}"));
}
