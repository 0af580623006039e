//! The guest's end against a scripted host, over a socket pair.

#![allow(clippy::unwrap_used, reason = "tests")]

mod copy;
mod exec;
mod file;
mod host;
mod link;
mod port;
