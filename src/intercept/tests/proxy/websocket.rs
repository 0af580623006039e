//! WebSockets: decided about as requests, with a limit for messages.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use netns::testing::INTERNET;
use serde_json::json;

use crate::fixture::{API, Client, Fixture, only_api};

/// A message length beyond the limit.
const TOO_LONG: usize = (16 << 20) + 1;

/// Accepts one WebSocket, and runs `with` on it.
fn serve<T: Send + 'static>(
    fixture: &Fixture,
    with: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> JoinHandle<T> {
    let listener = fixture.world.on_the_internet(|| TcpListener::bind((INTERNET, 80)).unwrap());
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let accept = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        stream.write_all(accept.as_bytes()).unwrap();
        with(stream)
    };
    std::thread::Builder::new().spawn(serve).unwrap()
}

/// A guest that may open a WebSocket at `/things/…`.
fn client(fixture: &Fixture) -> Client {
    fixture.client(only_api(json!({
        "name": "example",
        "policy": {"allow": ["read"], "unknownPolicy": "ask"},
        "apis": [{
            "base": format!("http://{API}"),
            "permissions": [
                {"name": "read", "rules": ["GET /things/{id}"]},
                {"name": "write", "rules": ["ANY /{all*}"]},
            ],
        }],
    })))
}

/// Requests a WebSocket; returns the beginning of the response.
fn ask(client: &Client, path: &str) -> (TcpStream, [u8; 12]) {
    let mut stream = client.guest.run(|| TcpStream::connect((INTERNET, 80)).unwrap());
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {API}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut begin = [0; 12];
    stream.read_exact(&mut begin).unwrap();
    (stream, begin)
}

/// Receives five bytes and sends five.
fn echo(mut stream: TcpStream) -> String {
    let mut frame = [0; 11];
    stream.read_exact(&mut frame).unwrap();
    stream.write_all(b"\x81\x05hello").unwrap();
    // Until the client closes.
    let _ = stream.read_to_end(&mut Vec::new());
    (0..5).map(|at| char::from(frame[6 + at] ^ frame[2 + at % 4])).collect()
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_websocket_is_a_request_with_a_count_of_its_bytes() {
    let fixture = Fixture::new();
    let server = serve(&fixture, echo);
    let client = client(&fixture);

    let (_, refused) = ask(&client, "/other");
    let (mut stream, taken) = ask(&client, "/things/1");
    stream.write_all(b"\x81\x85\0\0\0\0ping!").unwrap();
    let mut received = Vec::new();
    while !received.ends_with(b"hello") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        received.extend(byte);
    }
    drop(stream);

    assert_eq!((&refused, &taken), (b"HTTP/1.1 403", b"HTTP/1.1 101"));
    assert_eq!(server.join().unwrap(), "ping!");
    let record = client.end();
    assert_eq!((record[0].status, record[1].status), (Some(403), Some(101)));
    assert_eq!((record[1].request_size, record[1].response_size), (Some(5), Some(5)));
}

/// Everything received until the connection ends, even within a frame.
fn rest(mut stream: &TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut received = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        received.extend_from_slice(&chunk[..count]);
    }
    received
}

/// A frame of 64 KiB of zeros. A client's frame is masked, with a zero key.
fn fragment(is_first: bool, is_masked: bool) -> Vec<u8> {
    let mask = if is_masked { 0x80 } else { 0 };
    let mut frame = vec![if is_first { 2 } else { 0 }, mask | 127, 0, 0, 0, 0, 0, 1, 0, 0];
    frame.resize(frame.len() + (if is_masked { 4 } else { 0 }) + (64 << 10), 0);
    frame
}

fn say_too_much(mut stream: &TcpStream, is_masked: bool) {
    for said in 0..=(TOO_LONG >> 16) {
        // The proxy closes the connection meanwhile.
        if stream.write_all(&fragment(said == 0, is_masked)).is_err() {
            return;
        }
    }
}

/// Whether the received bytes contain the close code "message too big".
fn has_close_code(received: &[u8]) -> bool {
    let code = 1009_u16.to_be_bytes();
    received.windows(2).any(|two| two == code)
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_message_of_a_guest_that_is_too_long_closes_the_websocket() {
    let fixture = Fixture::new();
    let server = serve(&fixture, |stream| rest(&stream));
    let client = client(&fixture);

    let (stream, _) = ask(&client, "/things/1");
    say_too_much(&stream, true);
    rest(&stream);

    let received = server.join().unwrap();
    // Only a close frame, whose code and text are masked.
    assert!(received.len() < 200 && received.first() == Some(&0x88), "{}", received.len());
    let record = client.end();
    let error = record[0].error.as_deref().unwrap();
    assert_eq!(error, "closed: a message of the WebSocket is too long");
}

#[test]
#[ignore = "needs root and mitmproxy"]
fn a_message_of_a_server_that_is_too_long_closes_the_websocket() {
    let fixture = Fixture::new();
    let server = serve(&fixture, |stream| {
        say_too_much(&stream, false);
        rest(&stream);
    });
    let client = client(&fixture);

    let (stream, _) = ask(&client, "/things/1");
    let received = rest(&stream);
    drop(stream);
    server.join().unwrap();

    assert!(received.len() < 1000 && has_close_code(&received), "{}", received.len());
    let record = client.end();
    let error = record[0].error.as_deref().unwrap();
    assert_eq!(error, "closed: a message of the WebSocket is too long");
}
