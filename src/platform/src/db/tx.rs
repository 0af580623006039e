//! A transaction and its statements, the same for both stores.
//!
//! Statements are written in the SQL that both stores know, with parameters `?1`, `?2` …; what differs
//! is in `dialect.rs`. Each statement is prepared once per connection.

use super::dialect::Dialect;
use super::value::{FromValue, ToValue, Value};
use super::{Outcome, StoreError, sqlite};

/// A transaction. It ends with the closure that it was given to.
pub(crate) struct Tx<'a> {
    store: Store<'a>,
    now: i64,
}

enum Store<'a> {
    Sqlite(&'a rusqlite::Connection),
}

/// The parameters of a statement.
pub(crate) type Parameters<'a> = &'a [&'a dyn ToValue];

impl<'a> Tx<'a> {
    pub(super) fn sqlite(connection: &'a rusqlite::Connection, now: i64) -> Self {
        Self { store: Store::Sqlite(connection), now }
    }

    /// The database's clock at the begin of the transaction, in milliseconds since 1970. Times that
    /// another process reads or wrote are compared with this clock alone.
    pub(crate) fn now(&self) -> i64 {
        self.now
    }

    /// A subquery with the items of a [`List`](super::List).
    pub(crate) fn items(&self, parameter: &str) -> String {
        match &self.store {
            Store::Sqlite(_) => Dialect::Sqlite.items(parameter),
        }
    }

    /// Runs a statement, and returns the number of rows that it changed.
    pub(crate) fn execute(&self, sql: &str, parameters: Parameters<'_>) -> Outcome<usize> {
        match &self.store {
            Store::Sqlite(connection) => sqlite::execute(connection, sql, parameters),
        }
    }

    /// The first row of a query, which must have one.
    pub(crate) fn query_one<T>(
        &self,
        sql: &str,
        parameters: Parameters<'_>,
        read: impl Fn(&Row<'_>) -> Outcome<T>,
    ) -> Outcome<T> {
        self.query_opt(sql, parameters, read)?.ok_or_else(|| StoreError::NoRow.into())
    }

    /// The first row of a query, if it has any.
    pub(crate) fn query_opt<T>(
        &self,
        sql: &str,
        parameters: Parameters<'_>,
        read: impl Fn(&Row<'_>) -> Outcome<T>,
    ) -> Outcome<Option<T>> {
        let mut first = None;
        self.each(sql, parameters, &mut |row| {
            first = Some(read(row)?);
            Ok(false)
        })?;
        Ok(first)
    }

    /// All rows of a query.
    pub(crate) fn query_all<T>(
        &self,
        sql: &str,
        parameters: Parameters<'_>,
        read: impl Fn(&Row<'_>) -> Outcome<T>,
    ) -> Outcome<Vec<T>> {
        let mut all = Vec::new();
        self.each(sql, parameters, &mut |row| {
            all.push(read(row)?);
            Ok(true)
        })?;
        Ok(all)
    }

    /// Whether a query has a row.
    pub(crate) fn exists(&self, sql: &str, parameters: Parameters<'_>) -> Outcome<bool> {
        Ok(self.query_opt(sql, parameters, |_| Ok(()))?.is_some())
    }

    /// Visits the rows of a query until `visit` returns `false`.
    fn each(
        &self,
        sql: &str,
        parameters: Parameters<'_>,
        visit: &mut dyn FnMut(&Row<'_>) -> Outcome<bool>,
    ) -> Outcome<()> {
        match &self.store {
            Store::Sqlite(connection) => sqlite::each(connection, sql, parameters, visit),
        }
    }
}

/// A row of a query's result.
pub(crate) struct Row<'a>(pub(super) &'a dyn Columns);

/// The columns of a store's row.
pub(super) trait Columns {
    fn value(&self, column: usize) -> Outcome<Value<'_>>;
}

impl Row<'_> {
    /// The value of a column, counted from 0.
    pub(crate) fn get<T: FromValue>(&self, column: usize) -> Outcome<T> {
        let value = self.0.value(column)?;
        T::from_value(value).ok_or_else(|| StoreError::BadColumn { column }.into())
    }
}
