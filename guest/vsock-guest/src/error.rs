//! Errors that end a connection.

use std::io;

/// An error that ends a connection. The host gets failures of single requests as answers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection could not be made non-blocking, or the loop's eventfd not be made.
    #[error("cannot prepare the connection")]
    Prepare {
        /// The cause.
        source: io::Error,
    },
    /// The loop could not sleep.
    #[error("cannot wait for events")]
    Wait {
        /// The cause.
        source: io::Error,
    },
    /// The host's bytes are not this protocol, or overrun a stream's credit.
    #[error("the host broke the protocol")]
    Protocol {
        /// The violation.
        #[from]
        source: vsock_proto::Error,
    },
    /// A message that the protocol does not allow in this state.
    #[error("the host sent {message} {when}")]
    Unexpected {
        /// The message's name.
        message: &'static str,
        /// The state.
        when: &'static str,
    },
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;
