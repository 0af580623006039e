//! Errors of a piece of work on the database.

use super::sqlite;
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
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("its application id is {application:#x}")]
    Foreign { application: i64 },
    #[error("a row is missing")]
    NoRow,
    #[error("column {column} has an unexpected value")]
    BadColumn { column: usize },
}

/// What a store's error means to the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// No space is left.
    Full,
    /// The file is damaged, or is not a database.
    Corrupt,
    Other,
}

impl Failure {
    /// The error with its operation and the database's name; some causes get variants of their own.
    pub(super) fn into_error(self, operation: &'static str, database: &str) -> Error {
        let database = database.to_owned();
        match self {
            Self::Ours(error) => error,
            Self::Store(source) => match source.meaning() {
                Meaning::Full => Error::Full { path: database.into() },
                Meaning::Corrupt => {
                    Error::Corrupt { path: database.into(), source: Box::new(source) }
                }
                Meaning::Other => Error::Database { operation, database, source: Box::new(source) },
            },
        }
    }
}

impl StoreError {
    fn meaning(&self) -> Meaning {
        match self {
            Self::Sqlite(error) => sqlite::meaning(error),
            _ => Meaning::Other,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
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
