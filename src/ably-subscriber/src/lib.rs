#![doc = include_str!("../README.md")]
//!
//! # Inside
//!
//! ```text
//!   subscriber                     ably                              ably-errand, when needed
//!   ──────────                     ────                              ────────────────────────
//!   Subscription ── Signal ──────▶ Worker: sleeps in poll            Dialer: token, name, TCP, TLS,
//!     recv ◀─────── Queue ◀─────── │ Channel: attached? what was     │ WebSocket, CONNECTED
//!                                  │   delivered?                    │
//!                                  └ Link ◀──────── Errand ──────────┘
//! ```
//!
//! The thread `ably` waits for the socket, its signal and the next deadline, all in one place. What may
//! block is done by a thread that lives only as long: so messages are read while a token is fetched.
//!
//! # Invariants
//!
//! - No message is lost without [`Event::Gap`], and none comes twice.
//! - Memory is bounded: by the largest frame, the most events, and nothing that a server announces.
//! - No text of this crate's, whether error, event or log line, has a token in it. Nor have those of
//!   its dependencies, since requests and frames are not given to what would log them.

#[cfg(not(target_os = "linux"))]
compile_error!("ably-subscriber needs Linux: its threads are woken by eventfd");

mod backoff;
mod channel;
mod config;
mod dial;
mod encoding;
mod errand;
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
mod wait;
mod worker;

pub use config::{Config, Timing};
pub use crossbeam_channel::{Receiver, RecvError, RecvTimeoutError};
pub use error::{Error, Result, TokenError};
pub use event::{Event, Failure, Gap};
pub use host::Hosts;
pub use message::{Data, Message};
pub use subscription::{Subscription, subscribe};
pub use token::TokenRequest;

/// What a fuzz target does with bytes of a server's. No part of the interface.
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub fn fuzz_decoder(bytes: &[u8]) {
    if let Some(frame) = frame::Frame::decode(bytes) {
        message::messages(&frame).for_each(drop);
    }
}
