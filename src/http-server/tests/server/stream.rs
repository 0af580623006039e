//! Replies that are written bit by bit.

use std::io::{Read, Write};
use std::net::Shutdown;

use crate::harness::{Host, body, until};

#[test]
fn each_write_is_a_chunk_and_the_connection_is_used_again() {
    let host = Host::start();
    let request = "GET /stream HTTP/1.1\r\n\r\n";
    let last = "GET /reader HTTP/1.1\r\nConnection: close\r\n\r\n";

    let replies = host.exchange(format!("{request}{request}{last}"));

    assert_eq!(replies.matches("Transfer-Encoding: chunked\r\n").count(), 2);
    assert_eq!(replies.matches("\r\n\r\n3\r\none\r\n5\r\nthree\r\n0\r\n\r\n").count(), 2);
    assert!(replies.ends_with("reader"));
}

#[test]
fn a_stream_to_an_old_client_ends_with_the_connection() {
    let reply = Host::start().exchange("GET /stream HTTP/1.0\r\n\r\n");

    assert!(reply.contains("Connection: close\r\n"));
    assert!(!reply.contains("Transfer-Encoding"));
    assert_eq!(body(&reply), "onethree");
}

#[test]
fn a_stream_that_fails_has_no_last_chunk() {
    let reply = Host::start().exchange("GET /fails HTTP/1.1\r\n\r\n");

    assert_eq!(body(&reply), "3\r\none\r\n");
}

#[test]
fn a_stream_that_fails_resets_the_connection_so_that_old_clients_see_it_too() {
    let host = Host::start();
    for version in ["1.0", "1.1"] {
        let mut socket = host.connect();
        socket.write_all(format!("GET /fails HTTP/{version}\r\n\r\n").as_bytes()).unwrap();
        let error = socket.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_silent_stream_learns_that_its_client_has_gone() {
    let host = Host::start();
    let mut socket = host.connect();
    // What the client has sent beyond its request does not hide its end.
    socket.write_all(b"GET /watch HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n").unwrap();
    until(&mut socket, "begun");

    drop(socket);

    assert_eq!(host.told.recv().unwrap(), "gone");
}

#[test]
fn a_client_that_only_sends_nothing_more_keeps_its_stream() {
    let host = Host::start();
    let mut socket = host.connect();
    socket.write_all(b"GET /watch HTTP/1.1\r\n\r\n").unwrap();
    until(&mut socket, "begun");

    socket.shutdown(Shutdown::Write).unwrap();

    until(&mut socket, "there?");
    drop(socket);
    assert_eq!(host.told.recv().unwrap(), "gone");
}

#[test]
fn a_reply_says_when_it_was_made() {
    let host = Host::start();
    let date = |reply: &str| {
        let line = reply.lines().find(|line| line.starts_with("Date: ")).expect(reply);
        assert_eq!((line.len(), &line[line.len() - 4..]), (35, " GMT"), "{line}");
    };

    date(&host.exchange("GET /none HTTP/1.0\r\n\r\n"));
    date(&host.exchange("nonsense\r\n\r\n"));
}

#[test]
fn a_write_to_a_client_that_has_gone_fails() {
    let host = Host::start();
    let mut socket = host.connect();
    socket.write_all(b"GET /flood HTTP/1.1\r\n\r\n").unwrap();
    socket.read_exact(&mut [0; 100_000]).unwrap();

    drop(socket);

    assert_eq!(host.told.recv().unwrap(), "failed");
}
