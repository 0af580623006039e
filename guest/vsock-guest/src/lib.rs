//! The guest's end of the guest link: runs commands and moves files for the host.
//!
//! [`serve()`] speaks the protocol of `vsock-proto` on one connection, over any stream socket, and
//! returns when it ends. A [`Service`] is what lives longer than a connection.
//!
//! # Threads
//!
//! One thread runs all commands: it sleeps in one `ppoll(2)` on the connection, on the pipes,
//! terminals and pidfds of all commands, and until the next time-out. So a ping is answered at
//! once, a command costs no thread, and a silent command costs no wake-up. What may block in the
//! kernel for long (files, the state of the machine, a flush) has a thread per request,
//! `file-<id>`, that talks to the loop through channels and an eventfd.
//!
//! ```text
//!               ┌──────── loop ────────┐  parts   ┌─ file-7 ─┐
//!   host ◀────▶ │ link   commands      │ ───────▶ │ write    │
//!               │        pipes, pidfds │ ◀─────── │ read …   │
//!               └──────────────────────┘  events, └──────────┘
//!                                         eventfd
//! ```
//!
//! # Invariants
//!
//! - The loop waits for nothing but `ppoll`; it never blocks on a channel.
//! - A stream holds at most its window in memory; output is read only while it may be sent.
//! - When `serve` returns, no command of its connection runs and no unfinished file is left. Processes
//!   that outlived their commands live on: their pipes are the [`Service`]'s, read and dropped.

mod account;
mod authority;
mod buffers;
mod command;
mod connection;
mod error;
mod failure;
mod forward;
mod garbage;
mod input;
mod launch;
mod link;
mod listeners;
mod output;
mod read;
mod request;
mod secret;
mod serve;
mod service;
mod shutdown;
mod state;
mod survivor;
mod sys;
mod terminal;
mod transfer;
mod tree;
mod write;

pub use error::{Error, Result};
pub use serve::{End, serve};
pub use service::{Config, Service};
