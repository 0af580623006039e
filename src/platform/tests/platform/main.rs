//! The platform as runners, guests and the operator see it: over real HTTP on loopback, over
//! its Unix socket, and through a crash. With the embedded database and files; tests/postgres has the same
//! tests with PostgreSQL, and tests/bucket those of content with an object store.

#![allow(clippy::unwrap_used, reason = "a test that fails should")]

mod content;
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
mod tls;
mod tokens;
mod wire;

/// The stores of a test.
mod store {
    pub(crate) fn database() -> platform::Database {
        platform::Database::Embedded
    }

    pub(crate) fn content() -> platform::Content {
        platform::Content::Files
    }
}
