//! Errors of operations on files.

use std::io;

use files_proto::{Code, Failure};

use crate::wait::Stopped;

/// An error of an operation on files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are the operands in the messages")]
pub enum Error {
    /// The operation failed in the sandbox. The text is untrusted.
    #[error("{}", .0.message)]
    Failed(Failure),
    /// The sandbox is lost, or did not answer in time.
    #[error(transparent)]
    Sandbox(sandbox::Error),
    /// The sandbox was paused or ended in the middle of the operation.
    #[error("the sandbox was paused or ended meanwhile")]
    Closed,
    /// The sandbox has no such user.
    #[error("{message}")]
    NoUser { message: String },
    /// The image lacks the program.
    #[error(
        "the sandbox cannot run {program} ({reason}): build its image anew with `runner image build`"
    )]
    NoProgram { program: &'static str, reason: String },
    /// The program sent something else than a reply.
    #[error("guest-files sent a malformed reply")]
    Malformed,
    /// The program ended in the middle of an operation.
    #[error("guest-files ended early with code {code}: {stderr}")]
    EndedEarly { code: u8, stderr: String },
    /// The bytes to be written could not be read.
    #[error("cannot read the content for {path}")]
    Content { path: String, source: io::Error },
}

/// The result of operations on files.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The kind of a failure in the sandbox.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Failed(failure) => Some(failure.code),
            _ => None,
        }
    }
}

impl From<sandbox::Error> for Error {
    fn from(error: sandbox::Error) -> Self {
        match &error {
            sandbox::Error::Copy { errno: Some(errno), .. } => {
                let code = Code::of(*errno);
                Self::Failed(Failure { code, message: base::error::chain(&error) })
            }
            _ => Self::Sandbox(error),
        }
    }
}

impl From<Stopped> for Error {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Sandbox(error) => error.into(),
            Stopped::Closed => Self::Closed,
        }
    }
}

pub(super) fn failed(code: Code, message: String) -> Error {
    Error::Failed(Failure { code, message })
}
