//! Clients that are slow, broken or hostile.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use http_server::Limits;

use crate::harness::{Host, body, rest, status, until};

fn code(reply: &str) -> &str {
    let body = body(reply);
    body.split("\"code\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or(body)
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let host = Host::start();
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(20_000));
    let endless = "GET / HTTP/1.1\r\nX: ".to_owned() + &"a".repeat(1 << 20);
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(100));
    let target = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(20_000));

    for request in [long, endless, many, target] {
        assert_eq!(status(&host.exchange(request)), 431);
    }
}

#[test]
fn a_request_whose_end_is_ambiguous_is_refused_and_nothing_after_it_is_answered() {
    let host = Host::start();
    let framings = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 0",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5, 5",
        "Content-Length: 0x5",
        "Content-Length: -5",
        "Content-Length: 5\r\n Transfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "Content-Length\0: 5",
    ];

    for framing in framings {
        let smuggled = "0\r\n\r\nGET /method HTTP/1.1\r\n\r\n";
        let request = format!("POST /echo HTTP/1.1\r\n{framing}\r\n\r\n{smuggled}");
        let reply = host.exchange(request);
        assert!(matches!(status(&reply), 400 | 501), "{framing:?}: {reply}");
        assert_eq!(reply.matches("HTTP/1.1").count(), 1, "{framing:?}: {reply}");
    }
}

#[test]
fn a_chunked_body_that_is_malformed_is_refused_and_nothing_after_it_is_answered() {
    let host = Host::start();
    let bodies = [
        "x\r\n",
        "-1\r\na\r\n0\r\n\r\n",
        "0x1\r\na\r\n0\r\n\r\n",
        " 1\r\na\r\n0\r\n\r\n",
        "1\na\n0\n\n",
        "1\r\nab\r\n0\r\n\r\n",
        "fffffffffffffffff\r\na\r\n0\r\n\r\n",
        "1;\n\r\na\r\n0\r\n\r\n",
        "0\r\nGET /method HTTP/1.1\r\n\r\n",
    ];

    for body in bodies {
        for path in ["/echo", "/method"] {
            let smuggled = "GET /method HTTP/1.1\r\n\r\n";
            let request = format!(
                "POST {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}{smuggled}"
            );
            let reply = host.exchange(request);
            assert_eq!(reply.matches("HTTP/1.1 ").count(), 1, "{path} {body:?}: {reply}");
            assert!(path == "/method" || status(&reply) == 400, "{body:?}: {reply}");
        }
    }
}

#[test]
fn data_that_is_not_http_is_refused() {
    let host = Host::start();

    for bytes in [
        &b"\x16\x03\x01 hello\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://x/ HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: \xff\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(status(&host.exchange(bytes)), 400, "{}", bytes.escape_ascii());
    }
}

#[test]
fn bodies_over_the_limit_are_refused() {
    let host = Host::start();
    let announced = "POST /echo HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n";
    let chunk = format!("100000\r\n{}\r\n", "a".repeat(1 << 20));
    let chunked = format!(
        "POST /echo HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
         {chunk}1\r\na\r\n0\r\n\r\n"
    );
    let huge = "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n\
                and nothing more";

    assert_eq!(status(&host.exchange(announced)), 413);
    assert_eq!(status(&host.exchange(chunked)), 413);
    let mut socket = host.connect();
    socket.write_all(huge.as_bytes()).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(code(&rest(&mut socket)), "CUT_SHORT");
}

#[test]
fn a_client_that_fills_its_share_of_the_memory_is_refused() {
    let host = Host::with(Limits { memory: 400_000, ..Limits::default() });
    let ask = |length: usize| {
        let body = "a".repeat(length);
        let head = "POST /account HTTP/1.1\r\nConnection: close\r\n";
        status(&host.exchange(format!("{head}Content-Length: {length}\r\n\r\n{body}")))
    };
    let chunked = |length: usize| {
        let body = "a".repeat(length);
        let head = "POST /account HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n";
        status(&host.exchange(format!("{head}\r\n{length:x}\r\n{body}\r\n0\r\n\r\n")))
    };

    assert_eq!((ask(60_000), ask(100_000), ask(200_000)), (200, 200, 503));
    assert_eq!((chunked(60_000), chunked(100_000), chunked(200_000)), (200, 200, 503));
}

#[test]
fn an_incomplete_head_times_out() {
    let host = Host::hasty();

    for start in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nX: y\r\n"] {
        assert_eq!(code(&host.exchange(start)), "TOO_SLOW");
    }
}

#[test]
fn a_head_sent_byte_by_byte_times_out() {
    let host = Host::hasty();
    let mut socket = host.connect();
    let mut reply = socket.try_clone().unwrap();
    let sender = base::thread::spawn("sender", move || {
        // The time-out of the peer's head is all that ends this.
        while socket.write_all(b"\r\n").is_ok() {}
    })
    .unwrap();

    assert!(matches!(code(&rest(&mut reply)), "TOO_SLOW" | "HEAD_TOO_LARGE"));
    reply.shutdown(Shutdown::Both).unwrap();
    sender.join().unwrap();
}

#[test]
fn an_incomplete_body_times_out() {
    let host = Host::hasty();
    let starts = [
        "Content-Length: 3\r\n\r\na",
        "Transfer-Encoding: chunked\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n1",
        "Transfer-Encoding: chunked\r\n\r\n1\r\n",
        "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
        "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
        "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n",
    ];

    for path in ["/echo", "/progress"] {
        for start in starts {
            let reply = host.exchange(format!("POST {path} HTTP/1.1\r\n{start}"));
            assert_eq!(code(&reply), "TOO_SLOW", "{path} {start:?}");
        }
    }
}

#[test]
fn a_body_sent_byte_by_byte_times_out_also_in_an_upload() {
    let host = Host::hasty();

    for path in ["/echo", "/progress"] {
        let mut socket = host.connect();
        write!(socket, "POST {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        let mut reply = socket.try_clone().unwrap();
        // A byte for each millisecond without a reply: too few to be progress.
        reply.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let mut first = [0];
        while reply.read(&mut first).is_err() {
            if socket.write_all(b"1\r\na\r\n").is_err() {
                break;
            }
        }
        reply.set_read_timeout(None).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let reply = String::from_utf8_lossy(&first).into_owned() + &rest(&mut reply);
        assert_eq!(code(&reply), "TOO_SLOW", "{path}");
    }
}

#[test]
fn a_body_whose_handler_is_interrupted_is_not_awaited() {
    let host = Host::start();

    for framing in ["Content-Length: 9\r\n\r\nab", "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"]
    {
        let reply = host.exchange(format!("POST /interrupted HTTP/1.1\r\n{framing}"));
        assert_eq!(code(&reply), "INTERRUPTED", "{framing:?}");
    }
}

#[test]
fn an_upload_that_makes_progress_takes_longer_than_its_time_out() {
    let host = Host::hasty();
    let mut socket = host.connect();
    let piece = vec![b'a'; 20_000];
    write!(socket, "PUT /progress HTTP/1.1\r\nConnection: close\r\n").unwrap();
    write!(socket, "Content-Length: {}\r\n\r\n", piece.len() * 20).unwrap();

    for _ in 0..20 {
        socket.write_all(&piece).unwrap();
    }

    assert_eq!(status(&rest(&mut socket)), 200);
}

#[test]
fn clients_that_vanish_in_any_phase_leave_the_server_working() {
    let host = Host::start();
    let whole = "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
                 3\r\nabc\r\n0\r\nX: y\r\n\r\nGET /stream HTTP/1.1\r\n\r\n";

    for end in 0..=whole.len() {
        let mut socket = host.connect();
        socket.write_all(&whole.as_bytes()[..end]).unwrap();
    }

    assert_eq!(status(&host.exchange("GET /none HTTP/1.0\r\n\r\n")), 204);
}

#[test]
fn a_handler_that_panics_takes_its_connection_alone() {
    let host = Host::start();

    assert_eq!(host.exchange("GET /panic HTTP/1.1\r\n\r\n"), "");
    assert_eq!(status(&host.exchange("GET /none HTTP/1.0\r\n\r\n")), 204);
}

#[test]
fn connections_over_the_limit_are_refused_and_the_others_served() {
    let host = Host::with(Limits { connections: 200, ..Limits::default() });
    let mut open: Vec<TcpStream> = (0..200).map(|_| host.connect()).collect();
    for socket in &mut open {
        socket.write_all(b"GET /watch HTTP/1.1\r\n\r\n").unwrap();
    }
    for socket in &mut open {
        until(socket, "begun");
    }

    let refused = rest(&mut host.connect());

    assert_eq!((status(&refused), code(&refused)), (503, "BUSY"));
    assert!(refused.contains("Retry-After: 1\r\n"));
    drop(open);
    (0..200).for_each(|_| assert_eq!(host.told.recv().unwrap(), "gone"));
}

#[test]
fn two_hundred_connections_at_once_are_served() {
    let host = Host::start();
    let mut open: Vec<TcpStream> = (0..200).map(|_| host.connect()).collect();
    let body = "x".repeat(50_000);
    let request = format!(
        "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
         c350\r\n{body}\r\n0\r\n\r\n"
    );

    for socket in &mut open {
        socket.write_all(request.as_bytes()).unwrap();
    }

    for socket in &mut open {
        assert!(rest(socket).ends_with(&body));
    }
}
