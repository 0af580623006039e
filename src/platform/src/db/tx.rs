//! A transaction and its statements, the same for both stores.
//!
//! Statements are written in the SQL that both stores know, with parameters `?1`, `?2` …; what differs
//! is in `dialect.rs`. Each statement is prepared once per connection.

use std::borrow::Cow;

use super::dialect::Dialect;
use super::failure::{BadResult, Outcome};
use super::value::{FromValue, ToValue, Value};

/// What a transaction may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Read,
    Write,
    /// See [`Db::write_once`](super::Db::write_once).
    WriteOnce,
    /// See [`Db::write_relaxed`](super::Db::write_relaxed).
    WriteRelaxed,
}

/// A transaction. It ends with the closure that it was given to.
pub(crate) struct Tx<'a> {
    store: &'a dyn Store,
    mode: Mode,
    now: i64,
}

/// A store's connection within a transaction.
pub(super) trait Store {
    fn dialect(&self) -> Dialect;

    /// Runs a statement, and returns the number of rows that it changed.
    fn execute(&self, sql: &str, parameters: Parameters<'_>) -> Outcome<usize>;

    /// Visits the rows of a query until `visit` returns `false`.
    fn each(&self, sql: &str, parameters: Parameters<'_>, visit: Visit<'_>) -> Outcome<()>;
}

/// The parameters of a statement.
pub(crate) type Parameters<'a> = &'a [&'a dyn ToValue];

/// What is done with each row.
pub(super) type Visit<'a> = &'a mut dyn FnMut(&Row<'_>) -> Outcome<bool>;

impl<'a> Tx<'a> {
    pub(super) fn new(store: &'a dyn Store, mode: Mode, now: i64) -> Self {
        Self { store, mode, now }
    }

    /// The database's clock at the begin of the transaction, in milliseconds since 1970. Times that
    /// another process reads or wrote are compared with this clock alone.
    pub(crate) fn now(&self) -> i64 {
        self.now
    }

    /// A subquery with the items of a [`List`](super::List).
    pub(crate) fn items(&self, parameter: &str) -> String {
        self.store.dialect().items(parameter)
    }

    /// A query of one table that locks its rows until the end of the transaction, if that writes: then no
    /// other transaction changes them, and it returns them as they are now. Each operation that
    /// writes to a job locks the job's row first, so operations on one job run one after the other.
    pub(crate) fn locking<'q>(&self, query: &'q str) -> Cow<'q, str> {
        match self.mode {
            Mode::Read => query.into(),
            _ => self.store.dialect().locking(query),
        }
    }

    /// As [`Tx::locking`], for a subquery that passes over rows that others have locked.
    pub(crate) fn skipping<'q>(&self, query: &'q str) -> Cow<'q, str> {
        self.store.dialect().skipping(query)
    }

    /// Locks the rows of a query, as [`Tx::locking`] does, where that needs a statement of its own.
    pub(crate) fn lock(&self, query: &str, parameters: Parameters<'_>) -> Outcome<()> {
        match self.locking(query) {
            Cow::Borrowed(_) => Ok(()),
            Cow::Owned(query) => self.execute(&query, parameters).map(drop),
        }
    }

    /// Locks names that are no rows until the end of the transaction.
    pub(crate) fn lock_names(&self, names: &[&str]) -> Outcome<()> {
        let Some(lock) = self.store.dialect().lock_name() else { return Ok(()) };
        let mut names = names.to_vec();
        // In the same order everywhere, against deadlocks.
        names.sort_unstable();
        names.iter().try_for_each(|name| self.execute(lock, &[name]).map(drop))
    }

    /// Runs a statement, and returns the number of rows that it changed.
    pub(crate) fn execute(&self, sql: &str, parameters: Parameters<'_>) -> Outcome<usize> {
        self.store.execute(sql, parameters)
    }

    /// The first row of a query, which must have one.
    pub(crate) fn query_one<T>(
        &self,
        sql: &str,
        parameters: Parameters<'_>,
        read: impl Fn(&Row<'_>) -> Outcome<T>,
    ) -> Outcome<T> {
        self.query_opt(sql, parameters, read)?.ok_or_else(|| BadResult::NoRow.into())
    }

    /// The first row of a query, if it has any.
    pub(crate) fn query_opt<T>(
        &self,
        sql: &str,
        parameters: Parameters<'_>,
        read: impl Fn(&Row<'_>) -> Outcome<T>,
    ) -> Outcome<Option<T>> {
        let mut first = None;
        self.store.each(sql, parameters, &mut |row| {
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
        self.store.each(sql, parameters, &mut |row| {
            all.push(read(row)?);
            Ok(true)
        })?;
        Ok(all)
    }

    /// Whether a query has a row.
    pub(crate) fn exists(&self, sql: &str, parameters: Parameters<'_>) -> Outcome<bool> {
        Ok(self.query_opt(sql, parameters, |_| Ok(()))?.is_some())
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
        T::from_value(value).ok_or_else(|| BadResult::Column { column }.into())
    }
}
