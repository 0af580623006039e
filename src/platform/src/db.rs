//! The database: one set of operations on two stores.
//!
//! An operation is a closure that runs statements in a transaction ([`Tx`]). SQLite is the embedded
//! store. No file outside of this folder names a store.
//!
//! INVARIANT: a closure may run several times, in a transaction of its own each time; only the last one
//! counts. So it has no effect but through its statements and its result.

mod dialect;
mod failure;
mod schema;
mod sqlite;
mod tx;
mod value;

use std::path::Path;

use self::failure::StoreError;
pub(crate) use self::failure::{Failure, Outcome};
use self::sqlite::Sqlite;
pub(crate) use self::tx::{Row, Tx};
pub(crate) use self::value::{FromValue, List, ToValue, Value};
use crate::Result;

/// The database.
pub(crate) struct Db(Sqlite);

impl Db {
    /// Opens the embedded database, and creates a missing one.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Sqlite::open(path).map(Self)
    }

    /// Runs `work` in a transaction, which is on the disk when this returns, or is rolled back.
    pub(crate) fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl Fn(&Tx<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        self.0.write(operation, work)
    }

    /// Runs `work` on one consistent snapshot of the database.
    pub(crate) fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl Fn(&Tx<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        self.0.read(operation, work)
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
        let db = Db::open(&dir.path().join("control.db")).unwrap();

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
        let db = Db::open(&dir.path().join("control.db")).unwrap();
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
        let db = Db::open(&dir.path().join("control.db")).unwrap();

        let failed = db.read("count sheep", |tx| tx.execute("SELECT nothing", &[]));

        let text = failed.unwrap_err().to_string();
        assert!(text.starts_with("cannot count sheep in /"), "{text}");
    }
}
