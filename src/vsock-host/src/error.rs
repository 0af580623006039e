//! What can go wrong on the way to a guest, and in it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::Phase;

/// See each variant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The reactor's thread, or what it needs, could not be made.
    #[error("cannot start the reactor of the guest link")]
    Start {
        /// Why.
        source: io::Error,
    },
    /// The reactor's thread cannot wait for events, and has ended.
    #[error("cannot wait for guests")]
    Wait {
        /// Why.
        source: io::Error,
    },
    /// A socket for guests to dial could not be made.
    #[error("cannot listen on {path}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody could be reached at a socket.
    #[error("cannot connect to {path}")]
    Connect {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A connection could not be made ready for use.
    #[error("cannot set up a connection")]
    Adopt {
        /// Why.
        source: io::Error,
    },
    /// What dialled is no guest of ours, or of another version.
    #[error("refused a guest's hello")]
    Hello {
        /// Why.
        source: vsock_proto::Error,
    },
    /// A process of the guest dialled that is not the service, which was there before.
    #[error("a hello without the secret that the guest's service was given")]
    NotTheService,
    /// The deadline passed.
    #[error("timed out after {:.1} s waiting for the guest to {phase}", after.as_secs_f64())]
    TimedOut {
        /// From the call's start.
        after: Duration,
        /// What it was waiting for.
        phase: Phase,
    },
    /// The connection ended.
    #[error("lost the guest, which was to {phase}")]
    Lost {
        /// What it was waited for.
        phase: Phase,
        /// Why.
        source: Arc<Loss>,
    },
    /// The guest says that it cannot.
    #[error("the guest could not {phase}")]
    Refused {
        /// What it was asked.
        phase: Phase,
        /// Why.
        source: Refusal,
    },
    /// A message that is too long for the protocol.
    #[error("cannot ask the guest to {phase}")]
    Encode {
        /// What it was to be asked.
        phase: Phase,
        /// Why.
        source: vsock_proto::Error,
    },
    /// An entry's path, or what a link holds, is too long for the protocol.
    #[error("an entry of {cost} bytes for `{path}` is over the limit of {}", vsock_proto::WINDOW)]
    EntryTooLong {
        /// Where the tree goes.
        path: String,
        /// What the entry costs.
        cost: u64,
    },
    /// The command has ended, was started without input, or its input was closed.
    #[error("`{program}` takes no input any more")]
    InputClosed {
        /// Its first argument.
        program: String,
    },
    /// A command wrote more than its caller wants to hold.
    #[error("`{program}` wrote more than {limit} bytes")]
    TooMuchOutput {
        /// Its first argument.
        program: String,
        /// The caller's limit.
        limit: usize,
    },
    /// The listener was closed while it was waited for.
    #[error("the listener for the guest is closed")]
    ListenerClosed,
    /// The reactor has stopped.
    #[error("the reactor of the guest link has stopped")]
    Stopped,
    /// The reactor's thread panicked; every guest was lost with it.
    #[error("the reactor of the guest link panicked")]
    Panicked,
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a connection ended. All calls that waited on it share one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Loss {
    /// The other end closed it.
    #[error("it closed the connection")]
    Closed,
    /// The other end closed it with half a message sent.
    #[error("it closed the connection in the middle of a message")]
    MidFrame,
    /// Reading or writing failed.
    #[error("its connection failed")]
    Socket {
        /// Why.
        source: io::Error,
    },
    /// Its bytes make no sense, or are more than it had credit for.
    #[error("it broke the protocol")]
    Protocol {
        /// How.
        source: vsock_proto::Error,
    },
    /// A message that makes no sense at that moment.
    #[error("it broke the protocol: {message} is not allowed {place}")]
    Unexpected {
        /// The message's name.
        message: &'static str,
        /// Where it came.
        place: &'static str,
    },
    /// A client of a relay takes nothing, and too much is waiting for it.
    #[error("it does not read: {backlog} bytes are waiting for it")]
    Deaf {
        /// How many.
        backlog: usize,
    },
    /// It did not take part in the greeting in time.
    #[error("it did not answer the hello in time")]
    Silent,
    /// The guest dialled again.
    #[error("a newer connection took its place")]
    Replaced,
    /// `Guest::close`, or the last handle was dropped.
    #[error("the connection was closed on this side")]
    ClosedHere,
    /// The guest that a client was relayed to is gone.
    #[error("the guest behind the relay is gone")]
    GuestGone,
    /// The reactor was stopped.
    #[error("the reactor has stopped")]
    Stopped,
    /// The reactor's thread panicked.
    #[error("the reactor panicked")]
    Panicked,
}

/// A guest's own words on what it could not do. Not to be trusted, but bounded in length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The error's number, 0 if none fits.
    pub errno: i32,
    /// What could not be done, on what, and why.
    pub message: String,
}

impl From<vsock_proto::Error> for Loss {
    fn from(source: vsock_proto::Error) -> Self {
        Self::Protocol { source }
    }
}

/// Why a call could not go on; with its phase it is an [`Error`].
#[derive(Debug)]
pub(crate) enum Halt {
    TimedOut { after: Duration },
    Lost(Arc<Loss>),
    Encode(vsock_proto::Error),
}

impl Halt {
    pub(crate) fn during(self, phase: Phase) -> Error {
        match self {
            Self::TimedOut { after } => Error::TimedOut { after, phase },
            Self::Lost(source) => Error::Lost { phase, source },
            Self::Encode(source) => Error::Encode { phase, source },
        }
    }
}
