//! What the guest's programs share: HTTP with the system's certificate roots, the platform's API,
//! and the files of a run.
//!
//! | to do | use |
//! |---|---|
//! | make requests that somebody can stop | [`Client`], [`Stop`] |
//! | call the platform | [`Platform`] |
//! | try again what may come right | [`Retry`] |
//! | keep private files of a run | [`RunFolder`] |
//! | tell the platform how long something took | [`OperationLog`] |
//!
//! # Invariants
//!
//! - Everything blocks, nothing blocks for ever: each request has limits, and [`Stop::signal`] ends
//!   all that are under way.
//! - The certificate roots are the system's, read when the first TLS connection is made.
//! - No error text holds a URL: a presigned one is a secret.

mod client;
mod date;
mod error;
mod folder;
mod operation;
mod platform;
mod resolver;
mod retry;
mod stop;
mod uuid;

pub use client::{Answer, Client, Limits};
pub use date::{epoch_ms, iso_now, iso_of};
pub use error::{Error, Result, chain};
pub use folder::{Draft, RunFolder, allocate};
pub use operation::{OPERATIONS, Operation, OperationLog};
pub use platform::{Identity, Kind, Platform};
pub use retry::{Retry, pause_after};
pub use stop::Stop;
pub use uuid::random as random_uuid;

/// Whether a log line's `target` is one of our programs. Others are not to be logged, at any level:
/// the HTTP library logs URLs and whole requests, tokens included.
pub fn may_be_logged(target: &str) -> bool {
    target.starts_with("guest_")
}
