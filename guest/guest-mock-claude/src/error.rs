//! Errors that end the program before its prompt is answered.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// An unknown flag, or a value that is missing or not text.
    #[error("cannot read the arguments")]
    Arguments { source: lexopt::Error },
    #[error("{flag} must be {allowed}, not {value:?}")]
    Value { flag: &'static str, allowed: &'static str, value: String },
    #[error("no prompt: pass one as an argument or on stdin")]
    NoPrompt,
    #[error("cannot read stdin")]
    ReadStdin { source: io::Error },
    #[error("cannot read line {line} of stdin as a message")]
    Message { line: usize, source: serde_json::Error },
    #[error("@flood: needs a number of events, not {value:?}")]
    Flood { value: String },
    #[error("cannot find the working directory")]
    WorkingDirectory { source: io::Error },
    #[error("HOME is not set; the history is written below it")]
    NoHome,
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
    /// Not a failure: the reader of the events has closed the pipe.
    #[error("stdout is closed")]
    StdoutClosed,
    #[error("cannot start {program}")]
    Start { program: &'static str, source: io::Error },
    #[error("cannot write the script to a memfd for bash")]
    Script { source: io::Error },
    #[error("cannot read signals from a signalfd")]
    Signals { source: Errno },
    #[error("cannot wait for bash")]
    Wait { source: io::Error },
    #[error("cannot read the output of bash")]
    ReadOutput { source: io::Error },
    /// Not a failure: a signal ended the program while bash ran.
    #[error("stopped by signal {signal}")]
    Stopped { signal: u8 },
}

/// The result of this program's functions.
pub(crate) type Result<T> = std::result::Result<T, Error>;
