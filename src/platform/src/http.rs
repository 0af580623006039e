//! A minimal HTTP/1.1 server, for clients that may be hostile or slow.
//!
//! | what | bound |
//! |---|---|
//! | connections, so threads | [`Limits::connections`]; of one guest [`Limits::per_peer`] |
//! | a request's head | 16 KiB, 64 headers, [`Limits::request_timeout`] from its first byte |
//! | a body in memory | its route's limit; what came of all guests' [`Limits::memory`], of one a quarter |
//! | a body's time | [`Limits::request_timeout`] and 1 s for each MiB; an upload's at least 60 s for each 100 MiB |
//! | a reply's time | 60 s without any progress of 128 KiB |
//! | an idle connection | 75 s |
//!
//! Bodies need a Content-Length; one request at a time on a connection.

mod body;
mod connection;
mod head;
mod memory;
mod response;
mod server;
mod shared;
mod socket;
mod wire;

pub(crate) use self::body::Body;
pub(crate) use self::head::{Head, Method};
pub(crate) use self::memory::Account;
pub(crate) use self::response::{Content, Response};
pub(crate) use self::server::{Endpoint, Server};
pub(crate) use self::shared::Limits;

/// A request: its head, and its body as it comes.
pub(crate) struct Request<'a> {
    pub(crate) head: Head,
    pub(crate) body: Body<'a>,
    /// Whether it came over the operator's Unix socket.
    pub(crate) is_operator: bool,
}

/// Answers requests, on many threads at once.
pub(crate) trait Handler: Send + Sync + 'static {
    fn handle(&self, request: &mut Request<'_>) -> Response;
}
