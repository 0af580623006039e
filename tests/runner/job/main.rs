//! Jobs of the platform as a user meets them: the built program, a platform in this process, and a
//! runner that does what the test says. None of it needs a VM or root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod artifact;
mod end;
mod errors;
mod fleet;
mod harness;
mod remote;
mod serve;
mod show;
mod submit;
mod token;
