//! Clients that are slow, broken or hostile.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::json;

use crate::harness::{Host, Reply, refusal};

#[test]
fn data_that_is_not_http_is_rejected() {
    let host = Host::start();

    assert_eq!(host.exchange(b"\x16\x03\x01 hello\r\n\r\n").refused(), refusal(400, "BAD_REQUEST"));
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let host = Host::start();
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(20_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(100));

    assert_eq!(host.exchange(long.as_bytes()).refused(), refusal(431, "HEAD_TOO_LARGE"));
    assert_eq!(host.exchange(many.as_bytes()).refused(), refusal(431, "HEAD_TOO_LARGE"));
}

#[test]
fn bodies_that_are_too_large_are_refused_before_they_are_sent() {
    let host = Host::start();
    let guest = host.running();
    let token = &guest.token;
    let announce = |path: &str, length: u64| {
        let head = format!(
            "POST /api/webhooks/agent/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        host.exchange(head.as_bytes()).refused()
    };

    assert_eq!(announce("events", 9 << 20), refusal(413, "TOO_LARGE"));
    assert_eq!(announce("complete", 2 << 20), refusal(413, "TOO_LARGE"));
    assert_eq!(announce("firewall/auth", 300 << 10), refusal(413, "TOO_LARGE"));
    assert_eq!(announce("heartbeat", u64::MAX), refusal(413, "TOO_LARGE"));
}

#[test]
fn bodies_without_an_announced_length_are_refused() {
    let host = Host::start();
    let post = |coding: &str| {
        let head = "POST /api/runners/poll HTTP/1.1\r\nConnection: close\r\n";
        let request = format!("{head}Transfer-Encoding: {coding}\r\n\r\n0\r\n\r\n");
        host.exchange(request.as_bytes()).refused()
    };
    let put = host.exchange(b"PUT /uploads/archive/a/b HTTP/1.1\r\nConnection: close\r\n\r\n");

    assert_eq!(post("chunked"), refusal(411, "LENGTH_REQUIRED"));
    assert_eq!(post("gzip"), refusal(411, "LENGTH_REQUIRED"));
    assert_eq!(put.refused(), refusal(411, "LENGTH_REQUIRED"));
}

#[test]
fn an_incomplete_head_times_out() {
    let host = Host::with(|config| config.request_timeout = Duration::from_millis(50));

    assert_eq!(host.exchange(b"POST /api/runners/poll HT").refused(), refusal(503, "TOO_SLOW"));
}

#[test]
fn an_incomplete_body_times_out_with_a_retriable_status() {
    let host = Host::with(|config| config.request_timeout = Duration::from_millis(50));
    let token = host.running().token;
    let request = format!(
        "POST /api/webhooks/agent/complete HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: 100\r\n\r\n{{"
    );

    assert_eq!(host.exchange(request.as_bytes()).refused(), refusal(503, "TOO_SLOW"));
}

#[test]
fn the_body_of_an_unauthenticated_request_is_not_awaited() {
    let host = Host::with(|config| config.request_timeout = Duration::from_secs(5));
    let announce = |path: &str| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer guess\r\n\
             Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n"
        );
        host.exchange(head.as_bytes()).refused()
    };

    // Neither is told to go on, and the connection ends.
    assert_eq!(announce("/api/webhooks/agent/events"), refusal(401, "UNAUTHORIZED"));
    assert_eq!(announce("/api/runners/poll"), refusal(401, "UNAUTHORIZED"));
}

#[test]
fn announced_bodies_that_do_not_arrive_take_no_memory() {
    let host = Host::start();
    let (guest, other) = (host.running(), host.running());
    let announced: Vec<_> = [&guest.token; 8]
        .map(|token| {
            let mut socket = TcpStream::connect(host.address()).unwrap();
            write!(
                socket,
                "POST /api/webhooks/agent/storages/prepare HTTP/1.1\r\nHost: x\r\n\
                 Authorization: Bearer {token}\r\nExpect: 100-continue\r\n\
                 Content-Length: 33554432\r\n\r\n"
            )
            .unwrap();
            // From here on the body is awaited.
            socket.read_exact(&mut [0; 25]).unwrap();
            socket
        })
        .into();
    let large = "x".repeat(1 << 20);
    let event = json!({"events": [{"type": "x", "sequenceNumber": 0, "text": large}]});

    other.post("events", event).ok();
    let run = host.submit("claimed by a runner");
    host.claim(run);

    drop(announced);
}

#[test]
fn a_guest_cannot_use_the_memory_of_others() {
    let host = Host::start();
    let (guest, other) = (host.running(), host.running());
    let piece = vec![b' '; 8 << 20];
    let filling: Vec<_> = [&guest.token; 4]
        .map(|token| {
            let mut socket = TcpStream::connect(host.address()).unwrap();
            write!(
                socket,
                "POST /api/webhooks/agent/storages/prepare HTTP/1.1\r\nHost: x\r\n\
                 Authorization: Bearer {token}\r\nContent-Length: 33554432\r\n\r\n"
            )
            .unwrap();
            // Who is over its share is not heard to the end.
            let _ = socket.write_all(&piece);
            socket
        })
        .into();
    let large = "x".repeat(7 << 20);
    let event = json!({"events": [{"type": "x", "sequenceNumber": 0, "text": large}]});

    other.post("events", event).ok();
    // What is small is not counted.
    guest.events(&[0]).ok();

    drop(filling);
}

#[test]
fn a_truncated_body_leaves_nothing_and_can_be_sent_again() {
    let host = Host::start();
    let guest = host.running();
    let announcement = json!({"hash": "ab".repeat(32), "rawSize": 1000, "encodedSize": 1000,
        "encoding": "identity"});
    let prepared = guest.post("checkpoints/prepare-history", announcement).ok();
    let url = prepared["presignedUrl"].as_str().unwrap();
    let target = &url[url.find("/uploads").unwrap()..];
    let mut socket = TcpStream::connect(host.address()).unwrap();
    write!(socket, "PUT {target} HTTP/1.1\r\nContent-Length: 1000\r\n\r\nabc").unwrap();
    socket.shutdown(Shutdown::Write).unwrap();

    assert_eq!(Reply::read(&mut socket).refused(), refusal(503, "CUT_SHORT"));
    let partial = host.state().join("control/partial");
    assert_eq!(std::fs::read_dir(partial).unwrap().count(), 0);
}

#[test]
fn malformed_or_deeply_nested_json_is_rejected() {
    let host = Host::start();
    let guest = host.running();
    let send = |body: &[u8]| {
        let headers = format!("Authorization: Bearer {}\r\n", guest.token);
        host.send("POST", "/api/webhooks/agent/telemetry", &headers, body).refused()
    };

    assert_eq!(send(b"{"), refusal(400, "BAD_REQUEST"));
    assert_eq!(send(b"\xff\xfe"), refusal(400, "BAD_REQUEST"));
    assert_eq!(send("[".repeat(100_000).as_bytes()), refusal(400, "BAD_REQUEST"));
    assert_eq!(send(b"{\"runId\":\"../../key\"}"), refusal(400, "BAD_REQUEST"));
}

#[test]
fn a_connection_serves_several_requests_also_pipelined_ones() {
    let host = Host::start();
    let token = host.platform().runner_token();
    let request = format!(
        "POST /api/runners/realtime/token HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: 2\r\n\r\n{{}}"
    );
    let last = "GET /nothing HTTP/1.1\r\nConnection: close\r\n\r\n";

    let replies = host.exchange(format!("{request}{request}{last}").as_bytes());

    let text = format!("{}{}", replies.head, String::from_utf8_lossy(&replies.body));
    assert_eq!(text.matches("HTTP/1.1 403 Forbidden").count(), 2);
    assert_eq!(text.matches("HTTP/1.1 404 Not Found").count(), 1);
}

#[test]
fn expect_100_continue_is_answered() {
    let host = Host::start();
    let token = host.running().token;
    let mut socket = TcpStream::connect(host.address()).unwrap();
    let head = format!(
        "POST /api/webhooks/agent/heartbeat HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\
         Expect: 100-continue\r\nConnection: close\r\nContent-Length: 2\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).unwrap();
    let mut told = [0; 25];
    socket.read_exact(&mut told).unwrap();
    socket.write_all(b"{}").unwrap();

    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(Reply::read(&mut socket).status, 400);
}

#[test]
fn expect_100_continue_is_not_answered_for_a_rejected_request() {
    let host = Host::start();
    let request = b"PUT /uploads/archive/a/b?owner=x HTTP/1.1\r\nExpect: 100-continue\r\n\
                    Content-Length: 1000000\r\n\r\n";

    assert_eq!(host.exchange(request).refused(), refusal(403, "BAD_SIGNATURE"));
}

#[test]
fn all_addresses_are_served() {
    let host = Host::with(|config| config.listen.push("127.0.0.2:0".parse().unwrap()));
    let second = host.platform().addresses()[1];
    let mut socket = TcpStream::connect(second).unwrap();
    socket.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();

    assert_eq!(Reply::read(&mut socket).refused(), refusal(404, "NO_ROUTE"));
    assert_eq!(host.send("GET", "/", "", b"").refused(), refusal(404, "NO_ROUTE"));
}

#[test]
fn unknown_paths_and_methods_are_refused() {
    let host = Host::start();

    assert_eq!(host.send("GET", "/", "", b"").refused(), refusal(404, "NO_ROUTE"));
    assert_eq!(host.send("GET", "/v1/jobs", "", b"").refused(), refusal(401, "UNAUTHORIZED"));
    let get = host.send("GET", "/api/webhooks/agent/events", "", b"");
    assert_eq!(get.refused(), refusal(405, "METHOD_NOT_ALLOWED"));
}

#[test]
fn an_idle_connection_does_not_delay_the_stop() {
    let mut host = Host::with(|config| config.stop_grace = Duration::from_secs(600));
    let mut idle = TcpStream::connect(host.address()).unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).unwrap();

    host.stop();

    assert_eq!(&first, b"HTTP/1.1 404");
    idle.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn a_long_poll_does_not_delay_the_stop() {
    let mut host = Host::with(|config| config.stop_grace = Duration::from_secs(600));
    let token = host.platform().runner_token().to_owned();
    let body = r#"{"runnerId":"11111111-2222-4333-8444-555555555555","group":"a/b","supportedProfiles":["x"]}"#;
    let mut held = TcpStream::connect(host.address()).unwrap();
    let length = body.len();
    write!(
        held,
        "POST /api/runners/poll HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    )
    .unwrap();
    // From here on the request is under way.
    held.read_exact(&mut [0; 25]).unwrap();
    held.write_all(body.as_bytes()).unwrap();

    host.stop();

    assert_eq!(Reply::read(&mut held).refused(), refusal(503, "STOPPED"));
}

#[test]
fn a_stalled_upload_is_closed_at_the_stop() {
    let mut host = Host::with(|config| config.stop_grace = Duration::from_millis(20));
    let token = host.running().token;
    let mut hanging = TcpStream::connect(host.address()).unwrap();
    write!(
        hanging,
        "POST /api/webhooks/agent/events HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\
         Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n"
    )
    .unwrap();
    hanging.read_exact(&mut [0; 25]).unwrap();

    host.stop();

    let _ = hanging.read_to_end(&mut Vec::new());
}
