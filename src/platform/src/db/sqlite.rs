//! The embedded store: SQLite, and the one thread that uses it.
//!
//! Other threads send it closures and wait for the results, so no lock is held during disk I/O. Each
//! write is one transaction, which is on the disk when the caller gets its result
//! (`synchronous=FULL`).

mod open;

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, ToSql, TransactionBehavior, params_from_iter};

use super::dialect::Dialect;
use super::failure::{Failure, Meaning, Outcome, StoreError};
use super::tx::{Columns, Mode, Parameters, Row, Store, Tx, Visit};
use super::value::Value;
use crate::clock::now_ms;
use crate::{Error, Result};

/// The name of the thread.
const THREAD: &str = "platform-db";

/// The capacity of the queue; a full queue blocks the sender.
const QUEUE: usize = 64;

type Task = Box<dyn FnOnce(&mut Connection) + Send>;

/// The database. Dropping it ends its thread.
pub(crate) struct Sqlite {
    path: PathBuf,
    tasks: Option<Sender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl Sqlite {
    /// Opens the database, and creates a missing one.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let connection = open::open(path)?;
        let (tasks_tx, tasks) = bounded(QUEUE);
        let thread = base::thread::spawn(THREAD, move || run(connection, &tasks))
            .map_err(|source| Error::Thread { name: THREAD, source })?;
        Ok(Self { path: path.to_owned(), tasks: Some(tasks_tx), thread: Some(thread) })
    }

    pub(super) fn transact<T: Send + 'static>(
        &self,
        operation: &'static str,
        mode: Mode,
        work: impl Fn(&Tx<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        self.call(operation, move |connection| {
            if mode == Mode::Read {
                // Only this thread writes to the database. A read that writes fails as with PostgreSQL.
                connection.execute_batch("PRAGMA query_only = ON")?;
                let result = work(&Tx::new(connection, mode, now_ms()));
                connection.execute_batch("PRAGMA query_only = OFF")?;
                return result;
            }
            if mode != Mode::WriteRelaxed {
                return write(connection, mode, &work);
            }
            connection.execute_batch("PRAGMA synchronous = NORMAL")?;
            let result = write(connection, mode, &work);
            connection.execute_batch("PRAGMA synchronous = FULL")?;
            result
        })
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
        answer.map_err(|failure| failure.into_error(operation, &self.path.to_string_lossy()))
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        drop(self.tasks.take());
        self.thread.take().and_then(base::thread::join);
    }
}

fn write<T>(
    connection: &mut Connection,
    mode: Mode,
    work: &dyn Fn(&Tx<'_>) -> Outcome<T>,
) -> Outcome<T> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let result = work(&Tx::new(&*transaction, mode, now_ms()))?;
    transaction.commit()?;
    Ok(result)
}

fn run(mut connection: Connection, tasks: &Receiver<Task>) {
    for task in tasks {
        task(&mut connection);
    }
    if let Err((_, error)) = connection.close() {
        log::warn!("cannot close the database; error={error}");
    }
}

impl Store for Connection {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    fn execute(&self, sql: &str, parameters: Parameters<'_>) -> Outcome<usize> {
        let values = parameters.iter().map(|parameter| parameter.to_value());
        Ok(self.prepare_cached(sql)?.execute(params_from_iter(values))?)
    }

    fn each(&self, sql: &str, parameters: Parameters<'_>, visit: Visit<'_>) -> Outcome<()> {
        let values = parameters.iter().map(|parameter| parameter.to_value());
        let mut statement = self.prepare_cached(sql)?;
        let mut rows = statement.query(params_from_iter(values))?;
        while let Some(row) = rows.next()? {
            if !visit(&Row(row))? {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn meaning(error: &rusqlite::Error) -> Meaning {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Meaning::Full,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Meaning::Corrupt,
        _ => Meaning::Other,
    }
}

impl Columns for rusqlite::Row<'_> {
    fn value(&self, column: usize) -> Outcome<Value<'_>> {
        Ok(match self.get_ref(column)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(number) => Value::Integer(number),
            ValueRef::Real(number) => Value::Real(number),
            ValueRef::Blob(bytes) => Value::Blob(bytes.into()),
            text @ ValueRef::Text(_) => {
                Value::Text(text.as_str().map_err(rusqlite::Error::from)?.into())
            }
        })
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Real(number) => ValueRef::Real(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(StoreError { meaning: meaning(&error), source: error.into() })
    }
}
