//! What can go wrong with a request or with the files of a run.
//!
//! INVARIANT: no text holds a URL, a token, or a body that was sent.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// See each variant. `call` says which request it was: `POST /api/…`, `GET from storage.example`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer could not be reached, or its answer did not come whole.
    #[error("cannot {call}")]
    Transport {
        /// Which request.
        call: String,
        /// Why.
        source: io::Error,
    },
    /// The peer answered with another status than success.
    #[error("{call} was answered with HTTP {status}{}", separated(.message))]
    Status {
        /// Which request.
        call: String,
        /// The status.
        status: u16,
        /// What the peer said about it, if anything.
        message: String,
        /// When to try again, if the peer said so.
        retry_after: Option<Duration>,
    },
    /// The peer's answer is a success, but not what was to be answered.
    #[error("the answer to {call} is not usable")]
    Answer {
        /// Which request.
        call: String,
        /// Why.
        source: io::Error,
    },
    /// What was to be sent is no JSON.
    #[error("cannot encode the body of {call}")]
    Encode {
        /// Which request.
        call: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The program ends, so nothing more is sent.
    #[error("{call} was stopped")]
    Stopped {
        /// Which request.
        call: String,
    },
    /// A folder or file of the run could not be made.
    #[error("cannot create {path}")]
    Create {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the run could not be written.
    #[error("cannot write {path}")]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether the same request may come right later: the network failed, the peer is overloaded
    /// or broken, or its answer was cut short.
    pub fn is_retriable(&self) -> bool {
        match self {
            // What was asked for can never be asked for.
            Self::Transport { source, .. } => source.kind() != io::ErrorKind::InvalidInput,
            Self::Answer { .. } => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }

    /// Whether the peer has refused the request for good: the same request will be refused again.
    pub fn is_refusal(&self) -> bool {
        self.status().is_some() && !self.is_retriable()
    }

    /// Whether it is the caller that the peer refuses, not what it sends: its token is good for
    /// nothing (any more), or what it is about is not there (any more).
    pub fn refuses_caller(&self) -> bool {
        matches!(self.status(), Some(401 | 403 | 404))
    }

    /// The status of the answer, if that is what went wrong.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

fn separated(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// What ureq says, without the URL that it may say it about.
pub(crate) fn without_url(error: ureq::Error) -> io::Error {
    use io::ErrorKind;
    match error {
        ureq::Error::Io(source) => match source.downcast::<ureq::Error>() {
            Ok(inner) => without_url(inner),
            Err(source) => source,
        },
        ureq::Error::Timeout(phase) => {
            io::Error::new(ErrorKind::TimedOut, format!("no answer in time ({phase})"))
        }
        ureq::Error::HostNotFound => io::Error::new(ErrorKind::NotFound, "the host is not known"),
        ureq::Error::Rustls(source) => io::Error::new(ErrorKind::InvalidData, source),
        ureq::Error::Protocol(source) => io::Error::new(ErrorKind::InvalidData, source),
        ureq::Error::TooManyRedirects => io::Error::other("too many redirects"),
        ureq::Error::LargeResponseHeader(..) => io::Error::other("the answer's header is too long"),
        ureq::Error::BodyExceedsLimit(_) => io::Error::other("the answer is too long"),
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            io::Error::new(ErrorKind::InvalidInput, "the URL is not usable")
        }
        _ => io::Error::other("the connection failed"),
    }
}
