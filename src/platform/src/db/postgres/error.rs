//! Errors of PostgreSQL, and what they mean for a transaction.

use crate::Error;
use crate::db::failure::{Failure, Meaning, StoreError};

/// The operation on a connection that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PgError {
    #[error("{message} (SQLSTATE {state})")]
    Sql { state: String, message: String },
    #[error("the connection failed: {message}")]
    Lost { message: String },
    #[error("the deadline passed while {phase}")]
    Deadline { phase: &'static str },
    #[error("the connection was lost in COMMIT, so the outcome is unknown: {message}")]
    Uncertain { message: String },
    #[error("PostgreSQL {found} is too old: version 14 or later is needed")]
    OldServer { found: i32 },
    #[error("the database's encoding is {encoding}: it must be UTF8")]
    Encoding { encoding: String },
    #[error("the platform stops")]
    Stopped,
    #[error("the server's reply has no {what}")]
    BadReply { what: &'static str },
}

/// What to do about a failed transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Another transaction was in the way: run it again.
    Repeat,
    /// The server cannot be used now: run it again on another connection.
    Reconnect,
    None,
}

impl PgError {
    pub(super) fn remedy(&self) -> Remedy {
        match self {
            Self::Lost { .. } | Self::Uncertain { .. } => Remedy::Reconnect,
            Self::Sql { state, .. } => match state.as_str() {
                // A serialization failure, a deadlock. A row that another transaction inserted or removed
                // after it was looked for: this transaction finds it so when it is run again.
                "40001" | "40P01" | "23505" | "23503" => Remedy::Repeat,
                // The server stops, starts, refuses connections, or is a standby by now.
                "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "53300" | "25006" => {
                    Remedy::Reconnect
                }
                state if state.starts_with("08") => Remedy::Reconnect,
                _ => Remedy::None,
            },
            _ => Remedy::None,
        }
    }

    /// The error of a failed transaction, if the store failed.
    pub(super) fn of(failure: &Failure) -> Option<&Self> {
        match failure {
            Failure::Store(error) => error.source.downcast_ref(),
            Failure::Ours(_) => None,
        }
    }

    fn meaning(&self) -> Meaning {
        match self {
            Self::Sql { state, .. } if state == "53100" => Meaning::Full,
            // Time-outs of statements and of locks.
            Self::Sql { state, .. } if state == "57014" || state == "55P03" => Meaning::Unavailable,
            Self::Deadline { .. } => Meaning::Unavailable,
            _ if self.remedy() == Remedy::Reconnect => Meaning::Unavailable,
            _ => Meaning::Other,
        }
    }
}

impl From<PgError> for Failure {
    fn from(error: PgError) -> Self {
        match error {
            PgError::Stopped => Self::Ours(Error::Stopped),
            error => Self::Store(StoreError { meaning: error.meaning(), source: error.into() }),
        }
    }
}
