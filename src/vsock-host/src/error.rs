//! Errors of calls to a guest.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::Phase;

/// An error of a call to a guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The reactor's thread, epoll set or waker could not be created.
    #[error("cannot start the reactor of the guest link")]
    Start {
        /// The cause.
        source: io::Error,
    },
    /// The reactor's thread cannot wait for events, and has ended.
    #[error("cannot wait for guests")]
    Wait {
        /// The cause.
        source: io::Error,
    },
    /// The socket that guests dial could not be created.
    #[error("cannot listen on {path}")]
    Listen {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Connecting to a socket failed.
    #[error("cannot connect to {path}")]
    Connect {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A connection could not be configured.
    #[error("cannot set up a connection")]
    Adopt {
        /// The cause.
        source: io::Error,
    },
    /// The peer is not a guest, or speaks another protocol version.
    #[error("refused a guest's hello")]
    Hello {
        /// The cause.
        source: vsock_proto::Error,
    },
    /// A guest process other than the known service dialled.
    #[error("a hello without the secret that the guest's service was given")]
    NotTheService,
    /// The deadline passed.
    #[error("timed out after {:.1} s waiting for the guest to {phase}", after.as_secs_f64())]
    TimedOut {
        /// From the call's start.
        after: Duration,
        /// The step that the call waited for.
        phase: Phase,
    },
    /// The connection ended.
    #[error("lost the guest, which was to {phase}")]
    Lost {
        /// The step that the call waited for.
        phase: Phase,
        /// The cause.
        source: Arc<Loss>,
    },
    /// The guest reports a failure.
    #[error("the guest could not {phase}")]
    Refused {
        /// The step that failed.
        phase: Phase,
        /// The cause.
        source: Refusal,
    },
    /// A message exceeds the protocol's limit.
    #[error("cannot ask the guest to {phase}")]
    Encode {
        /// The step that the message was for.
        phase: Phase,
        /// The cause.
        source: vsock_proto::Error,
    },
    /// An entry's path or a link's target is too long for the protocol.
    #[error("an entry of {cost} bytes for `{path}` is over the limit of {}", vsock_proto::WINDOW)]
    EntryTooLong {
        /// The tree's path in the guest.
        path: String,
        /// The entry's credit cost.
        cost: u64,
    },
    /// The command has ended, was started without input, or its input was closed.
    #[error("`{program}` takes no input any more")]
    InputClosed {
        /// Its first argument.
        program: String,
    },
    /// A command's output exceeds the caller's limit.
    #[error("`{program}` wrote more than {limit} bytes")]
    TooMuchOutput {
        /// Its first argument.
        program: String,
        /// The caller's limit.
        limit: usize,
    },
    /// The listener was closed during the call.
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
        /// The cause.
        source: io::Error,
    },
    /// It sent malformed bytes, or more bytes than it had credit for.
    #[error("it broke the protocol")]
    Protocol {
        /// The violation.
        source: vsock_proto::Error,
    },
    /// It sent a message that the protocol does not allow in that state.
    #[error("it broke the protocol: {message} is not allowed {place}")]
    Unexpected {
        /// The message's name.
        message: &'static str,
        /// The state in which it came.
        place: &'static str,
    },
    /// A relay's client does not read, and its backlog exceeds the limit.
    #[error("it does not read: {backlog} bytes are waiting for it")]
    Deaf {
        /// The number of unread bytes.
        backlog: usize,
    },
    /// It did not finish the greeting in time.
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

/// A failure as the guest describes it. The text is untrusted, and bounded in length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The error's number, 0 if none fits.
    pub errno: i32,
    /// The operation, its operand and the cause.
    pub message: String,
}

impl From<vsock_proto::Error> for Loss {
    fn from(source: vsock_proto::Error) -> Self {
        Self::Protocol { source }
    }
}

/// The cause of a call's failure; with its phase it becomes an [`Error`].
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
