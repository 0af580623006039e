//! All messages, by direction. The crate's page has the table of requests and answers.
//!
//! A variant's position is its number on the wire: new ones go to the end, and any other
//! change needs a new [`VERSION`](crate::VERSION).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    Connect, Entry, Exec, ExecPart, Exit, GuestState, LinkSecret, Listening, PtySize, Read, Stream,
    WatchPorts, Write,
};

/// Names a request, from its first message to its last. The host counts them up from 1
/// and never uses one twice on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(pub u64);

impl RequestId {
    /// The id of messages about the link itself.
    pub const LINK: Self = Self(0);
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A message from the host to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostMessage<'a> {
    /// The request that it starts or is about.
    pub id: RequestId,
    /// Its content.
    #[serde(borrow)]
    pub body: HostBody<'a>,
}

/// What the host says to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostBody<'a> {
    /// Link: the guest's hello is accepted. The service proves itself with this secret when it
    /// dials again; a client of a relay gives none.
    Welcome(Option<LinkSecret>),
    /// Link: the guest's hello is refused, and why; it must not dial again.
    Reject(String),
    /// Request: answered at once with `Done`.
    Ping,
    /// Request: run a command.
    Exec(Exec),
    /// Request: write the tree that follows.
    Write(Write),
    /// Request: send the tree at a path.
    Read(Read),
    /// Request: set clock, entropy, host name and time zone.
    SetState(GuestState),
    /// Request: flush file systems, finish sending, then be silent.
    Quiesce,
    /// Request: end all processes, unmount, power off.
    Shutdown,
    /// Bytes for a command's standard input, or of the file whose entry came last.
    Data(#[serde(borrow, with = "serde_bytes")] &'a [u8]),
    /// The next entry of a `Write`.
    Entry(Entry),
    /// Standard input, or the tree, is complete.
    End,
    /// Grants more credit, in bytes, for a stream of this request.
    Credit(Stream, u64),
    /// The size of the command's terminal changed.
    Resize(PtySize),
    /// Send a signal to the command; with a PTY, to the process group in its foreground.
    Signal(u8),
    /// End the request: kill the command with all its descendants, remove the unfinished file.
    Cancel,
    /// More arguments and variables of an `Exec` that is partial.
    ExecPart(ExecPart),
    /// Request: open a connection to a port in the guest; `End` ends its way there.
    Connect(Connect),
    /// Request: tell which ports have listeners, until it is cancelled.
    WatchPorts(WatchPorts),
}

/// A message from the guest to the host, after its hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestMessage<'a> {
    /// The request that it is about.
    pub id: RequestId,
    /// Its content.
    #[serde(borrow)]
    pub body: GuestBody<'a>,
}

/// What the guest says to the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestBody<'a> {
    /// Link: requests are welcome.
    Ready(Ready),
    /// The command runs, with this process id.
    Started(u32),
    /// Bytes of a command's output, or of the file whose entry came last.
    Data(Stream, #[serde(borrow, with = "serde_bytes")] &'a [u8]),
    /// The next entry of a `Read`.
    Entry(Entry),
    /// Grants more credit, in bytes, to this request.
    Credit(u64),
    /// Final: the command ended; all its output has been sent.
    Exit(Exit),
    /// Final: the request succeeded.
    Done,
    /// Final: the request failed.
    Failed(Failure),
    /// The command ended, and all that it wrote itself has been sent; its descendants are followed.
    Ended(Exit),
    /// The connection that was asked for is open.
    Connected,
    /// A connection's way from the guest has ended; its other way may go on.
    End,
    /// The ports that have listeners have changed, or are told for the first time.
    Listening(Listening),
}

/// The guest's description, sent once it takes requests.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ready {
    /// The running kernel's release.
    pub kernel: String,
    /// Microseconds from the kernel's start to this message.
    pub uptime_us: u64,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The error's number, 0 if none fits.
    pub errno: i32,
    /// What could not be done, on what, and why.
    pub message: String,
}

impl HostBody<'_> {
    /// Whether this starts a request rather than being about one.
    pub fn is_request(&self) -> bool {
        match self {
            Self::Ping
            | Self::Exec(_)
            | Self::Write(_)
            | Self::Read(_)
            | Self::SetState(_)
            | Self::Quiesce
            | Self::Shutdown
            | Self::Connect(_)
            | Self::WatchPorts(_) => true,
            Self::Welcome(_)
            | Self::Reject(_)
            | Self::Data(_)
            | Self::Entry(_)
            | Self::End
            | Self::Credit(..)
            | Self::Resize(_)
            | Self::Signal(_)
            | Self::Cancel
            | Self::ExecPart(_) => false,
        }
    }
}

impl GuestBody<'_> {
    /// Whether this ends its request.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Exit(_) | Self::Done | Self::Failed(_))
    }
}
