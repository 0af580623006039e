//! Opens the database: checks its owner and version, and migrates its schema.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use crate::db::failure::{Failure, Outcome};
use crate::db::schema::{APPLICATION, MIGRATIONS};
use crate::error::file;
use crate::{Error, Result};

/// The busy timeout for another program that reads the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the database, and brings its schema up to date.
pub(super) fn open(path: &Path) -> Result<Connection> {
    // SQLite gives its other files the mode of this one.
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false).mode(0o600);
    drop(options.open(path).map_err(file("create", path))?);
    let connect = || {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        check(&connection, path)?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA foreign_keys = ON;
             PRAGMA journal_size_limit = 67108864;",
        )?;
        migrate(&mut connection)?;
        connection.set_prepared_statement_cache_capacity(128);
        Ok(connection)
    };
    connect().map_err(|failure: Failure| failure.into_error("open", &path.to_string_lossy()))
}

/// Rejects databases of other programs and of newer versions of this one.
fn check(connection: &Connection, path: &Path) -> Outcome<()> {
    let found: i64 = pragma(connection, "user_version")?;
    let application: i64 = pragma(connection, "application_id")?;
    let known = MIGRATIONS.len() as i64;
    let is_new = application == 0 && found == 0;
    if !is_new && application != APPLICATION {
        let source = format!("its application id is {application:#x}").into();
        return Err(Error::Corrupt { path: path.to_owned(), source }.into());
    }
    if found > known {
        return Err(Error::NewerDatabase { path: path.to_owned(), found, known }.into());
    }
    Ok(())
}

/// Runs the missing migrations, each in a transaction.
fn migrate(connection: &mut Connection) -> Outcome<()> {
    let found: i64 = pragma(connection, "user_version")?;
    let steps = MIGRATIONS.iter().enumerate().skip(usize::try_from(found).unwrap_or(0));
    for (number, step) in steps {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", number as i64 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_reopened_database_has_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.db");
        let add = "INSERT INTO storages (id, name, created) VALUES ('i', 'n', 1)";
        open(&path).unwrap().execute(add, []).unwrap();

        let again = open(&path).unwrap();

        let count = again.query_row("SELECT count(*) FROM storages", [], |row| row.get(0));
        assert_eq!(count, Ok(1));
    }

    #[test]
    fn a_database_of_a_newer_version_is_rejected_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.db");
        open(&path).unwrap().pragma_update(None, "user_version", 999).unwrap();
        let before = fs::read(&path).unwrap();

        let error = open(&path).unwrap_err();

        assert!(error.to_string().contains("has schema 999"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_damaged_database_is_refused_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.db");
        fs::write(&path, "garbage".repeat(1000)).unwrap();

        let error = open(&path).unwrap_err();

        assert!(error.to_string().contains("move it away"), "{error}");
    }

    #[test]
    fn another_programs_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.db");
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 1).unwrap();

        assert!(matches!(open(&path), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn a_migration_keeps_checkpoints_and_their_snapshots() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.db");
        let old = Connection::open(&path).unwrap();
        MIGRATIONS.iter().take(3).for_each(|step| old.execute_batch(step).unwrap());
        old.execute_batch(
            "INSERT INTO jobs (id, run, fingerprint, status, agent, prompt, environment, context,
                 has_secrets, created)
             VALUES (1, 'r', x'00', 'completed', 'claude-code', 'p', '{}', '{}', 0, 1);
             INSERT INTO storages VALUES ('s', 'n', 1);
             INSERT INTO versions VALUES ('s', 'v', 'c', 'a', 1, 'm', 1, NULL, NULL, 1);
             INSERT INTO histories VALUES ('h', 'identity', 1, 'b', 1, 1);
             INSERT INTO checkpoints VALUES ('c', 1, 1, 'claude-code', 's-1', 'h', 1);
             INSERT INTO snapshots VALUES ('c', 'work', 's', 'v', '/w');",
        )
        .unwrap();
        old.pragma_update(None, "application_id", APPLICATION).unwrap();
        old.pragma_update(None, "user_version", 3).unwrap();
        drop(old);

        let new = open(&path).unwrap();

        let count = |query: &str| new.query_row(query, [], |row| row.get::<_, u32>(0)).unwrap();
        assert_eq!(count("SELECT count(*) FROM checkpoints WHERE NOT is_partial"), 1);
        assert_eq!(count("SELECT count(*) FROM snapshots"), 1);
        new.execute("DELETE FROM jobs", []).unwrap();
        assert_eq!(count("SELECT count(*) FROM snapshots"), 0);
    }
}
