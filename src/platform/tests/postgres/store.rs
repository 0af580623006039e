//! The database of a test: one of its own in the server that all tests of this process share.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use host_test::postgres::Server;
use platform::{ConnectionString, Database};

static SERVER: LazyLock<Server> = LazyLock::new(Server::start);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A new database.
pub(crate) fn database() -> Database {
    named().0
}

/// A new database, and its name for [`sql`].
pub(crate) fn named() -> (Database, String) {
    let name = format!("test{}", NEXT.fetch_add(1, Ordering::Relaxed));
    (create(&SERVER, &name), name)
}

/// Runs statements in a database, and returns what they print.
pub(crate) fn sql(name: &str, statements: &str) -> String {
    SERVER.sql(name, statements)
}

/// Creates a database of a server.
pub(crate) fn create(server: &Server, name: &str) -> Database {
    server.sql("postgres", &format!("CREATE DATABASE {name}"));
    Database::Postgres(ConnectionString::new(server.url(name)))
}

pub(crate) fn content() -> platform::Content {
    platform::Content::Files
}
