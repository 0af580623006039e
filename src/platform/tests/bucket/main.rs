//! The tests of tests/platform about content, with an object store; and what only it can do. `scripts/test`
//! installs the store.

#![allow(clippy::unwrap_used, reason = "a test that fails should")]

#[path = "../platform/harness.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod harness;
mod store;

#[path = "../platform/checkpoints.rs"]
mod checkpoints;
#[path = "../platform/storages.rs"]
mod storages;

mod bucket;
mod hostile;
