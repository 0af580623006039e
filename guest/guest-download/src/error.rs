//! Errors of a manifest and its archives.
//!
//! INVARIANT: no text holds a URL.

use std::io;
use std::path::PathBuf;

/// An error of a task.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error("cannot read the manifest")]
    Manifest { source: serde_json::Error },
    #[error("{path} in the manifest is not an absolute path without `..`")]
    ManifestPath { path: PathBuf },
    #[error("the archive's URL is not of scheme http, https or file")]
    Scheme,
    #[error("cannot fetch the archive")]
    Fetch { source: platform_client::Error },
    #[error("cannot open the archive {path}")]
    OpenArchive { path: PathBuf, source: io::Error },
    #[error("cannot read the archive")]
    Read { source: io::Error },
    #[error("the archive is compressed neither with gzip nor with zstd")]
    Format,
    #[error("cannot unpack the archive")]
    Unpack { source: archive::Error },
    #[error("cannot prepare {path} for unpacking")]
    Stage { path: PathBuf, source: io::Error },
    #[error("cannot move the unpacked files into {path}")]
    Move { path: PathBuf, source: io::Error },
    #[error("cannot install the instructions {path}")]
    Instruction { path: PathBuf, source: io::Error },
    #[error("cannot start a thread")]
    Thread { source: io::Error },
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether another attempt may succeed.
    pub(crate) fn is_retriable(&self) -> bool {
        match self {
            Self::Fetch { source } => source.is_retriable(),
            Self::Read { source } | Self::Unpack { source: archive::Error::Read { source } } => {
                is_retriable(source)
            }
            _ => false,
        }
    }

    /// The HTTP error, if it is one.
    pub(crate) fn http_error(&self) -> Option<&platform_client::Error> {
        match self {
            Self::Fetch { source } => Some(source),
            _ => None,
        }
    }

    /// Whether the archive does not exist.
    pub(crate) fn is_missing(&self) -> bool {
        match self {
            Self::Fetch { source } => source.status() == Some(404),
            Self::OpenArchive { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// Whether the stream was truncated, or broken by a retriable error of [`fetch`](crate::fetch).
fn is_retriable(error: &io::Error) -> bool {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<platform_client::Error>()) {
        Some(inner) => inner.is_retriable(),
        None => error.kind() == io::ErrorKind::UnexpectedEof,
    }
}
