//! What is wrong with a request: each kind with its HTTP status and its code.

use std::io;

/// Why the server does not serve a request. The texts go to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Refusal {
    #[error("bad request: {reason}")]
    BadRequest { reason: String },
    #[error("the request's head is larger than {limit} bytes")]
    HeadTooLarge { limit: usize },
    #[error("the only supported Transfer-Encoding is `chunked`")]
    UnknownCoding,
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the request was not received within its timeout")]
    TooSlow,
    #[error("the connection closed before the end of the body")]
    CutShort,
    #[error("the server is at a limit: try again")]
    Busy,
    #[error("the server is stopping")]
    Stopping,
    #[error("the request was interrupted")]
    Interrupted,
}

impl Refusal {
    /// A request that does not make sense.
    pub fn bad(reason: impl Into<String>) -> Self {
        Self::BadRequest { reason: reason.into() }
    }

    /// Its HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.parts().0
    }

    /// Its name for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.parts().1
    }

    /// The refusal in an error from [`Body`](crate::Body)'s `Read`.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    fn parts(&self) -> (u16, &'static str) {
        match self {
            Self::BadRequest { .. } => (400, "BAD_REQUEST"),
            Self::CutShort => (400, "CUT_SHORT"),
            Self::TooSlow => (408, "TOO_SLOW"),
            Self::TooLarge { .. } => (413, "TOO_LARGE"),
            Self::HeadTooLarge { .. } => (431, "HEAD_TOO_LARGE"),
            Self::UnknownCoding => (501, "UNKNOWN_CODING"),
            Self::Busy => (503, "BUSY"),
            Self::Stopping => (503, "STOPPING"),
            Self::Interrupted => (503, "INTERRUPTED"),
        }
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::TooSlow => io::ErrorKind::TimedOut,
            Refusal::CutShort => io::ErrorKind::UnexpectedEof,
            Refusal::BadRequest { .. } => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, refusal)
    }
}
