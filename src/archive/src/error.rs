//! Errors of reading, extracting and packing.

use std::io;
use std::path::PathBuf;

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// The operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Error {
    // The archive.
    #[error("cannot read the archive")]
    Read { source: io::Error },
    #[error(
        "the header at byte {position} has a wrong checksum: this is no tar archive, or a damaged one"
    )]
    Checksum { position: u64 },
    #[error("the extension headers of an entry exceed {limit} bytes")]
    Extension { limit: u64 },
    #[error("an extension record is malformed")]
    Record,
    #[error("a number is malformed or too large")]
    Number,
    #[error("sparse files are not supported: pack it without --sparse")]
    Sparse,
    #[error("an entry has the unknown type {kind}")]
    Type { kind: u8 },
    #[error("the path or link target of {path:?} exceeds {limit} bytes")]
    PathTooLong { path: String, limit: usize },
    #[error("the archive has more than {limit} {what}")]
    TooLarge { limit: u64, what: &'static str },

    // A tree that is extracted. Its sender chooses names and order.
    #[error("{path:?} is outside of the destination, or is no plain path")]
    Escape { path: PathBuf },
    #[error("{path:?} exceeds the limit on nesting")]
    TooDeep { path: PathBuf },
    #[error("{what} came out of order")]
    OutOfOrder { what: &'static str },
    #[error("{path} is neither a file nor a folder: it is not replaced")]
    Special { path: PathBuf },
    #[error("the paths of read-only folders exceed {limit} bytes")]
    TooManyReadOnly { limit: usize },
    #[error("cannot {operation} {path}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },

    // A folder that is packed.
    #[error("cannot read a file that is packed")]
    ReadSource { source: io::Error },
    #[error("it was truncated while it was read")]
    Truncated,
    #[error("cannot write the archive")]
    Write { source: io::Error },
}

/// Makes an [`Error::File`] of the cause of a failed file operation.
pub(crate) fn file<E: Into<io::Error>>(
    operation: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> Error {
    let path = path.into();
    move |source| Error::File { operation, path, source: source.into() }
}

/// The beginning of a path, for messages.
pub(crate) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned()
}
