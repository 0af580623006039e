//! What ends a connection other than its end.

use std::io;

/// See each variant. What goes wrong with one request is told to the host instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection could not be made non-blocking, or the loop's eventfd not be made.
    #[error("cannot prepare the connection")]
    Prepare {
        /// Why.
        source: io::Error,
    },
    /// The loop could not sleep.
    #[error("cannot wait for events")]
    Wait {
        /// Why.
        source: io::Error,
    },
    /// The host's bytes are not this protocol, or overrun a stream's credit.
    #[error("the host broke the protocol")]
    Protocol {
        /// How.
        #[from]
        source: vsock_proto::Error,
    },
    /// A message that makes no sense where it came.
    #[error("the host sent {message} {when}")]
    Unexpected {
        /// Which one.
        message: &'static str,
        /// When that was.
        when: &'static str,
    },
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;
