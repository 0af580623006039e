//! Errors of calls on processes.

use std::io;

use crate::wait::Stopped;

/// An error of a call on a process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Error {
    /// The text is the sandbox's, so untrusted.
    #[error("{message}")]
    NotStarted { message: String },
    #[error("{what}")]
    NotFound { what: String },
    #[error("the sandbox runs {limit} processes, which is the most: end some of them")]
    TooMany { limit: usize },
    #[error("cannot start a thread for the process")]
    Thread { source: io::Error },
    #[error("the process has no standard input, or it is closed")]
    NoStdin,
    #[error("the process has {0}")]
    Terminal(&'static str),
    #[error("the sandbox was paused or ended meanwhile")]
    Closed,
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
}

/// The result of calls on processes.
pub type Result<T> = std::result::Result<T, Error>;

impl From<Stopped> for Error {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Sandbox(error) => Self::Sandbox(error),
            Stopped::Closed => Self::Closed,
        }
    }
}
