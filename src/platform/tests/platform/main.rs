//! The platform as runners, guests and the operator see it: over real HTTP on loopback, over
//! its Unix socket, and through a crash. With the embedded database; tests/postgres has the same tests
//! with PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test that fails should")]

mod harness;

mod attempts;
mod checkpoints;
mod events;
mod folder;
mod health;
mod jobs;
mod operator;
mod placement;
mod secret_files;
mod secrets;
mod storages;
mod telemetry;
mod tokens;
mod wire;

/// The database of a test.
mod store {
    pub(crate) fn database() -> platform::Database {
        platform::Database::Embedded
    }
}
