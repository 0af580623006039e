//! Errors of requests to an object store.
//!
//! INVARIANT: no text holds a URL, a credential or a signature. Of the store's own text only its error code
//! is shown.

use std::io;
use std::path::PathBuf;

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The operation that failed. `operation` is a phrase: `read an object of`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error("`{endpoint}` is not the URL of an object store: {reason}")]
    BadEndpoint { endpoint: String, reason: &'static str },
    #[error("{what} `{text}` is malformed")]
    BadName { what: &'static str, text: String },
    #[error("cannot read {path}")]
    ReadFile { path: PathBuf, source: io::Error },
    #[error("{path} has no certificate in PEM format")]
    NoCertificate { path: PathBuf },
    #[error(
        "no credentials for the object store: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a file with them"
    )]
    NoCredentials,
    #[error("other users may read the credentials in {path}: run `chmod 600` on it")]
    CredentialsReadable { path: PathBuf },
    #[error("{path} is not a file with credentials: {reason}")]
    BadCredentials { path: PathBuf, reason: &'static str },
    #[error("cannot reach the object store {host} to {operation}")]
    Unreachable { operation: &'static str, host: String, source: io::Error },
    #[error("the object store {host} is overloaded or broken: cannot {operation} (HTTP {status}{})", shown(.code))]
    Failed { operation: &'static str, host: String, status: u16, code: String },
    #[error("there is no bucket `{bucket}` at {host}: create it, or check its name and region")]
    NoBucket { host: String, bucket: String },
    #[error(
        "the object store {host} rejects the credentials: cannot {operation} (HTTP {status}{})",
        shown(.code)
    )]
    Denied { operation: &'static str, host: String, status: u16, code: String },
    #[error("the object store {host} rejects the request to {operation} (HTTP {status}{})", shown(.code))]
    Refused { operation: &'static str, host: String, status: u16, code: String },
    #[error(
        "the reply of the object store {host} to the request to {operation} is malformed: {reason}"
    )]
    BadReply { operation: &'static str, host: String, reason: &'static str },
}

impl Error {
    /// Whether a retry may succeed: the store is away, overloaded or broken.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Failed { .. } | Self::BadReply { .. })
    }
}

fn shown(code: &str) -> String {
    if code.is_empty() { String::new() } else { format!(", {code}") }
}
