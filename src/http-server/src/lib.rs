//! An HTTP/1.1 server for clients that may be hostile or slow: a thread per connection, and nothing
//! without a bound.
//!
//! | what | bound |
//! |---|---|
//! | connections, so threads | [`Limits::connections`]; of one client address [`Limits::per_peer`] |
//! | a request's head | 16 KiB, 64 headers, [`Limits::request_timeout`] from its first byte |
//! | a body in memory | the limit of the handler's call; of all clients [`Limits::memory`], of one a quarter |
//! | a body's time | [`Limits::request_timeout`] and 1 s for each MiB; an upload's at least 60 s for each 100 MiB; or [`Body::set_progress_timeout`] |
//! | extensions and trailers of a chunked body | 8 KiB, lines of 1 KiB |
//! | a reply's time | 60 s without any progress of 128 KiB; a stream may be silent for ever |
//! | a TLS handshake | [`Limits::request_timeout`] |
//! | an idle connection | 75 s; less if there are too many |
//!
//! A connection has one request at a time. A request whose body's end could be read in two ways is refused.
//!
//! | to know | read |
//! |---|---|
//! | what a handler gets and returns | `handler.rs`, `response.rs` |
//! | what happens on a connection | `connection.rs` |
//! | which requests are refused | `head.rs`, `chunked.rs` |
//! | how it starts and stops | `server.rs` |
//! | how a connection is encrypted | `tls.rs`, `tls/pump.rs` |

mod body;
mod chunked;
mod connection;
mod error;
mod handler;
mod head;
mod memory;
mod method;
mod refusal;
mod response;
mod server;
mod shared;
mod socket;
pub mod tls;
mod upgrade;
pub mod websocket;
mod wire;
mod writer;

pub use body::{Body, Loaded};
pub use error::{Error, Result};
pub use handler::{Handler, Peer, Request};
pub use head::Head;
pub use memory::Account;
pub use method::Method;
pub use refusal::Refusal;
pub use response::{Content, Response, Stream};
pub use server::{Endpoint, Server};
pub use shared::Limits;
pub use socket::Socket;
pub use upgrade::Upgraded;
pub use writer::{BodyWriter, Wake};

/// Reads bytes as the head and the chunked body of a request, for a fuzz target. Not part of the interface.
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let size = match Head::parse(bytes) {
        Ok(Some((_, size))) => size,
        _ => 0,
    };
    let body = bytes.get(size..).unwrap_or_default();
    let whole = chunked::decode_in_pieces(body, usize::MAX);
    let pieces = chunked::decode_in_pieces(body, 3);
    assert_eq!(whole.ok(), pieces.ok(), "a body decodes the same in any pieces");
}
