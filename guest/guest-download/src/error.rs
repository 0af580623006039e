//! What can go wrong with an archive.
//!
//! INVARIANT: no text holds a URL.

use std::io;
use std::path::PathBuf;

/// See each variant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The manifest is not one.
    #[error("cannot read the manifest")]
    Manifest {
        /// Why.
        source: serde_json::Error,
    },
    /// A path of the manifest that is relative, or leads upwards.
    #[error("{path} in the manifest is no absolute path without `..`")]
    ManifestPath {
        /// Which one.
        path: PathBuf,
    },
    /// An archive's URL that nothing can be fetched from.
    #[error("the archive's URL is none of http, https and file")]
    Scheme,
    /// The archive could not be fetched.
    #[error("cannot fetch the archive")]
    Fetch {
        /// Why.
        source: guest_common::Error,
    },
    /// An archive that is a file could not be opened.
    #[error("cannot open the archive {path}")]
    OpenArchive {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The fetched bytes could not be read to their end.
    #[error("cannot read the archive")]
    Read {
        /// Why.
        source: io::Error,
    },
    /// The bytes are no tar archive, or one that makes no sense.
    #[error("the archive is broken: {reason}")]
    Broken {
        /// How.
        reason: &'static str,
    },
    /// An entry that must not be unpacked.
    #[error("the archive's entry {path:?} {reason}")]
    Refused {
        /// Its path.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// The archive unpacks to more than is sane.
    #[error("the archive has more than {limit} {unit}")]
    TooLarge {
        /// How many are allowed.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// An entry could not be written.
    #[error("cannot unpack {path:?}")]
    Unpack {
        /// Its path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The place beside the target could not be made or emptied.
    #[error("cannot prepare {path} for unpacking")]
    Stage {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was unpacked could not be moved into its place.
    #[error("cannot move what was unpacked into {path}")]
    Place {
        /// The target.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file with instructions could not be put where the agent reads it.
    #[error("cannot install the instructions {path}")]
    Instruction {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread {
        /// Why.
        source: io::Error,
    },
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether the same archive may come whole at another attempt.
    pub(crate) fn is_retriable(&self) -> bool {
        match self {
            Self::Fetch { source } => source.is_retriable(),
            Self::Read { source } => is_retriable(source),
            _ => false,
        }
    }

    /// What the server, or the way to it, had to do with it.
    pub(crate) fn of_server(&self) -> Option<&guest_common::Error> {
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

/// Cut short, or broken off in a way that [`fetch`](crate::fetch) says may pass.
fn is_retriable(error: &io::Error) -> bool {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<guest_common::Error>()) {
        Some(inner) => inner.is_retriable(),
        None => error.kind() == io::ErrorKind::UnexpectedEof,
    }
}
