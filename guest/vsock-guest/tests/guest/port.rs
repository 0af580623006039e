//! Connections to TCP ports in the guest.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};

use vsock_proto::{Connect, HostBody, Stream, WatchPorts};

use crate::host::{Answer, Host};

/// A listener, and its port.
fn listener(address: &str) -> (TcpListener, u16) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn a_connection_goes_both_ways_and_ends_way_by_way() {
    let (listener, port) = listener("127.0.0.1");
    let mut host = Host::connected();
    let id = host.request(HostBody::Connect(Connect { port }));
    assert_eq!(host.answer_to(id), Answer::Connected);
    let (mut peer, _) = listener.accept().unwrap();
    host.send(id, HostBody::Data(b"question"));
    host.send(id, HostBody::End);
    let mut text = String::new();
    peer.read_to_string(&mut text).unwrap();
    assert_eq!(text, "question");
    peer.write_all(b"answer").unwrap();
    assert_eq!(host.answer_to(id), Answer::Data(Stream::Stdout, b"answer".to_vec()));
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(host.answer_to(id), Answer::End);
    assert_eq!(host.answer_to(id), Answer::Done);
}

#[test]
fn a_port_of_another_address_alone_is_reached() {
    let (_listener, port) = listener("127.0.0.2");
    let mut host = Host::connected();
    let id = host.request(HostBody::Connect(Connect { port }));
    assert_eq!(host.answer_to(id), Answer::Connected);
}

#[test]
fn a_port_where_nothing_listens_fails() {
    let (listener, port) = listener("127.0.0.1");
    drop(listener);
    let mut host = Host::connected();
    let id = host.request(HostBody::Connect(Connect { port }));
    let Answer::Failed(failure) = host.answer_to(id) else { panic!("it is open") };
    assert_eq!(failure.message, format!("cannot reach port {port}: connection refused"));
}

#[test]
fn a_cancelled_connection_is_reset() {
    let (listener, port) = listener("127.0.0.1");
    let mut host = Host::connected();
    let id = host.request(HostBody::Connect(Connect { port }));
    assert_eq!(host.answer_to(id), Answer::Connected);
    let (mut peer, _) = listener.accept().unwrap();
    host.send(id, HostBody::Cancel);
    assert!(matches!(host.answer_to(id), Answer::Failed(_)));
    let error = peer.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn the_host_is_told_when_a_port_gets_a_listener_and_loses_it() {
    let (listener, port) = listener("127.0.0.1");
    drop(listener);
    let mut host = Host::connected();
    let id = host.request(HostBody::WatchPorts(WatchPorts { ports: vec![port] }));
    assert_eq!(host.answer_to(id), Answer::Listening(vec![]));
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    assert_eq!(host.answer_to(id), Answer::Listening(vec![port]));
    drop(listener);
    assert_eq!(host.answer_to(id), Answer::Listening(vec![]));
    host.send(id, HostBody::Cancel);
    assert_eq!(host.answer_to(id), Answer::Done);
}
