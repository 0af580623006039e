//! The errors of Firecracker.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// An error of Firecracker. A `request` is like `PUT /boot-source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are the operands in the messages")]
pub enum Error {
    /// The program cannot be opened.
    #[error("cannot use {path}")]
    Program { path: PathBuf, source: io::Error },
    /// The program does not print a version.
    #[error("{path} does not print its version: it is not Firecracker")]
    NoVersion { path: PathBuf },
    /// The configured jailer does not exist.
    #[error("there is no jailer at {path}")]
    NoJailer { path: PathBuf },
    /// Jailer and program are of different releases.
    #[error("the jailer is {jailer} and Firecracker {firecracker}: use those of one release")]
    JailerVersion { jailer: String, firecracker: String },
    /// The program is dynamically linked, and the jailer's root has no libraries.
    #[error("{path} is not static, as releases are: the jailer cannot run it")]
    Dynamic { path: PathBuf },
    /// The jailer's folders could not be created.
    #[error("cannot create {path} for the jailer")]
    Root { path: PathBuf, source: io::Error },
    /// The program's version must not be used.
    #[error("Firecracker {version} must not be used: {reason}")]
    Version { version: String, reason: &'static str },
    /// VMs of the program's version do not survive a pause.
    #[error("VMs of this version of Firecracker must not be paused: {reason}")]
    NoPause { reason: &'static str },
    /// An operation on a process failed.
    #[error(transparent)]
    Process(process::Error),
    /// The API's socket refuses the connection.
    #[error("cannot connect to {socket}")]
    Connect { socket: PathBuf, source: io::Error },
    /// A request could not be written.
    #[error("cannot send {request}")]
    Send { request: String, source: io::Error },
    /// A reply could not be read.
    #[error("cannot receive the reply to {request}")]
    Receive { request: String, source: io::Error },
    /// A reply did not come in time.
    #[error("no reply to {request} within {after:.1?}")]
    TimedOut { request: String, after: Duration },
    /// The connection was closed before the reply.
    #[error("the connection ended before the reply to {request}")]
    Closed { request: String },
    /// A reply is malformed.
    #[error("the reply to {request} is malformed: {reason}")]
    Garbled { request: String, reason: String },
    /// A reply is too long.
    #[error("the reply to {request} is longer than {limit} bytes")]
    TooLong { request: String, limit: usize },
    /// Firecracker refused the request.
    #[error("Firecracker refuses {request} ({status}): {fault}")]
    Refused { request: String, status: u16, fault: String },
    /// An earlier call on this connection failed, so its state is unknown.
    #[error("{request} is not sent: an earlier call on the connection failed")]
    Broken { request: String },
}

impl Error {
    /// Whether the cause may be the end of Firecracker's process.
    pub(crate) fn is_loss(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Send { .. } | Self::Receive { .. })
    }
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
