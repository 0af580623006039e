//! The real host end against the real guest end, over Unix sockets: what the tests share.
//!
//! A [`Pair`] is both ends in one process, a [`Lifeline`] tells whether a command still lives, a
//! [`Cgroups`] is where its cgroup is. Nothing here sleeps, and nothing waits longer than
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
