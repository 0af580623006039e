//! Shared by the guest's programs and the runner: HTTP, the platform's API, the files of a run, and the
//! names of environment variables.
//!
//! | to do | use |
//! |---|---|
//! | make requests that can be cancelled | [`Client`], [`Stop`] |
//! | call the platform | [`Platform`] |
//! | retry a request | [`Retry`] |
//! | use the private files of a run | [`RunFolder`] |
//! | report to the platform how long something took | [`OperationLog`] |
//! | name a variable that the runner sets and the guest reads | [`mod@env`] |
//!
//! # Invariants
//!
//! - All calls block, none for ever: each request has limits, and [`Stop::signal`] ends all requests.
//! - The certificate roots are the system's, read at the first TLS connection.
//! - No error text holds a URL: a presigned URL is a secret.

mod client;
mod date;
pub mod env;
mod error;
mod folder;
mod operation;
mod platform;
mod resolver;
mod retry;
mod stop;

pub use base::error::chain;
pub use client::{Answer, Client, Limits};
pub use date::{epoch_ms, iso_now, iso_of};
pub use error::{Error, Result};
pub use folder::{Draft, RunFolder, allocate};
pub use operation::{OPERATIONS, Operation, OperationLog};
pub use platform::{ClientType, Identity, Platform};
pub use retry::{Retry, pause_after};
pub use stop::Stop;

/// A random UUID of version 4.
pub fn random_uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Whether lines of this log target may be logged: only those of our programs. The HTTP library logs
/// URLs and whole requests with their tokens.
pub fn may_be_logged(target: &str) -> bool {
    target.starts_with("guest_")
}
