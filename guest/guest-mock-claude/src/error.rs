//! What ends the program before its prompt was answered.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

/// See each variant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// An unknown flag, or a value that is missing or not text.
    #[error("cannot read the arguments")]
    Arguments { source: lexopt::Error },
    #[error("{flag} takes {allowed}, not {value:?}")]
    Value { flag: &'static str, allowed: &'static str, value: String },
    #[error("a prompt is needed, as an argument or on stdin")]
    NoPrompt,
    #[error("cannot read stdin")]
    ReadStdin { source: io::Error },
    #[error("cannot read line {line} of stdin as a message")]
    Message { line: usize, source: serde_json::Error },
    #[error("@flood: takes a number of events, not {value:?}")]
    Flood { value: String },
    #[error("cannot find the working directory")]
    WorkingDirectory { source: io::Error },
    #[error("HOME is not set, so there is no place for the history")]
    NoHome,
    #[error("cannot make an id from /dev/urandom")]
    Random { source: io::Error },
    #[error("no conversation found with session id {id}: {} does not exist", path.display())]
    NoConversation { id: String, path: PathBuf },
    #[error("cannot open the history {}", path.display())]
    OpenHistory { path: PathBuf, source: io::Error },
    #[error("cannot read the history {}", path.display())]
    ReadHistory { path: PathBuf, source: io::Error },
    #[error("cannot write the history {}", path.display())]
    WriteHistory { path: PathBuf, source: io::Error },
    #[error("cannot turn an event into JSON")]
    Encode { source: serde_json::Error },
    #[error("cannot write to stdout")]
    WriteStdout { source: io::Error },
    /// Not a failure: whoever read the events has gone.
    #[error("nobody reads stdout")]
    StdoutClosed,
    #[error("cannot start {program}")]
    Start { program: &'static str, source: io::Error },
    #[error("cannot hand the script to bash in a file in memory")]
    Script { source: io::Error },
    #[error("cannot take signals as events")]
    Signals { source: Errno },
    #[error("cannot wait for bash")]
    Wait { source: io::Error },
    #[error("cannot read the output of bash")]
    ReadOutput { source: io::Error },
    /// Not a failure: a signal asked for the end while bash ran.
    #[error("stopped by signal {signal}")]
    Stopped { signal: u8 },
}

/// The result of everything that can end the program.
pub(crate) type Result<T> = std::result::Result<T, Error>;
