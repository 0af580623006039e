//! The differences between the SQL of the two stores.

use std::borrow::Cow;

/// The SQL of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    #[cfg(feature = "postgres")]
    Postgres,
}

impl Dialect {
    /// A statement, whose parameters are `?1`, `?2` … here.
    #[cfg(feature = "postgres")]
    pub(super) fn statement(self, sql: &str) -> Cow<'_, str> {
        match self {
            Self::Sqlite => sql.into(),
            // No statement of ours has a question mark in a string.
            Self::Postgres => sql.replace('?', "$").into(),
        }
    }

    /// A query that locks its rows until the end of the transaction. SQLite has one writer.
    pub(super) fn locking(self, query: &str) -> Cow<'_, str> {
        match self {
            Self::Sqlite => query.into(),
            // It does not block the checks of foreign keys to the rows.
            #[cfg(feature = "postgres")]
            Self::Postgres => format!("{query} FOR NO KEY UPDATE").into(),
        }
    }

    /// As [`Dialect::locking`], but passes over locked rows.
    pub(super) fn skipping(self, query: &str) -> Cow<'_, str> {
        match self {
            Self::Sqlite => query.into(),
            #[cfg(feature = "postgres")]
            Self::Postgres => format!("{query} FOR NO KEY UPDATE SKIP LOCKED").into(),
        }
    }

    /// A statement that locks a name until the end of the transaction. SQLite has one writer.
    pub(super) fn lock_name(self) -> Option<&'static str> {
        match self {
            Self::Sqlite => None,
            #[cfg(feature = "postgres")]
            Self::Postgres => Some("SELECT pg_advisory_xact_lock(hashtextextended(?1, 0))"),
        }
    }

    /// A subquery with the texts of a JSON array.
    pub(super) fn items(self, parameter: &str) -> String {
        match self {
            Self::Sqlite => format!("SELECT value FROM json_each({parameter})"),
            #[cfg(feature = "postgres")]
            Self::Postgres => {
                format!("SELECT json_array_elements_text(CAST({parameter} AS json))")
            }
        }
    }

    /// Definitions of tables, which are written for SQLite. Flags are the integers 0 and 1 in both.
    #[cfg(feature = "postgres")]
    pub(super) fn definitions(self, sql: &str) -> String {
        let Self::Postgres = self else { return sql.to_owned() };
        // The order matters: the type of a key's column is a part of its definition. Texts are compared by
        // bytes, as in SQLite.
        [
            (
                "INTEGER PRIMARY KEY AUTOINCREMENT",
                "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
            ),
            ("INTEGER", "BIGINT"),
            ("BLOB", "BYTEA"),
            ("TEXT", "TEXT COLLATE \"C\""),
            (") STRICT, WITHOUT ROWID;", ");"),
            (") STRICT;", ");"),
        ]
        .iter()
        .fold(sql.to_owned(), |sql, (from, to)| sql.replace(from, to))
    }
}
