//! The head of a request as it is sent on.

use http_server::Head;

/// Headers of one connection (RFC 9110), and those that are for this server.
const DROPPED: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "upgrade",
    "host",
    "e2b-sandbox-id",
    "e2b-sandbox-port",
    "e2b-traffic-access-token",
];

/// Headers that say where the body ends: it goes through as it is, so they do too.
const KEPT: &[&str] = &["content-length", "transfer-encoding", "trailer"];

/// The first line of a head, with its end.
pub(super) fn request_line(head: &[u8]) -> Vec<u8> {
    let end = head.iter().position(|byte| *byte == b'\n').map_or(head.len(), |end| end + 1);
    head.get(..end).unwrap_or_default().to_vec()
}

/// All headers, with the empty line. `host` replaces the Host header.
pub(super) fn headers(head: &Head, host: Option<&str>) -> String {
    let mut text = String::new();
    let mut add = |name: &str, value: &str| {
        text.push_str(&format!("{name}: {value}\r\n"));
    };
    if let Some(host) = host.or(head.header("host")) {
        add("Host", host);
    }
    for (name, value) in head.headers() {
        let is = |other: &&&str| other.eq_ignore_ascii_case(name);
        let is_kept = KEPT.iter().find(is).is_some() || !head.has_word("connection", name);
        if is_kept && DROPPED.iter().find(is).is_none() {
            add(name, value);
        }
    }
    match head.header("upgrade").filter(|_| head.has_word("connection", "upgrade")) {
        Some(protocol) => {
            add("Connection", "Upgrade");
            add("Upgrade", protocol);
        }
        None => add("Connection", "close"),
    }
    text.push_str("\r\n");
    text
}
