//! Requests and replies as they should be.

use std::io::Write;

use crate::harness::{Host, body, status, until};

#[test]
fn all_methods_are_known() {
    let host = Host::start();
    let ask = |method: &str| {
        let request = format!("{method} /method HTTP/1.1\r\nConnection: close\r\n\r\n");
        body(&host.exchange(request)).to_owned()
    };

    for method in ["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"] {
        assert_eq!(ask(method), method);
    }
    assert_eq!(ask("TRACE"), "other");
}

#[test]
fn the_reply_to_head_has_the_head_of_get_alone() {
    let host = Host::start();
    let ask = |target: &str| {
        host.exchange(format!("HEAD {target} HTTP/1.1\r\nConnection: close\r\n\r\n"))
    };

    assert!(ask("/reader").contains("Content-Length: 6\r\n"));
    assert!(ask("/stream").contains("Transfer-Encoding: chunked\r\n"));
    for target in ["/reader", "/stream", "/method"] {
        assert_eq!(body(&ask(target)), "");
    }
}

#[test]
fn a_reply_without_content_has_no_length() {
    let reply = Host::start().exchange("GET /none HTTP/1.1\r\nConnection: close\r\n\r\n");

    assert_eq!(status(&reply), 204);
    assert!(!reply.contains("Content-Length"));
}

#[test]
fn a_chunked_body_is_read_and_the_connection_used_again() {
    let host = Host::start();
    let request = "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n5;x=y\r\ndefgh\r\n0\r\nX: y\r\n\r\n";
    let last = "GET /method HTTP/1.1\r\nConnection: close\r\n\r\n";

    let replies = host.exchange(format!("{request}{request}{last}"));

    assert_eq!(replies.matches("abcdefgh").count(), 2);
    assert!(replies.ends_with("\r\n\r\nGET"));
}

#[test]
fn the_body_is_a_reader() {
    let host = Host::start();
    let ask = |body: &str| {
        let head = "POST /read HTTP/1.1\r\nConnection: close\r\n";
        host.exchange(format!("{head}{body}"))
    };

    assert_eq!(body(&ask("Content-Length: 3\r\n\r\nabc")), "abc");
    let chunked = "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n";
    assert_eq!(body(&ask(chunked)), "abc");
    assert_eq!(status(&ask("Transfer-Encoding: chunked\r\n\r\nx\r\n")), 400);
}

#[test]
fn a_body_that_no_handler_reads_is_skipped() {
    let host = Host::start();
    let counted = "POST /method HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
    let chunked = "POST /method HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
    let last = "GET /reader HTTP/1.1\r\nConnection: close\r\n\r\n";

    let replies = host.exchange(format!("{counted}{chunked}{last}"));

    assert_eq!(replies.matches("POST").count(), 2);
    assert!(replies.ends_with("reader"));
}

#[test]
fn a_client_that_asks_whether_to_send_is_told_to_when_the_body_is_read() {
    let host = Host::start();
    let framings =
        [("Content-Length: 3", "abc"), ("Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n")];

    for (framing, bytes) in framings {
        let mut socket = host.connect();
        write!(socket, "POST /echo HTTP/1.1\r\nExpect: 100-continue\r\n{framing}\r\n\r\n").unwrap();
        assert_eq!(until(&mut socket, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
        socket.write_all(bytes.as_bytes()).unwrap();
        assert!(until(&mut socket, "abc").starts_with("HTTP/1.1 200 OK"));
    }
}

#[test]
fn a_client_that_asks_in_vain_does_not_send_and_the_connection_ends() {
    let host = Host::start();

    for framing in ["Content-Length: 3", "Transfer-Encoding: chunked"] {
        let head = format!("POST /no HTTP/1.1\r\nExpect: 100-continue\r\n{framing}\r\n\r\n");
        let reply = host.exchange(head);
        assert_eq!(status(&reply), 404);
        assert!(reply.contains("Connection: close\r\n"));
    }
}

#[test]
fn a_reader_of_known_length_is_sent_with_it() {
    let reply = Host::start().exchange("GET /reader HTTP/1.1\r\nConnection: close\r\n\r\n");

    assert!(reply.contains("Content-Length: 6\r\n"));
    assert_eq!(body(&reply), "reader");
}

#[test]
fn a_reader_that_ends_too_soon_cuts_the_reply_short() {
    let reply = Host::start().exchange("GET /short HTTP/1.1\r\n\r\n");

    assert!(reply.contains("Content-Length: 60\r\n"));
    assert_eq!(body(&reply), "short");
}

#[test]
fn the_handler_learns_where_a_request_comes_from() {
    let host = Host::start();

    let reply = host.exchange("GET /peer HTTP/1.1\r\nHost: a.b:1\r\nConnection: close\r\n\r\n");

    assert_eq!(body(&reply), "Tcp(127.0.0.1) http://a.b:1");
}
