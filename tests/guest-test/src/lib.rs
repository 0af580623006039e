//! Test doubles for the guest's programs: HTTP servers on loopback with scripted answers and faults,
//! which record all requests.
//!
//! | for | use |
//! |---|---|
//! | an HTTP server and its faults | [`Server`], [`Reply`] |
//! | a platform that follows the contract | [`FakePlatform`] |
//! | a certificate authority and server certificates | [`Authority`] |
//! | valid and malicious archives | [`archive`] |

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![allow(clippy::expect_used, reason = "a test that cannot be set up has failed")]

pub mod archive;
mod authority;
mod http;
mod platform;
mod server;

pub use authority::{Authority, Identity};
pub use http::{Ending, Reply, Request};
pub use platform::FakePlatform;
pub use server::Server;
