//! What can go wrong with a sandbox.

use std::io;
use std::time::Duration;

/// See each variant. A kind of sandbox reports its own errors as the sources of these.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No randomness for an id.
    #[error("cannot read random bytes")]
    Entropy {
        /// Why.
        source: io::Error,
    },
    /// A text is not a sandbox's id.
    #[error("`{text}` is not a sandbox id (16 hexadecimal digits)")]
    InvalidId {
        /// The text.
        text: String,
    },
    /// A sandbox did not start.
    #[error("cannot start sandbox {id}")]
    Start {
        /// Its name.
        id: String,
        /// Why.
        source: Cause,
    },
    /// A sandbox did not end as it should.
    #[error("cannot stop sandbox {id}")]
    Stop {
        /// Its name.
        id: String,
        /// Why.
        source: Cause,
    },
    /// A sandbox that was ready did not become somebody's.
    #[error("cannot assign sandbox {id}")]
    Assign {
        /// Its name.
        id: String,
        /// Why.
        source: Cause,
    },
    /// A sandbox could not be put aside.
    #[error("cannot park sandbox {id}")]
    Park {
        /// Its name.
        id: String,
        /// Why.
        source: Cause,
    },
    /// A command could not be handed to the sandbox, or was lost with it.
    #[error("cannot run `{program}`")]
    Exec {
        /// The command's program.
        program: String,
        /// Why.
        source: Cause,
    },
    /// Files could not be moved.
    #[error("cannot copy {path}")]
    Copy {
        /// The path in the sandbox.
        path: String,
        /// Why.
        source: Cause,
    },
    /// Something did not happen in time.
    #[error("timed out after {after:.1?} {phase}")]
    TimedOut {
        /// What was being done: "waiting for the guest's hello".
        phase: String,
        /// For how long.
        after: Duration,
    },
}

/// An error of some kind of sandbox.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The result of a sandbox's calls.
pub type Result<T> = std::result::Result<T, Error>;
