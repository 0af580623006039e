//! Connections to ports in the guest, and reports of listeners.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;

use crossbeam_channel::unbounded;
use tempfile::tempdir;
use vsock_host::{Error, Reactor};
use vsock_test::{Pair, config, serve_on, soon};

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn a_port_passes_megabytes_in_both_directions_that_close_separately() {
    let pair = Pair::new();
    let (listener, port) = listener();
    let stream = pair.guest.connect(port, soon()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    let sent = vec![7; 5_000_000];
    thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(&sent).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(|| {
            (&peer).write_all(&sent).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
        });
        let there = scope.spawn(|| {
            let mut all = Vec::new();
            (&peer).read_to_end(&mut all).map(|_| all)
        });
        let mut back = Vec::new();
        (&stream).read_to_end(&mut back).unwrap();
        assert!(back == sent);
        assert!(there.join().unwrap().unwrap() == sent);
    });
}

#[test]
fn a_port_without_a_listener_is_an_error_that_names_it() {
    let pair = Pair::new();
    let (listener, port) = listener();
    drop(listener);
    let error = pair.guest.connect(port, soon()).unwrap_err();
    assert_eq!(error.to_string(), format!("the guest could not connect to its port {port}"));
    let Error::Refused { source, .. } = error else { panic!("{error}") };
    assert_eq!(source.message, format!("cannot reach port {port}: connection refused"));
}

#[test]
fn a_blocked_reader_of_a_port_does_not_block_others() {
    let pair = Pair::new();
    let (listener, port) = listener();
    let _stream = pair.guest.connect(port, soon()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    peer.set_nonblocking(true).unwrap();
    // Until no buffer on the way takes any more, or far more than they hold was written.
    let chunk = vec![0; 1 << 20];
    let written = (0..64).take_while(|_| (&peer).write(&chunk).is_ok()).count();
    assert!(written < 64);
    pair.guest.ping(soon()).unwrap();
    let other = pair.guest.connect(port, soon()).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    peer.write_all(b"x").unwrap();
    let mut byte = [0];
    (&other).read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"x");
}

/// Both ends of a TCP connection: the client's and the host's.
fn connection() -> (TcpStream, TcpStream) {
    let (listener, port) = listener();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    (client, listener.accept().unwrap().0)
}

#[test]
fn ports_with_a_listener_connect_and_others_are_reset() {
    let (reactor, folder) = (Reactor::start().unwrap(), tempdir().unwrap());
    let path = folder.path().join("link");
    let listening = reactor.listen(&path, "1a2b3c4d").unwrap();
    let serving = serve_on(UnixStream::connect(&path).unwrap(), config(), || {});
    let guest = listening.accept(soon()).unwrap();
    let ports = listening.ports();
    let (server, port) = listener();

    let (mut client, ours) = connection();
    let (ended_tx, ended) = unbounded::<()>();
    ports.connect(port, ours.into(), Box::new(ended_tx)).unwrap();
    let (mut peer, _) = server.accept().unwrap();
    peer.write_all(b"hello").unwrap();
    drop(peer);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    drop(client);
    assert!(ended.recv().is_err());

    drop(server);
    let (mut client, ours) = connection();
    ports.connect(port, ours.into(), Box::new(())).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    drop((guest, listening));
    serving.join().unwrap().unwrap();
}

#[test]
fn a_restarted_service_reports_the_watched_ports_again() {
    let (reactor, folder) = (Reactor::start().unwrap(), tempdir().unwrap());
    let path = folder.path().join("link");
    let listening = reactor.listen(&path, "1a2b3c4d").unwrap();
    let secret = Some(std::sync::Arc::new(tempfile::tempfile().unwrap()));
    let config = || vsock_guest::Config { secret: secret.clone(), ..config() };
    let dial = || serve_on(UnixStream::connect(&path).unwrap(), config(), || {});
    let (server, port) = listener();
    let (told_tx, told) = unbounded();
    let tell = move |ports: &[u16]| drop(told_tx.send(ports.to_vec()));
    listening.ports().watch(vec![port], tell).unwrap();

    let first = dial();
    let guest = listening.accept(soon()).unwrap();
    assert_eq!(told.recv_deadline(soon()).unwrap(), [port]);
    guest.close();
    first.join().unwrap().unwrap();
    drop(server);
    let second = dial();
    let guest = listening.accept(soon()).unwrap();
    assert_eq!(told.recv_deadline(soon()).unwrap(), Vec::<u16>::new());
    drop((guest, listening));
    second.join().unwrap().unwrap();
}
