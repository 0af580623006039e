//! The host's end of the guest link.
//!
//! One [`Reactor`] serves all guests of a process. A [`Guest`] is a handle that any number of
//! threads may share; every call blocks, takes a deadline, and ends at once when the guest
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
//! sleeps without a time-out; timers exist only during handshakes and while connections drain.
//!
//! # Modules
//!
//! `wire` is bytes on a socket. `call` is the callers' side: handles, and the state that a request
//! shares with the reactor. `engine` is the reactor's side. Each uses those before it only; `call`
//! reaches `engine` by commands.
//!
//! # Locks
//!
//! Each lock guards a copy of bytes, never a wait. No two are held at once, so there is no lock
//! order:
//!
//! | lock | guards | taken by |
//! |---|---|---|
//! | outbox | unsent bytes of a connection, and their order | callers, reactor |
//! | routes | where the answers to a request go | callers at a request's start and end, reactor |
//! | request | answers that are not taken yet | its callers, reactor |
//! | inbox of a listener | the guest that is not accepted yet | its callers, reactor |
//!
//! The outbox's lock is held over a send, which cannot block.
//!
//! # A guest is not trusted
//!
//! A guest costs the host at most its requests' windows, twice the largest frame,
//! and the CPU time for the bytes that it sends in its turns. A violation of the
//! protocol ends that guest's connection. The error of every call on it has the reason.

mod call;
mod deadline;
mod engine;
mod error;
mod monitor;
mod phase;
mod wire;

pub use call::{Event, Execution, Guest, Listener, Output, Ports, ReadTree, TreeItem, WriteTree};
pub use engine::Reactor;
pub use error::{Error, Loss, Refusal, Result};
pub use phase::Phase;
