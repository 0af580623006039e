//! The real host end against the real guest end, over Unix sockets: what the tests share.
//!
//! A [`Pair`] is both ends in one process. A [`Lifeline`] reports whether a command still lives. A
//! [`Cgroups`] is the parent of its cgroup. No function here sleeps, or waits longer than
//! [`soon`].

#![allow(clippy::unwrap_used, reason = "a fixture that fails fails its test")]

mod cgroups;
mod lifeline;
mod pair;
mod request;

pub use cgroups::Cgroups;
pub use lifeline::Lifeline;
pub use pair::{Pair, Tap, config, serve_on};
pub use request::{
    argv, code, directory, file, on_terminal, read_from, run, shell, soon, write_to,
};
