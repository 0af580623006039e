//! Protocol errors.

use crate::MAX_FRAME;

/// A protocol error. Each ends its connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are the operands in the messages")]
pub enum Error {
    /// A frame's header announces more than [`MAX_FRAME`] bytes.
    #[error("frame of {length} bytes is over the limit of {MAX_FRAME}")]
    FrameTooLong { length: usize },
    /// A message to be sent does not fit into a frame.
    #[error("message of {length} bytes is over the frame limit of {MAX_FRAME}")]
    MessageTooLong { length: usize },
    /// A frame's bytes are not a message.
    #[error("frame of {length} bytes is not a message of this protocol")]
    Decode { length: usize, source: postcard::Error },
    /// A message is followed by more bytes in its frame.
    #[error("{extra} bytes after the message in a frame")]
    Trailing { extra: usize },
    /// A message could not be encoded.
    #[error("cannot encode a message")]
    Encode { source: postcard::Error },
    /// The connection's first frame is not a hello.
    #[error("the first frame is not a hello")]
    NotHello,
    /// The other end has another protocol version.
    #[error(
        "the guest speaks protocol version {theirs}, this host version {ours}: rebuild the image"
    )]
    Version { theirs: u32, ours: u32 },
    /// The other end sent more than it had credit for.
    #[error("{sent} bytes were sent on a stream with {allowed} bytes of credit")]
    Overrun { sent: u64, allowed: u64 },
    /// The other end granted more credit than a window holds.
    #[error("credit of {granted} bytes on top of {available} is over the window")]
    Overgrant { granted: u64, available: u64 },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
