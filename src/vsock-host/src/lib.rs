//! The host's end of the guest link.
//!
//! One [`Reactor`] serves all guests of a process. A [`Guest`] is a handle for as many threads as
//! want something of it; every call blocks, takes a deadline, and ends at once when the guest
//! is lost.
//!
//! # Threads
//!
//! ```text
//!   callers, any number                        vsock, one for all guests
//!   ───────────────────                        ─────────────────────────
//!   Guest, Execution, WriteTree, ReadTree      Engine: sleeps in mio::Poll
//!     │ encode, send without waiting             │ read, decode, route by request id
//!     ▼                                          ▼
//!   Outbox ── what the socket did not take ──▶ sends it when there is room
//!   Request ◀───────── answers ─────────────── puts them in, wakes the caller
//!     │ taken: Credit by way of the Outbox
//!   Remote ── commands and a waker ──────────▶ listen, adopt, relay, close, stop
//! ```
//!
//! The reactor never waits for a caller, a guest or a relay's client: what a guest sends is
//! bounded by its credit, what it is sent by the outbox's high-water mark. An idle reactor
//! sleeps without a time-out; timers exist only while somebody is being greeted or sent off.
//!
//! # Locks
//!
//! Each guards a move of bytes, none a wait, and no two are ever held at once, so there is no
//! order to keep:
//!
//! | lock | guards | taken by |
//! |---|---|---|
//! | outbox | unsent bytes of a connection, and their order | callers, reactor |
//! | routes | which request an id is | callers at a request's start and end, reactor |
//! | request | answers that are not taken yet | its callers, reactor |
//! | inbox of a listener | the guest that is not accepted yet | its callers, reactor |
//!
//! The outbox's lock is held over a send, which cannot block.
//!
//! # A guest is not trusted
//!
//! Whatever it sends, it costs the host at most its requests' windows, twice the largest frame,
//! and the processor time for the bytes that it gets to send in its turns. What breaks the
//! protocol ends that guest's connection, with the reason in the error of every call on it.

mod answers;
mod call;
mod client;
mod connection;
mod deadline;
mod dial;
mod draining;
mod engine;
mod error;
mod execution;
mod forward;
mod guest;
mod handshake;
mod intake;
mod link;
mod listener;
mod monitor;
mod outbox;
mod phase;
mod ports;
mod queue;
mod reactor;
mod reception;
mod registration;
mod relay;
mod remote;
mod request;
mod throttle;
mod tree;

pub use error::{Error, Loss, Refusal, Result};
pub use execution::{Event, Execution, Output};
pub use guest::Guest;
pub use listener::Listener;
pub use phase::Phase;
pub use ports::Ports;
pub use reactor::Reactor;
pub use tree::{ReadTree, TreeItem, WriteTree};
