//! The messages between host and guest, and their framing.
//!
//! Pure data: no I/O, no threads, no unsafe. Both ends build on it, `vsock-host`
//! and `vsock-guest`, and so does the relay behind a VM's control socket.
//!
//! # On the wire
//!
//! A connection carries frames both ways: a 32-bit little-endian length, then that
//! many bytes (at most [`MAX_FRAME`]) of one [postcard] message. The guest dials.
//!
//! | step | from  | message                                 | meaning |
//! |------|-------|-----------------------------------------|---------|
//! | 1    | guest | [`Hello`]                               | protocol version, boot id, why the service before it ended, its [`LinkSecret`] if it has one |
//! | 2    | host  | [`HostBody::Welcome`] or [`HostBody::Reject`] | go on, with this [`LinkSecret`] for the next hello; or stop and why |
//! | 3    | guest | [`GuestBody::Ready`]            | requests are welcome |
//! | 4    | host  | requests, each with a [`RequestId`] of its own | many at once, answered in any order |
//!
//! Requests and what the guest answers; `…` may repeat, `[ ]` may be missing:
//!
//! | request    | then from the host                    | answers of the guest |
//! |------------|---------------------------------------|----------------------|
//! | `Ping`     |                                       | `Done` |
//! | `Exec`     | [`ExecPart…`](ExecPart), `Data…` `End`, `Credit…`, `Resize`, `Signal`, `Cancel` | `Started`, `Data…`, `Credit…`, [`Ended`, `Data…`], `Exit` |
//! | `Write`    | (`Entry` `Data…`)… `End`, `Cancel`    | `Credit…`, `Done` or `Failed` |
//! | `Read`     | `Credit…`, `Cancel`                   | (`Entry` `Data…`)… `Done` or `Failed` |
//! | `Connect`  | `Data…` `End`, `Credit…`, `Cancel`    | `Connected`, `Data…`, `Credit…`, `End`, `Done` or `Failed` |
//! | `WatchPorts` | `Cancel`                            | `Listening…`, `Done` |
//! | `SetState` |                                       | `Done` or `Failed` |
//! | `Quiesce`  |                                       | `Done` or `Failed`; silence until the host speaks again |
//! | `Shutdown` |                                       | `Done`, then the power goes off |
//!
//! `Exit`, `Done` and `Failed` end a request; what comes for an ended or unknown
//! request is ignored, which is safe because ids are never used twice.
//!
//! # Flow control
//!
//! Every byte stream starts with [`WINDOW`] bytes of credit and gets more by `Credit`
//! as its reader consumes, so no stream can fill the memory of the other end, and
//! none can hold up another. See [`SendWindow`] and [`ReceiveWindow`].
//!
//! [postcard]: https://postcard.jamesmunns.com/wire-format

mod connect;
mod credit;
mod error;
mod exec;
mod frame;
mod hello;
mod list;
mod message;
mod state;
mod tree;

pub use connect::{Connect, Listening, WatchPorts};
pub use credit::{ReceiveWindow, SendWindow, WINDOW};
pub use error::{Error, Result};
pub use exec::{Exec, ExecPart, Exit, Outcome, PtySize, Stream, StreamTotal, Timeout, User};
pub use frame::{CHUNK, Decoder, MAX_FRAME, encode};
pub use hello::{BootId, Hello, LinkSecret, VERSION};
pub use message::{Failure, GuestBody, GuestMessage, HostBody, HostMessage, Ready, RequestId};
pub use state::GuestState;
pub use tree::{Entry, EntryKind, Owner, Read, Special, Write};

/// The port on the host, CID 2, that every guest dials.
pub const PORT: u32 = 1000;

/// What a line on the console begins with if the guest cannot go on; the reason follows it.
pub const BOOT_FAILURE_PREFIX: &str = "guest-init: boot failed: ";
