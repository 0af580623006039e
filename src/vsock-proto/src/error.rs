//! What can be wrong with bytes from the other end.

use crate::MAX_FRAME;

/// Every one of these ends the connection that it happened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A frame's header announces more than [`MAX_FRAME`] bytes.
    #[error("frame of {length} bytes is over the limit of {MAX_FRAME}")]
    FrameTooLong {
        /// What the header says.
        length: usize,
    },
    /// A message to be sent does not fit into a frame.
    #[error("message of {length} bytes is over the frame limit of {MAX_FRAME}")]
    MessageTooLong {
        /// The encoded size.
        length: usize,
    },
    /// A frame's bytes are not a message.
    #[error("frame of {length} bytes is not a message of this protocol")]
    Decode {
        /// The frame's size.
        length: usize,
        /// What postcard says.
        source: postcard::Error,
    },
    /// A message is followed by more bytes in its frame.
    #[error("{extra} bytes after the message in a frame")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// A message could not be encoded.
    #[error("cannot encode a message")]
    Encode {
        /// What postcard says.
        source: postcard::Error,
    },
    /// The connection's first frame is not a hello.
    #[error("the first frame is not a hello")]
    NotHello,
    /// The other end speaks another version.
    #[error(
        "the guest speaks protocol version {theirs}, this host version {ours}: rebuild the image"
    )]
    Version {
        /// The guest's version.
        theirs: u32,
        /// [`VERSION`](crate::VERSION).
        ours: u32,
    },
    /// The other end sent more than it had credit for.
    #[error("{sent} bytes were sent on a stream with {allowed} bytes of credit")]
    Overrun {
        /// The size of the message.
        sent: u64,
        /// The credit that was left.
        allowed: u64,
    },
    /// The other end granted more credit than a window holds.
    #[error("credit of {granted} bytes on top of {available} is over the window")]
    Overgrant {
        /// The size of the grant.
        granted: u64,
        /// The credit that was there.
        available: u64,
    },
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;
