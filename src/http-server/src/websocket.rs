//! The server's side of a WebSocket handshake (RFC 6455).

use tungstenite::WebSocket;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Role, WebSocketConfig};

use crate::head::Head;
use crate::method::Method;
use crate::response::Response;
use crate::socket::Socket;
use crate::upgrade::Upgraded;

/// A WebSocket reads as much at once.
const READ_BUFFER: usize = 4096;

/// How a WebSocket is accepted.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The subprotocol to name in the reply, one of those that the request offers.
    pub protocol: Option<&'static str>,
    /// The most bytes of a message.
    pub largest_message: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { protocol: None, largest_message: 1 << 20 }
    }
}

/// Whether the request asks for a WebSocket.
#[must_use]
pub fn is_requested(head: &Head) -> bool {
    head.has_word("upgrade", "websocket") && head.has_word("connection", "upgrade")
}

/// The reply that makes the connection a WebSocket and gives it to `own`, on the connection's thread; or
/// what is wrong with the request. A browser sends requests of any page: check the Origin header first.
///
/// Reads have no time-out, writes one of 60 s, until `own` sets others on the [`Socket`].
pub fn accept(
    head: &Head,
    options: Options,
    own: impl FnOnce(WebSocket<Socket>) + Send + 'static,
) -> Response {
    if head.method != Method::Get || !head.is_1_1 || !is_requested(head) {
        return refusal(400, "this is no request for a WebSocket");
    }
    if head.header("sec-websocket-version") != Some("13") {
        let refusal = refusal(426, "the only supported version of WebSocket is 13");
        return refusal.with("Upgrade", "websocket").with("Sec-WebSocket-Version", "13");
    }
    let key = head.header("sec-websocket-key").unwrap_or_default();
    if !is_key(key) {
        return refusal(400, "the Sec-WebSocket-Key is missing or malformed");
    }
    let mut reply = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n",
        derive_accept_key(key.as_bytes())
    );
    if let Some(protocol) = options.protocol {
        reply.push_str(&format!("Sec-WebSocket-Protocol: {protocol}\r\n"));
    }
    reply.push_str("\r\n");
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * options.largest_message.max(READ_BUFFER))
        .max_message_size(Some(options.largest_message))
        .max_frame_size(Some(options.largest_message));
    Response::upgrade(move |Upgraded { early, mut socket, .. }| {
        if let Err(error) = std::io::Write::write_all(&mut socket, reply.as_bytes()) {
            log::debug!("cannot accept a WebSocket; error={error}");
            return;
        }
        own(WebSocket::from_partially_read(socket, early, Role::Server, Some(config)));
    })
}

/// Whether a key is 16 bytes in base64.
fn is_key(key: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    key.len() == 24 && key.strip_suffix("==").is_some_and(|key| key.bytes().all(digit))
}

fn refusal(status: u16, reason: &str) -> Response {
    Response::bytes(status, "text/plain; charset=utf-8", format!("{reason}\n").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::response::Content;

    fn reply(request: &str) -> u16 {
        let (head, _) = Head::parse(request.as_bytes()).unwrap().unwrap();
        accept(&head, Options::default(), |_| {}).status
    }

    fn request(changed: &str, to: &str) -> String {
        "GET /x HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            .replace(changed, to)
    }

    #[test]
    fn a_handshake_that_is_none_is_refused() {
        assert_eq!(reply(&request("", "")), 101);
        assert_eq!(reply(&request("GET", "POST")), 400);
        assert_eq!(reply(&request("HTTP/1.1", "HTTP/1.0")), 400);
        assert_eq!(reply(&request("keep-alive, Upgrade", "keep-alive")), 400);
        assert_eq!(reply(&request(": websocket", ": h2c")), 400);
        assert_eq!(reply(&request("Version: 13", "Version: 8")), 426);
        assert_eq!(reply(&request("ZQ==", "ZQ=")), 400);
        assert_eq!(reply(&request("Sec-WebSocket-Key", "X")), 400);
    }

    #[test]
    fn a_version_that_is_refused_comes_with_the_one_that_is_not() {
        let (head, _) = Head::parse(request(": 13", ": 8").as_bytes()).unwrap().unwrap();

        let response = accept(&head, Options::default(), |_| {});

        assert!(response.headers.contains(&("Sec-WebSocket-Version", "13".to_owned())));
        assert!(matches!(response.content, Content::Bytes(_)));
    }
}
