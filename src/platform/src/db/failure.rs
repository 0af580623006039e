//! Errors of a piece of work on the database.

use std::error;

use crate::{Error, Refusal};

/// The result of a piece of work.
pub(crate) type Outcome<T> = std::result::Result<T, Failure>;

/// The cause of a failure. Only the caller knows the operation: see [`Failure::into_error`].
#[derive(Debug)]
pub(crate) enum Failure {
    Store(StoreError),
    Ours(Error),
}

/// An error of a store.
#[derive(Debug)]
pub(crate) struct StoreError {
    pub(super) meaning: Meaning,
    pub(super) source: Box<dyn error::Error + Send + Sync>,
}

/// What a store's error means to the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// No space is left.
    Full,
    /// The file is damaged, or is not a database.
    Corrupt,
    /// The server cannot be used now: a client may try again.
    #[cfg(feature = "postgres")]
    Unavailable,
    Other,
}

/// A result that a statement cannot have.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadResult {
    #[error("a row is missing")]
    NoRow,
    #[error("column {column} has an unexpected value")]
    Column { column: usize },
}

impl Failure {
    /// The error with its operation and the database's name; some causes get variants of their own.
    pub(super) fn into_error(self, operation: &'static str, database: &str) -> Error {
        let database = database.to_owned();
        let StoreError { meaning, source } = match self {
            Self::Ours(error) => return error,
            Self::Store(error) => error,
        };
        match meaning {
            Meaning::Full => Error::Full { path: database.into() },
            Meaning::Corrupt => Error::Corrupt { path: database.into(), source },
            #[cfg(feature = "postgres")]
            Meaning::Unavailable => Error::Unavailable { operation, database, source },
            Meaning::Other => Error::Database { operation, database, source },
        }
    }
}

impl From<BadResult> for Failure {
    fn from(error: BadResult) -> Self {
        Self::Store(StoreError { meaning: Meaning::Other, source: error.into() })
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
