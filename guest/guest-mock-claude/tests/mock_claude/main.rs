//! The built program, run as a caller of the Claude Code CLI runs that.

#![allow(clippy::unwrap_used)]

mod harness;

mod arguments;
mod ending;
mod events;
mod history;
mod output;
mod special;
mod stdin;
