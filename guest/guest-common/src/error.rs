//! Errors of the files of a run.

use std::io;
use std::path::PathBuf;

/// An error of a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error("cannot create {path}")]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;
