//! Errors of network policies and proxies.

use std::io;
use std::path::PathBuf;

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// The operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// The user's input is wrong.
    #[error(transparent)]
    Usage(#[from] Usage),
    /// A policy file cannot be read.
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    /// The proxy failed.
    #[error(transparent)]
    Intercept(#[from] intercept::Error),
}

/// What is wrong with a user's policies and secrets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum Usage {
    /// A policy file is malformed.
    #[error("{path} is not a valid network policy")]
    Policy { path: PathBuf, source: toml::de::Error },
    /// A host is given to one of several secrets.
    #[error("--for does not name its secret: expected NAME=HOST")]
    ForWithoutSecret,
    /// A host is given to an unknown secret.
    #[error("--for names the secret {name}, which no --secret defines")]
    NoSuchSecret { name: String },
}
