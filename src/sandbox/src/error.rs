//! The errors of sandboxes.

use std::io;
use std::time::Duration;

/// An error of a sandbox. The errors of one kind of sandbox are the sources of these.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are the operands in the messages")]
pub enum Error {
    /// Random bytes for an id could not be read.
    #[error("cannot read random bytes")]
    Entropy { source: io::Error },
    /// A text is not a sandbox id.
    #[error("`{text}` is not a sandbox id (16 hexadecimal digits)")]
    InvalidId { text: String },
    /// A sandbox did not start.
    #[error("cannot start sandbox {id}")]
    Start { id: String, source: Cause },
    /// A sandbox did not end in order.
    #[error("cannot stop sandbox {id}")]
    Stop { id: String, source: Cause },
    /// A warm or parked sandbox could not be assigned.
    #[error("cannot assign sandbox {id}")]
    Assign { id: String, source: Cause },
    /// A sandbox could not be parked.
    #[error("cannot park sandbox {id}")]
    Park { id: String, source: Cause },
    /// The network of a sandbox could not be changed.
    #[error("cannot change the network of sandbox {id}")]
    SetNetwork { id: String, source: Cause },
    /// A command could not be started, or was lost with its sandbox.
    #[error("cannot run `{program}`")]
    Exec { program: String, source: Cause },
    /// Files could not be copied. `errno` is the number of the guest's error, if it reported one.
    #[error("cannot copy {path}")]
    Copy { path: String, errno: Option<i32>, source: Cause },
    /// No process in the sandbox listens on the port.
    #[error("nothing listens on port {port} of the sandbox")]
    NothingListens { port: u16 },
    /// A port could not be connected to for another reason; the sandbox may be lost.
    #[error("cannot connect to port {port} of the sandbox")]
    Connect { port: u16, source: Cause },
    /// A thread that is to wait for a sandbox could not.
    #[error("cannot wait for the sandbox")]
    Event { source: io::Error },
    /// An operation timed out; `phase` is what was being done.
    #[error("timed out after {after:.1?} {phase}")]
    TimedOut { phase: String, after: Duration },
}

/// An error of some kind of sandbox.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
