//! The database: one set of operations on two stores.
//!
//! An operation is a closure that runs statements in a transaction ([`Tx`]). SQLite is the embedded
//! store; PostgreSQL, with the feature `postgres`, is shared by several platforms. No file outside of
//! this folder names a store.
//!
//! INVARIANT: a closure may run several times, in a transaction of its own each time; only the last one
//! counts. So it has no effect but through its statements and its result.

mod dialect;
mod failure;
#[cfg(feature = "postgres")]
mod postgres;
mod schema;
mod sqlite;
mod tx;
mod value;

use std::path::Path;
#[cfg(feature = "postgres")]
use std::time::Instant;

#[cfg(feature = "postgres")]
use base::event::Event;

pub(crate) use self::failure::Outcome;
#[cfg(feature = "postgres")]
pub(crate) use self::postgres::Listener;
#[cfg(feature = "postgres")]
use self::postgres::Postgres;
use self::sqlite::Sqlite;
use self::tx::Mode;
pub(crate) use self::tx::{Row, Tx};
pub(crate) use self::value::{FromValue, List, ToValue, Value};
#[cfg(not(feature = "postgres"))]
use crate::Error;
use crate::Result;
use crate::clock::now_ms;
use crate::config::Database;

/// The database.
pub(crate) enum Db {
    Sqlite(Sqlite),
    #[cfg(feature = "postgres")]
    Postgres(Postgres),
}

impl Db {
    /// Opens the database; a missing embedded one, at `path`, is created.
    pub(crate) fn open(database: &Database, path: &Path) -> Result<Self> {
        match database {
            Database::Embedded => Sqlite::open(path).map(Self::Sqlite),
            #[cfg(feature = "postgres")]
            Database::Postgres(connection) => Postgres::open(connection).map(Self::Postgres),
            #[cfg(not(feature = "postgres"))]
            Database::Postgres(_) => Err(Error::NoPostgres),
        }
    }

    /// Runs `work` in a transaction, which is on the disk when this returns, or is rolled back.
    ///
    /// `work` may run again after its transaction was committed, if the connection was lost before that
    /// was known. So it finds what it did by keys that it was given, and does it no second time.
    pub(crate) fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl Fn(&Tx<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        self.run(operation, Mode::Write, work)
    }

    /// As [`Db::write`], for work that would do it a second time. If it is unknown whether it is
    /// committed, this fails, and the client decides.
    pub(crate) fn write_once<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl Fn(&Tx<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        self.run(operation, Mode::WriteOnce, work)
    }

    /// As [`Db::write`], but a crash of the database's host may lose it: for what is soon written anew, like
    /// heartbeats. What is written later survives only with it.
    pub(crate) fn write_relaxed<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl Fn(&Tx<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        self.run(operation, Mode::WriteRelaxed, work)
    }

    /// Runs `work` on one consistent snapshot of the database.
    pub(crate) fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl Fn(&Tx<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        self.run(operation, Mode::Read, work)
    }

    fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        mode: Mode,
        work: impl Fn(&Tx<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        match self {
            Self::Sqlite(sqlite) => sqlite.transact(operation, mode, work),
            #[cfg(feature = "postgres")]
            Self::Postgres(postgres) => postgres.transact(operation, mode, &work),
        }
    }

    /// The database's clock, in milliseconds since 1970, without a transaction.
    pub(crate) fn now(&self) -> i64 {
        match self {
            Self::Sqlite(_) => now_ms(),
            #[cfg(feature = "postgres")]
            Self::Postgres(postgres) => postgres.now(),
        }
    }

    /// A connection that listens to the notifications of other platforms.
    #[cfg(feature = "postgres")]
    pub(crate) fn listen(&self) -> Result<Listener> {
        self.shared()?.listen()
    }

    /// Notifies other platforms, with at most 7999 bytes.
    #[cfg(feature = "postgres")]
    pub(crate) fn send(&self, listener: &mut Listener, payload: &str) -> Result<()> {
        self.shared()?.send(listener, payload)
    }

    /// The notifications of other platforms. Waits for one until `event` is set, or until the deadline.
    #[cfg(feature = "postgres")]
    pub(crate) fn hear(
        &self,
        listener: &mut Listener,
        event: &Event,
        deadline: Instant,
    ) -> Result<Vec<String>> {
        self.shared()?.hear(listener, event, deadline)
    }

    #[cfg(feature = "postgres")]
    fn shared(&self) -> Result<&Postgres> {
        match self {
            Self::Postgres(postgres) => Ok(postgres),
            // Who has no other platform asks for none.
            Self::Sqlite(_) => Err(crate::Error::Stopped),
        }
    }

    /// Whether other platforms may use the database.
    pub(crate) fn is_shared(&self) -> bool {
        !matches!(self, Self::Sqlite(_))
    }

    /// Ends all waits for the database: operations fail instead.
    pub(crate) fn stop(&self) {
        match self {
            Self::Sqlite(_) => {}
            #[cfg(feature = "postgres")]
            Self::Postgres(postgres) => postgres.stop(),
        }
    }
}

#[cfg(not(feature = "postgres"))]
impl crate::ConnectionString {
    /// Whether it has a password; an error in a build that cannot use it.
    pub fn has_password(&self) -> Result<bool> {
        Err(Error::NoPostgres)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Refusal};

    const ADD: &str = "INSERT INTO storages (id, name, created) VALUES (?1, ?1, 1)";

    #[test]
    fn a_refusal_rolls_the_transaction_back() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&Database::Embedded, &dir.path().join("control.db")).unwrap();

        let refused: Result<()> = db.write("add", |tx| {
            tx.execute(ADD, &[&"i"])?;
            Err(Refusal::Taken.into())
        });

        assert!(matches!(refused, Err(Error::Refused(Refusal::Taken))));
        let count = "SELECT count(*) FROM storages";
        let left: i64 =
            db.read("count", move |tx| tx.query_one(count, &[], |row| row.get(0))).unwrap();
        assert_eq!(left, 0);
    }

    #[test]
    fn a_full_disk_is_an_error_and_leaves_the_database_usable() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&Database::Embedded, &dir.path().join("control.db")).unwrap();
        let add = |name: String| db.write("add", move |tx| tx.execute(ADD, &[&name]));
        let pages = "SELECT page_count FROM pragma_page_count";
        db.read("fill the disk", move |tx| {
            let pages: i64 = tx.query_one(pages, &[], |row| row.get(0))?;
            tx.query_opt(&format!("PRAGMA max_page_count = {pages}"), &[], |_| Ok(()))
        })
        .unwrap();

        let full = add("x".repeat(100_000)).unwrap_err();

        assert!(full.to_string().starts_with("no space left in /"), "{full}");
        assert_eq!(add("small".into()).unwrap(), 1);
    }

    #[test]
    fn a_failed_statement_is_reported_with_its_operation() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&Database::Embedded, &dir.path().join("control.db")).unwrap();

        let failed = db.read("count sheep", |tx| tx.execute("SELECT nothing", &[]));

        let text = failed.unwrap_err().to_string();
        assert!(text.starts_with("cannot count sheep in /"), "{text}");
    }
}
