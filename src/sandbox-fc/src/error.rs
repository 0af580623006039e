//! What can go wrong with Firecracker.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// See each variant. `request` is like `PUT /boot-source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program cannot be looked at.
    #[error("cannot use {path}")]
    Program {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program does not say its version.
    #[error("{path} does not say its version: it is no Firecracker")]
    NoVersion {
        /// The program.
        path: PathBuf,
    },
    /// There is no jailer where one is named.
    #[error("there is no jailer at {path}")]
    NoJailer {
        /// Where.
        path: PathBuf,
    },
    /// The jailer did not come with the program.
    #[error("the jailer is {jailer} and Firecracker {firecracker}: use those of one release")]
    JailerVersion {
        /// The jailer's version.
        jailer: String,
        /// The program's.
        firecracker: String,
    },
    /// The program needs other files, and the jailer leaves it none.
    #[error("{path} is not static, as releases are: the jailer cannot run it")]
    Dynamic {
        /// The program.
        path: PathBuf,
    },
    /// The way to the root folder could not be made.
    #[error("cannot make {path} for the jailer")]
    Root {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program is of a version that must not be used.
    #[error("Firecracker {version} must not be used: {reason}")]
    Version {
        /// The version.
        version: String,
        /// Why.
        reason: &'static str,
    },
    /// The program is of a version whose VMs are not as they were after a pause.
    #[error("VMs of this version of Firecracker must not be paused: {reason}")]
    NoPause {
        /// Why.
        reason: &'static str,
    },
    /// A process could not be handled.
    #[error(transparent)]
    Process(process::Error),
    /// Nobody listens on the API's socket.
    #[error("cannot connect to {socket}")]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A request could not be written.
    #[error("cannot send {request}")]
    Send {
        /// The request.
        request: String,
        /// Why.
        source: io::Error,
    },
    /// A reply could not be read.
    #[error("cannot receive the reply to {request}")]
    Receive {
        /// The request.
        request: String,
        /// Why.
        source: io::Error,
    },
    /// A reply did not come in time.
    #[error("no reply to {request} within {after:.1?}")]
    TimedOut {
        /// The request.
        request: String,
        /// For how long it was waited.
        after: Duration,
    },
    /// The connection was closed in place of a reply.
    #[error("the connection ended before the reply to {request}")]
    Closed {
        /// The request.
        request: String,
    },
    /// A reply is no HTTP, or not what was expected.
    #[error("the reply to {request} makes no sense: {reason}")]
    Garbled {
        /// The request.
        request: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A reply is longer than any should be.
    #[error("the reply to {request} is longer than {limit} bytes")]
    TooLong {
        /// The request.
        request: String,
        /// The most that is read.
        limit: usize,
    },
    /// Firecracker does not do it.
    #[error("Firecracker refuses {request} ({status}): {fault}")]
    Refused {
        /// The request.
        request: String,
        /// The HTTP status.
        status: u16,
        /// Firecracker's `fault_message`.
        fault: String,
    },
    /// A call on this connection failed before, so that nobody knows what would come next.
    #[error("{request} is not sent: an earlier call on the connection failed")]
    Broken {
        /// The request.
        request: String,
    },
}

impl Error {
    /// Whether it may come of Firecracker's end.
    pub(crate) fn is_loss(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Send { .. } | Self::Receive { .. })
    }
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;
