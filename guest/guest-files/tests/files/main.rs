//! guest-files on a temporary folder.

#![allow(clippy::unwrap_used, reason = "tests")]

mod harness;
mod operation;
mod program;
mod watch;
