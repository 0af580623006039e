//! The real mitmproxy between guests and an internet, each a network namespace, with `curl` in the guests.

#![allow(clippy::unwrap_used, reason = "tests")]

mod body;
mod bypass;
mod credential;
mod fixture;
mod host_address;
mod life;
mod request;
mod websocket;
