//! Errors of requests.
//!
//! INVARIANT: no text holds a URL, a token, or a request's body.

use std::io;
use std::time::Duration;

/// An error. `call` names the request: `POST /api/…`, `GET from storage.example`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error("cannot {call}")]
    Transport { call: String, source: io::Error },
    #[error("{call} was answered with HTTP {status}{}", separated(.message))]
    Status { call: String, status: u16, message: String, retry_after: Option<Duration> },
    #[error("the answer to {call} is not usable")]
    Answer { call: String, source: io::Error },
    #[error("cannot encode the body of {call}")]
    Encode { call: String, source: serde_json::Error },
    #[error("{call} was stopped")]
    Stopped { call: String },
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether a retry may succeed: the network failed, the peer is overloaded or broken, or its
    /// answer was truncated.
    pub fn is_retriable(&self) -> bool {
        match self {
            // An invalid URL or header stays invalid.
            Self::Transport { source, .. } => source.kind() != io::ErrorKind::InvalidInput,
            Self::Answer { .. } => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }

    /// Whether another address of the platform may answer: this one is not there, or is about to go.
    pub(crate) fn is_elsewhere(&self) -> bool {
        match self {
            Self::Transport { source, .. } => source.kind() != io::ErrorKind::InvalidInput,
            Self::Status { status, .. } => matches!(status, 502..=504),
            _ => false,
        }
    }

    /// Whether the peer rejected the request with a status that a retry will not change.
    pub fn is_refusal(&self) -> bool {
        self.status().is_some() && !self.is_retriable()
    }

    /// Whether the peer rejects the caller and not the request's content: the token is invalid, or the
    /// object of the request does not exist.
    pub fn refuses_caller(&self) -> bool {
        matches!(self.status(), Some(401 | 403 | 404))
    }

    /// The status of an answer that is no success.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

fn separated(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// Converts an error of ureq, without the URL that it may hold.
pub fn without_url(error: ureq::Error) -> io::Error {
    use io::ErrorKind;
    match error {
        ureq::Error::Io(source) => match source.downcast::<ureq::Error>() {
            Ok(inner) => without_url(inner),
            Err(source) => source,
        },
        ureq::Error::Timeout(phase) => {
            io::Error::new(ErrorKind::TimedOut, format!("no answer in time ({phase})"))
        }
        ureq::Error::HostNotFound => io::Error::new(ErrorKind::NotFound, "the host is unknown"),
        ureq::Error::Rustls(source) => io::Error::new(ErrorKind::InvalidData, source),
        ureq::Error::Protocol(source) => io::Error::new(ErrorKind::InvalidData, source),
        ureq::Error::TooManyRedirects => io::Error::other("too many redirects"),
        ureq::Error::LargeResponseHeader(..) => io::Error::other("the answer's header is too long"),
        ureq::Error::BodyExceedsLimit(_) => io::Error::other("the answer is too long"),
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            io::Error::new(ErrorKind::InvalidInput, "the URL is invalid")
        }
        _ => io::Error::other("the connection failed"),
    }
}
