//! The client against SeaweedFS, and against a server that misbehaves.

#![allow(clippy::unwrap_used, reason = "a test that fails should")]

mod hostile;
mod store;
