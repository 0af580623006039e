//! The subscriber against a server that speaks Ably's protocol by Ably's own codec.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attach;
mod close;
mod data;
mod expect;
mod fidelity;
mod recovery;
mod server;
mod tls;
mod token;
