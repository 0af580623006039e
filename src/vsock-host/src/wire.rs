//! Bytes on a socket: the epoll set, the send buffer, reads in turns, and which answers the protocol
//! allows. It knows neither callers nor the reactor.

pub(crate) mod answers;
pub(crate) mod dial;
pub(crate) mod intake;
pub(crate) mod outbox;
pub(crate) mod registration;
pub(crate) mod text;
