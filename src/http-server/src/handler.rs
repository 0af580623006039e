//! A request, and what answers it.

use std::net::IpAddr;

use crate::body::Body;
use crate::head::Head;
use crate::refusal::Refusal;
use crate::response::Response;

/// A request: its head, and its body as it comes.
pub struct Request<'a> {
    /// The method, the target and the headers.
    pub head: Head,
    /// The body. The server reads what the handler leaves, up to 128 KiB, and closes the connection if
    /// there is more.
    pub body: Body<'a>,
    /// The other end of the connection.
    pub peer: Peer,
    /// Whether it came over TLS.
    pub is_tls: bool,
}

impl Request<'_> {
    /// How the client reached the server: the scheme and the Host header.
    pub fn origin(&self) -> Result<String, Refusal> {
        let scheme = if self.is_tls { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.head.host()?))
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A client at this address, with or without TLS.
    Tcp(IpAddr),
    /// A client of the Unix socket: the server's own user, or root.
    Unix,
}

/// Answers requests, on many threads at once.
pub trait Handler: Send + Sync + 'static {
    /// Answers a request.
    fn handle(&self, request: &mut Request<'_>) -> Response;

    /// The reply to what the server refuses before there is a request: a bad head, too many connections.
    fn refuse(&self, refusal: &Refusal) -> Response {
        refusal.into()
    }
}
