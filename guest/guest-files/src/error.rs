//! Errors: those that are reported to the host, and those for which there is no host any more.

use std::io;
use std::path::{Path, PathBuf};

use files_proto::{Code, Failure};

/// An error of a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operation failed.
    #[error("{}", .0.message)]
    Failed(Failure),
    /// The request cannot be read.
    #[error("cannot read the request")]
    Request {
        /// The cause.
        source: io::Error,
    },
    /// A file cannot be read to its end, or its content cannot be written.
    #[error("cannot copy {}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A reply cannot be written.
    #[error("cannot write a reply")]
    Reply {
        /// The cause.
        source: io::Error,
    },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// "cannot `operation` `path`: why"
pub(crate) fn failed<'a>(
    operation: &'a str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> Error + use<'a> {
    move |source| {
        let code = source.raw_os_error().map_or(Code::Internal, Code::of);
        fail(code, format!("cannot {operation} {}: {}", path.display(), text(&source)))
    }
}

pub(crate) fn invalid(message: String) -> Error {
    fail(Code::InvalidArgument, message)
}

pub(crate) fn fail(code: Code, message: String) -> Error {
    Error::Failed(Failure { code, message })
}

/// The meaning of an error, as a phrase.
fn text(error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else {
        return error.to_string();
    };
    let mut text = nix::errno::Errno::from_raw(number).desc().to_owned();
    // "I/O error" begins with no word.
    let begins_with_word = text.as_bytes().get(1).is_some_and(u8::is_ascii_lowercase);
    if let Some(first) = text.get_mut(..1).filter(|_| begins_with_word) {
        first.make_ascii_lowercase();
    }
    text
}
