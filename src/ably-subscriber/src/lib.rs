#![doc = include_str!("../README.md")]
//!
//! # Inside
//!
//! ```text
//!   subscriber                     ably                              ably-task, when needed
//!   ──────────                     ────                              ────────────────────────
//!   Subscription ── Signal ──────▶ Worker: sleeps in poll            Dialer: token, name, TCP, TLS,
//!     recv ◀─────── Queue ◀─────── │ Channel: attached? what was     │ WebSocket, CONNECTED
//!                                  │   delivered?                    │
//!                                  └ Link ◀──────── BackgroundTask ──────────┘
//! ```
//!
//! The thread `ably` waits for the socket, its signal and the next deadline in one place. Blocking work runs
//! on a short-lived thread, so messages are received while a token is fetched.
//!
//! # Invariants
//!
//! - No message is lost without [`Event::Gap`], and none is delivered twice.
//! - Memory is bounded: by the largest frame, the most events, and nothing that a server announces.
//! - No text of this crate's, whether error, event or log line, has a token in it. Nor have those of
//!   its dependencies, since requests and frames are not given to what would log them.

#[cfg(not(target_os = "linux"))]
compile_error!("ably-subscriber needs Linux: its threads are woken by eventfd");

mod background_task;
mod backoff;
mod channel;
mod config;
mod dial;
mod encoding;
mod error;
mod event;
mod frame;
mod host;
mod http;
mod link;
mod message;
mod msgpack;
mod pipe;
mod queue;
mod random;
mod recent;
mod renewal;
mod secret;
mod signal;
mod socket;
mod subscription;
mod token;
mod token_request;
mod wait;
mod worker;

pub use config::{Config, Timing};
pub use crossbeam_channel::{Receiver, RecvError, RecvTimeoutError};
pub use error::{Error, Result, TokenError};
pub use event::{Event, Failure, Gap};
pub use host::Hosts;
pub use message::{Data, Message};
pub use subscription::{Subscription, subscribe};
pub use token_request::TokenRequest;

/// Decodes a server's bytes, for a fuzz target. Not part of the interface.
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub fn fuzz_decoder(bytes: &[u8]) {
    if let Some(frame) = frame::Frame::decode(bytes) {
        message::messages(&frame).for_each(drop);
    }
}
