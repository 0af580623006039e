//! The SQLite database and the one thread that uses it.
//!
//! Other threads send it closures and wait for the results, so no lock is held during disk I/O. Each
//! write is one transaction, which is on the disk when the caller gets its result
//! (`synchronous=FULL`).

mod failure;
mod open;
mod schema;

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use rusqlite::{Connection, Transaction, TransactionBehavior};

pub(crate) use self::failure::{Failure, Outcome};
use crate::{Error, Result};

/// The name of the thread.
const THREAD: &str = "platform-db";

/// The capacity of the queue; a full queue blocks the sender.
const QUEUE: usize = 64;

type Task = Box<dyn FnOnce(&mut Connection) + Send>;

/// The database. Dropping it ends its thread.
pub(crate) struct Db {
    path: PathBuf,
    tasks: Option<Sender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl Db {
    /// Opens the database, and creates a missing one.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let connection = open::open(path)?;
        let (tasks_tx, tasks) = bounded(QUEUE);
        let thread = base::thread::spawn(THREAD, move || run(connection, &tasks))
            .map_err(|source| Error::Thread { name: THREAD, source })?;
        Ok(Self { path: path.to_owned(), tasks: Some(tasks_tx), thread: Some(thread) })
    }

    /// Runs `work` in a transaction, which is on the disk when this returns, or is rolled back.
    pub(crate) fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        self.call(operation, |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }

    /// Runs `work` on one consistent snapshot of the database.
    pub(crate) fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        // Only this thread writes to the database.
        self.call(operation, |connection| work(connection))
    }

    fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Connection) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        let (answer_tx, answer) = bounded(1);
        let task: Task = Box::new(move |connection| {
            let _ = answer_tx.send(work(connection));
        });
        let sent = self.tasks.as_ref().map(|tasks| tasks.send(task));
        let Some(Ok(())) = sent else {
            return Err(Error::Stopped);
        };
        let answer = answer.recv().map_err(|_| Error::Panicked { name: THREAD })?;
        answer.map_err(|failure| failure.into_error(operation, &self.path))
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        drop(self.tasks.take());
        self.thread.take().and_then(base::thread::join);
    }
}

fn run(mut connection: Connection, tasks: &Receiver<Task>) {
    for task in tasks {
        task(&mut connection);
    }
    if let Err((_, error)) = connection.close() {
        log::warn!("cannot close the database; error={error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Refusal;

    #[test]
    fn a_refusal_rolls_the_transaction_back() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("control.db")).unwrap();
        let add = "INSERT INTO storages (id, name, created) VALUES ('i', 'n', 1)";

        let refused: Result<()> = db.write("add", move |tx| {
            tx.execute(add, [])?;
            Err(Refusal::Taken.into())
        });

        assert!(matches!(refused, Err(Error::Refused(Refusal::Taken))));
        let count = "SELECT count(*) FROM storages";
        let left: i64 =
            db.read("count", move |tx| Ok(tx.query_row(count, [], |row| row.get(0))?)).unwrap();
        assert_eq!(left, 0);
    }

    #[test]
    fn a_full_disk_is_an_error_and_leaves_the_database_usable() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("control.db")).unwrap();
        let add = |name: String| {
            db.write("add", move |tx| {
                let add = "INSERT INTO storages (id, name, created) VALUES (?1, ?1, 1)";
                Ok(tx.execute(add, [name])?)
            })
        };
        let pages = "SELECT page_count FROM pragma_page_count";
        db.read("fill the disk", move |tx| {
            let pages: i64 = tx.query_row(pages, [], |row| row.get(0))?;
            Ok(tx.pragma_update(None, "max_page_count", pages)?)
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

        let failed = db.read("count sheep", |tx| Ok(tx.execute("SELECT nothing", [])?));

        let text = failed.unwrap_err().to_string();
        assert!(text.starts_with("cannot count sheep in /"), "{text}");
    }
}
