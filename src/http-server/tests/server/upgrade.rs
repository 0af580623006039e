//! Connections that are handed over.

use std::io::{Read, Write};
use std::net::Shutdown;

use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

use crate::harness::{Host, rest, until};

#[test]
fn the_owner_gets_the_head_as_it_came_and_everything_after_it() {
    let host = Host::start();
    let request = "POST /raw HTTP/1.1\r\nhost:  x\r\nX-Odd:y\r\nContent-Length: 100\r\n\r\nbo";
    let mut socket = host.connect();
    socket.write_all(request.as_bytes()).unwrap();
    until(&mut socket, "\r\n\r\nbo");

    socket.write_all(b"dy\0\xff").unwrap();
    socket.shutdown(Shutdown::Write).unwrap();

    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"dy\0\xff");
}

#[test]
fn the_head_is_given_byte_by_byte() {
    let host = Host::start();
    let request = "POST /raw?a=%20 HTTP/1.1\r\nhost:  x\r\nX-Odd:y \r\n\r\n";
    let mut socket = host.connect();
    socket.write_all(request.as_bytes()).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();

    assert_eq!(rest(&mut socket), request);
}

const HANDSHAKE: &str = "GET /socket HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn a_websocket_echoes_and_closes() {
    let host = Host::start();
    let mut socket = host.connect();
    socket.write_all(HANDSHAKE.as_bytes()).unwrap();
    let reply = until(&mut socket, "\r\n\r\n");
    let mut socket = WebSocket::from_raw_socket(socket, Role::Client, None);

    socket.send(Message::text("hello")).unwrap();
    let echo = socket.read().unwrap();
    socket.close(None).unwrap();
    let closed = socket.read().unwrap();

    assert!(reply.starts_with("HTTP/1.1 101 "));
    // The example of RFC 6455.
    assert!(reply.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    assert!(reply.contains("Sec-WebSocket-Protocol: echo\r\n"));
    assert_eq!(echo, Message::text("hello"));
    assert!(matches!(closed, Message::Close(_)));
    assert!(host.told.recv().unwrap().contains("closed"));
}

#[test]
fn a_message_that_came_with_the_handshake_is_not_lost() {
    let host = Host::start();
    let mut socket = host.connect();
    let mut bytes = HANDSHAKE.as_bytes().to_vec();
    // A masked text frame with "hi", whose mask is zero.
    bytes.extend_from_slice(b"\x81\x82\0\0\0\0hi");
    socket.write_all(&bytes).unwrap();
    until(&mut socket, "\r\n\r\n");
    let mut socket = WebSocket::from_raw_socket(socket, Role::Client, None);

    assert_eq!(socket.read().unwrap(), Message::text("hi"));
}

#[test]
fn a_message_that_is_too_large_ends_the_websocket() {
    let host = Host::start();
    let mut socket = host.connect();
    socket.write_all(HANDSHAKE.as_bytes()).unwrap();
    until(&mut socket, "\r\n\r\n");
    let mut socket = WebSocket::from_raw_socket(socket, Role::Client, None);

    socket.send(Message::text("x".repeat(2000))).unwrap();

    assert!(host.told.recv().unwrap().contains("too long"));
}

#[test]
fn an_unmasked_message_ends_the_websocket() {
    let host = Host::start();
    let mut socket = host.connect();
    socket.write_all(HANDSHAKE.as_bytes()).unwrap();
    until(&mut socket, "\r\n\r\n");

    socket.write_all(b"\x81\x02hi").unwrap();

    assert!(host.told.recv().unwrap().contains("unmasked"));
}
