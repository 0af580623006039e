//! Published ports.

use std::any::Any;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use netns::guest::GATEWAY;
use netns::testing::Guest;
use netns::{GuestPorts, Lease};
use sandbox::{Policy, Publish};

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

    lease.serve(&sandbox::Service { port: 8700, host }).unwrap();

    let client = guest.run(|| connect(GATEWAY, 8700)).unwrap();
    let (peer, _) = server.accept().unwrap();
    assert!(passes(&client, &peer) && passes(&peer, &client));
    assert!(guest.run(|| connect(GATEWAY, 8701)).is_err());
}

#[test]
#[ignore = "needs root"]
fn a_connection_to_a_port_where_nothing_listens_is_reset() {
    let scene = Scene::new();
    let pool = scene.pool(1);
    let mut lease = lease(&pool);
    let _guest = Guest::behind(&lease);

    let address = lease.publish(&Publish { host: any_port(), port: 8080 }).unwrap();

    let mut client = connect(*address.ip(), address.port()).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// A guest that says what listens, and keeps what is connected its own way.
#[derive(Default)]
struct Service {
    tell: Mutex<Option<Box<dyn Fn(&[u16]) + Send>>>,
    connections: Mutex<Vec<(u16, TcpStream, Box<dyn Any + Send>)>>,
}

impl GuestPorts for Service {
    fn connect(&self, port: u16, connection: TcpStream, kept: Box<dyn Any + Send>) {
        self.connections.lock().unwrap().push((port, connection, kept));
    }

    fn watch(&self, _ports: Vec<u16>, tell: Box<dyn Fn(&[u16]) + Send>) {
        *self.tell.lock().unwrap() = Some(tell);
    }
}

impl Service {
    /// Says which ports are listened to.
    fn tell(&self, ports: &[u16]) {
        let tell = self.tell.lock().unwrap();
        tell.as_ref().unwrap()(ports);
    }
}

#[test]
#[ignore = "needs root"]
fn a_port_refuses_connections_until_something_in_the_guest_listens_and_after_that() {
    let scene = Scene::new();
    let pool = scene.pool(1);
    let mut lease = lease(&pool);
    let guest = Guest::behind(&lease);
    let service = Arc::new(Service::default());
    let address = lease.publish(&Publish { host: any_port(), port: 8080 }).unwrap();
    lease.reach(service.clone());
    // What the relay is asked is done in its order: this ends after what came before.
    let settle = |lease: &mut Lease| drop(lease.publish(&Publish { host: any_port(), port: 1 }));
    settle(&mut lease);
    let error = connect(*address.ip(), address.port()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(TcpListener::bind(address).is_err());

    let server = guest.run(|| TcpListener::bind(("0.0.0.0", 8080)).unwrap());
    service.tell(&[8080]);
    settle(&mut lease);
    let client = connect(*address.ip(), address.port()).unwrap();
    let (peer, _) = server.accept().unwrap();
    assert!(passes(&client, &peer));

    service.tell(&[]);
    settle(&mut lease);
    assert!(connect(*address.ip(), address.port()).is_err());
    assert!(passes(&client, &peer));
}

#[test]
#[ignore = "needs root"]
fn what_the_network_does_not_reach_goes_by_the_guests_own_way() {
    let scene = Scene::new();
    let pool = scene.pool(1);
    let mut lease = lease(&pool);
    let _guest = Guest::behind(&lease);
    let service = Arc::new(Service::default());
    let address = lease.publish(&Publish { host: any_port(), port: 8080 }).unwrap();
    lease.reach(service.clone());
    service.tell(&[8080]);
    drop(lease.publish(&Publish { host: any_port(), port: 1 }));
    service.tell(&[8080]);
    drop(lease.publish(&Publish { host: any_port(), port: 2 }));

    let mut client = connect(*address.ip(), address.port()).unwrap();
    client.write_all(b"x").unwrap();
    let taken = || service.connections.lock().unwrap().pop();
    let (port, mut connection, _kept) = std::iter::repeat_with(taken).flatten().next().unwrap();
    assert_eq!(port, 8080);
    let mut byte = [0];
    connection.set_nonblocking(false).unwrap();
    connection.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
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
