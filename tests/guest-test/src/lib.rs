//! What the guest's programs are tested against: HTTP servers on loopback that answer as they are
//! told, misbehave on purpose, and remember what they were asked.
//!
//! | to have | use |
//! |---|---|
//! | any HTTP server, and its faults | [`Server`], [`Reply`] |
//! | the platform, as its contract says | [`FakePlatform`] |
//! | a certificate authority and a server that it vouches for | [`Authority`] |
//! | archives, good and evil | [`archive`] |

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
