//! A connection that was handed over.

use crate::socket::Socket;

/// A connection without its server: of the other protocol that was asked for, or of a proxy. The server
/// still counts it, and shuts it down when it stops.
pub struct Upgraded {
    /// The request's head as it came.
    pub head: Vec<u8>,
    /// The bytes after the head that were read and not consumed: the body first, unless it was read.
    pub early: Vec<u8>,
    /// The connection. Reads have no time-out, writes one of 60 s.
    pub socket: Socket,
}
