//! The server over loopback sockets.
#![allow(clippy::unwrap_used, reason = "tests")]

mod harness;
mod hostile;
mod message;
mod stop;
mod stream;
mod tls;
mod upgrade;
