//! Published ports.

use std::any::Any;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use netns::guest::GATEWAY;
use netns::testing::Guest;
use netns::{GuestPorts, Lease, ListenerCallback};
use sandbox::{Policy, Publish};

use crate::fixture::{Fixture, connect, lease, lease_with, passes};

fn any_port() -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)
}

#[test]
#[ignore = "needs root"]
fn a_published_port_is_reached_from_the_host() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
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
fn a_guest_without_permission_still_reaches_services_of_the_host() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
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
fn a_connection_to_a_port_without_a_listener_is_reset() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let mut lease = lease(&pool);
    let _guest = Guest::behind(&lease);

    let address = lease.publish(&Publish { host: any_port(), port: 8080 }).unwrap();

    // The reset may come before `connect` looks at its socket, or after.
    let end = connect(*address.ip(), address.port()).and_then(|mut client| client.read(&mut [0]));
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// The port, the connection, and the guard of its end.
type Connection = (u16, TcpStream, Box<dyn Any + Send>);

/// Reports listeners as the test says, and keeps the connections that it gets.
#[derive(Default)]
struct Service {
    notify: Mutex<Option<ListenerCallback>>,
    connections: Mutex<Vec<Connection>>,
}

impl GuestPorts for Service {
    fn connect(&self, port: u16, connection: TcpStream, guard: Box<dyn Any + Send>) {
        self.connections.lock().unwrap().push((port, connection, guard));
    }

    fn watch(&self, _ports: Vec<u16>, notify: ListenerCallback) {
        *self.notify.lock().unwrap() = Some(notify);
    }
}

impl Service {
    /// Reports the ports with listeners.
    fn notify(&self, ports: &[u16]) {
        let notify = self.notify.lock().unwrap();
        notify.as_ref().unwrap()(ports);
    }
}

#[test]
#[ignore = "needs root"]
fn a_port_refuses_connections_while_nothing_in_the_guest_listens() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let mut lease = lease(&pool);
    let guest = Guest::behind(&lease);
    let service = Arc::new(Service::default());
    let address = lease.publish(&Publish { host: any_port(), port: 8080 }).unwrap();
    lease.reach(service.clone());
    // The forwarder handles requests in order: when this one is done, so are all earlier ones.
    let settle = |lease: &mut Lease| drop(lease.publish(&Publish { host: any_port(), port: 1 }));
    settle(&mut lease);
    let error = connect(*address.ip(), address.port()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(TcpListener::bind(address).is_err());

    let server = guest.run(|| TcpListener::bind(("0.0.0.0", 8080)).unwrap());
    service.notify(&[8080]);
    settle(&mut lease);
    let client = connect(*address.ip(), address.port()).unwrap();
    let (peer, _) = server.accept().unwrap();
    assert!(passes(&client, &peer));

    service.notify(&[]);
    settle(&mut lease);
    assert!(connect(*address.ip(), address.port()).is_err());
    assert!(passes(&client, &peer));
}

#[test]
#[ignore = "needs root"]
fn a_connection_that_the_network_refuses_is_handed_to_the_guest_ports() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let mut lease = lease(&pool);
    let _guest = Guest::behind(&lease);
    let service = Arc::new(Service::default());
    let address = lease.publish(&Publish { host: any_port(), port: 8080 }).unwrap();
    lease.reach(service.clone());
    service.notify(&[8080]);
    drop(lease.publish(&Publish { host: any_port(), port: 1 }));
    service.notify(&[8080]);
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
fn publishing_a_taken_port_is_an_error_with_its_address() {
    let fixture = Fixture::new();
    let pool = fixture.pool(1);
    let mut lease = lease(&pool);
    let first = lease.publish(&Publish { host: any_port(), port: 80 }).unwrap();

    let error = lease.publish(&Publish { host: first, port: 80 }).unwrap_err();

    assert_eq!(error.to_string(), format!("cannot listen on {first}"));
}
