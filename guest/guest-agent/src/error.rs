//! Errors that fail a run or prevent its start.
//!
//! INVARIANT: no text holds the value of an environment variable. A text may quote the CLI or the
//! platform; it is masked before it leaves.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// An error of a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error("{name} is not set")]
    Missing { name: &'static str },
    #[error("{name} is not {expected}")]
    Variable { name: &'static str, expected: &'static str },
    #[error("cannot read the file that {name} names")]
    VariableFile { name: String, source: io::Error },
    #[error("CLI_AGENT_TYPE is neither claude-code nor codex")]
    AgentType,
    #[error("cannot run as {}", user.display())]
    RunAs { user: OsString, source: io::Error },
    #[error("cannot mask secrets")]
    Secrets { source: mask::Error },
    #[error(transparent)]
    Platform(#[from] platform_client::Error),
    #[error(transparent)]
    RunFile(#[from] guest_common::Error),
    #[error("cannot reach API at {url}")]
    Unreachable { url: String, source: platform_client::Error },
    #[error("{count} heartbeats in a row failed")]
    Heartbeat { count: u32, source: platform_client::Error },
    #[error("the platform rejects the run: it was lost or has ended there")]
    Refused { source: platform_client::Error },
    #[error("cannot set up the working directory {path}")]
    WorkingDirectory { path: PathBuf, source: io::Error },
    #[error("cannot start the agent")]
    Start { source: process::Error },
    #[error("cannot signal or wait for the agent")]
    Process { source: process::Error },
    #[error("cannot create a pipe to the agent")]
    Pipe { source: io::Error },
    #[error("cannot read the agent's output")]
    Read { source: io::Error },
    #[error("cannot wait for events")]
    Wait { source: io::Error },
    #[error("cannot start the thread {name}")]
    Thread { name: &'static str, source: io::Error },
    #[error("the thread {name} panicked")]
    Panic { name: &'static str },
    #[error("cannot use the spool file of events")]
    Spool { source: io::Error },
    #[error("events {which} are lost: {reason}")]
    EventsLost { which: String, reason: String },
    #[error("Tool timeout: {tool} exceeded {seconds}s without returning a result")]
    Tool { tool: String, seconds: u64 },
    #[error("ended by signal {signal}")]
    Signal { signal: i32 },
    #[error("the agent exited with code {code}{}", detail(.said))]
    Agent { code: u8, said: String },
    #[error("cannot make the checkpoint")]
    Checkpoint { source: Box<Error> },
    #[error("the time limit has passed")]
    Timeout,
    #[error("the agent named no session, or one that is no valid file name")]
    NoSession,
    #[error("there is no history of session {session}")]
    NoHistory { session: String },
    #[error("the history {path} is empty or not JSONL")]
    BadHistory { path: PathBuf, source: io::Error },
    #[error("cannot read {path}")]
    ReadFile { path: PathBuf, source: io::Error },
    #[error("{path} has more than {max} files")]
    TooManyFiles { path: PathBuf, max: usize },
    #[error("cannot write an archive")]
    Archive { source: io::Error },
    #[error("the platform's answer has no upload URL for {what}")]
    NoUpload { what: &'static str },
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

fn detail(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}
