//! What can go wrong on the server's side. What is wrong with a request is a [`Refusal`](crate::Refusal).

use std::io;

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error("cannot start thread {name}")]
    Thread { name: String, source: io::Error },
    #[error("thread {name} panicked: this is a bug")]
    Panicked { name: String },
}
