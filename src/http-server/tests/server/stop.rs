//! The end of the server.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use http_server::{Endpoint, Handler, Limits, Request, Response, Server};

use crate::harness::{Host, rest, until};

const LONG: Duration = Duration::from_secs(600);

#[test]
fn idle_connections_do_not_hold_up_the_stop() {
    let mut host = Host::start();
    let mut idle = host.connect();
    idle.write_all(b"GET /reader HTTP/1.1\r\n\r\n").unwrap();
    until(&mut idle, "reader");

    host.server.stop(LONG).unwrap();

    assert_eq!(rest(&mut idle), "");
}

#[test]
fn a_stream_learns_of_the_stop() {
    let mut host = Host::start();
    let mut socket = host.connect();
    socket.write_all(b"GET /watch HTTP/1.1\r\n\r\n").unwrap();
    until(&mut socket, "begun");

    host.server.stop(LONG).unwrap();

    assert_eq!(host.told.recv().unwrap(), "gone");
    assert!(rest(&mut socket).ends_with("0\r\n\r\n"));
}

#[test]
fn requests_still_running_after_the_grace_are_cut_off() {
    let mut host = Host::start();
    let mut upgraded = host.connect();
    upgraded.write_all(b"POST /raw HTTP/1.1\r\n\r\n").unwrap();
    until(&mut upgraded, "\r\n\r\n");
    let mut slow = host.connect();
    slow.write_all(b"POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
        .unwrap();
    until(&mut slow, "\r\n\r\n");

    host.server.stop(Duration::from_millis(10)).unwrap();

    upgraded.read_to_end(&mut Vec::new()).unwrap();
    let _ = slow.read_to_end(&mut Vec::new());
}

struct PeerOnly;

impl Handler for PeerOnly {
    fn handle(&self, request: &mut Request<'_>) -> Response {
        Response::bytes(200, "text/plain", format!("{:?}", request.peer).into_bytes())
    }
}

#[test]
fn a_unix_socket_is_the_operators() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let endpoints = vec![Endpoint::Unix(listener)];
    let server =
        Server::start("test", endpoints, std::sync::Arc::new(PeerOnly), Limits::default()).unwrap();
    let mut socket = UnixStream::connect(&path).unwrap();
    socket.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();

    assert!(rest(&mut socket).ends_with("\r\n\r\nUnix"));
    drop(server);
}
