//! The real mitmproxy between guests and an internet, all of them namespaces; `curl` in the guests.

#![allow(clippy::unwrap_used, reason = "tests")]

mod body;
mod bypass;
mod credential;
mod life;
mod own;
mod request;
mod scene;
mod websocket;
