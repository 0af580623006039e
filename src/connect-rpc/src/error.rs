//! Errors: those that a reply carries, and those of a request's framing.

use std::fmt;
use std::io;

use serde::Serialize;

use crate::Code;

/// The failure of a call, as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Error {
    /// The kind.
    pub code: Code,
    /// What failed, on what, and why.
    pub message: String,
}

impl Error {
    /// A failure.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The body of a unary reply.
    pub fn to_json(&self) -> Vec<u8> {
        // A code and a text always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Why a request's stream cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum ReadError {
    #[error("cannot read the request")]
    Read { source: io::Error },
    #[error("a message is compressed: send it uncompressed")]
    Compressed,
    #[error("a message has {length} bytes; the most is {limit}")]
    TooLarge { length: u64, limit: usize },
    #[error("the request ends within a message")]
    CutShort,
    #[error("a message is not the expected JSON")]
    Json { source: serde_json::Error },
    #[error("the request has no message")]
    Empty,
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        let code = match &error {
            ReadError::Read { source } if source.kind() == io::ErrorKind::TimedOut => {
                Code::DeadlineExceeded
            }
            ReadError::Read { .. } | ReadError::CutShort => Code::Cancelled,
            ReadError::Compressed => Code::Unimplemented,
            ReadError::TooLarge { .. } => Code::ResourceExhausted,
            ReadError::Json { .. } | ReadError::Empty => Code::InvalidArgument,
        };
        let message = match &error {
            ReadError::Read { source } => format!("{error}: {source}"),
            ReadError::Json { source } => format!("{error}: {source}"),
            _ => error.to_string(),
        };
        Self { code, message }
    }
}
