//! Brings the schema up to date, once: processes that start together wait for each other.

use std::time::Instant;

use super::client::Client;
use super::error::PgError;
use super::wire;
use crate::Error;
use crate::db::dialect::Dialect;
use crate::db::failure::Outcome;
use crate::db::schema::{APPLICATION, MIGRATIONS};

/// Runs the missing migrations in one transaction, or none. The lock's key is that of the application.
pub(super) fn run(client: &mut Client, name: &str, deadline: Instant) -> Outcome<()> {
    let done = migrate(client, name, deadline);
    let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = client.simple(end, deadline);
    done?;
    ended?;
    Ok(())
}

fn migrate(client: &mut Client, name: &str, deadline: Instant) -> Outcome<()> {
    // In a session whose default is another isolation, the version could be that before the wait.
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
         SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0;
         SELECT pg_advisory_xact_lock({APPLICATION})"
    );
    client.simple(&begin, deadline)?;
    let make = "CREATE TABLE IF NOT EXISTS platform_schema (version BIGINT NOT NULL)";
    client.simple(make, deadline)?;
    let versions =
        client.simple("SELECT coalesce(max(version), 0) FROM platform_schema", deadline)?;
    let what = "schema version";
    let found = wire::number(versions.first().ok_or(PgError::BadReply { what })?, what)?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(Error::NewerDatabase { path: name.into(), found, known }.into());
    }
    for step in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        client.simple(&Dialect::Postgres.definitions(step), deadline)?;
    }
    if found < known {
        client.simple(
            &format!("DELETE FROM platform_schema; INSERT INTO platform_schema VALUES ({known})"),
            deadline,
        )?;
        log::info!("migrated the database; from={found} to={known}");
    }
    Ok(())
}
