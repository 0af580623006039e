//! Errors of a piece of work on the database.

use std::path::Path;

use rusqlite::ErrorCode;

use crate::{Error, Refusal};

/// The result of a piece of work.
pub(crate) type Outcome<T> = std::result::Result<T, Failure>;

/// The cause of a failure. Only the caller knows the operation: see [`Failure::into_error`].
#[derive(Debug)]
pub(crate) enum Failure {
    Sql(rusqlite::Error),
    Ours(Error),
}

impl Failure {
    /// The error with its operation and path; a full disk and a corrupt file get variants of their own.
    pub(crate) fn into_error(self, operation: &'static str, path: &Path) -> Error {
        let path = path.to_owned();
        match self {
            Self::Ours(error) => error,
            Self::Sql(source) => match source.sqlite_error_code() {
                Some(ErrorCode::DiskFull) => Error::Full { path },
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                    Error::Corrupt { path, source }
                }
                _ => Error::Database { operation, path, source },
            },
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Ours(refusal.into())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(source: serde_json::Error) -> Self {
        Self::Ours(Error::BadRow { source })
    }
}
