//! What makes a run fail, or keeps it from beginning.
//!
//! INVARIANT: no text holds the value of an environment variable. What the CLI or the platform said
//! may be in one; it is masked before it leaves.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// See each variant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An environment variable that is needed is not set.
    #[error("{name} is not set")]
    Missing {
        /// Which one.
        name: &'static str,
    },
    /// An environment variable has no sensible value.
    #[error("{name} is not {expected}")]
    Variable {
        /// Which one.
        name: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// The file that holds a variable's value could not be read.
    #[error("cannot read the file that {name} names")]
    VariableFile {
        /// The variable that names the file.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// There is no such agent.
    #[error("CLI_AGENT_TYPE is neither claude-code nor codex")]
    AgentType,
    /// The user that the run is for could not be become.
    #[error("cannot run as {}", user.display())]
    RunAs {
        /// Its name.
        user: OsString,
        /// Why.
        source: io::Error,
    },
    /// Nothing may leave, as it could not be masked.
    #[error("nothing can be reported")]
    Secrets {
        /// Why.
        source: mask::Error,
    },
    /// The platform, or a file of the run.
    #[error(transparent)]
    Common(#[from] guest_common::Error),
    /// The first heartbeat found nobody.
    #[error("cannot reach API at {url}")]
    Unreachable {
        /// Where it should be.
        url: String,
        /// Why.
        source: guest_common::Error,
    },
    /// Heartbeats failed one after the other.
    #[error("{count} heartbeats in a row failed")]
    Heartbeat {
        /// How many.
        count: u32,
        /// Why the last one did.
        source: guest_common::Error,
    },
    /// The platform wants no more of this run: its token or the run itself means nothing to it.
    #[error("the platform refuses the run, which was lost or has ended there")]
    Refused {
        /// What it said.
        source: guest_common::Error,
    },
    /// The working directory could not be made or found.
    #[error("cannot set up the working directory {path}")]
    WorkingDirectory {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The CLI could not be started.
    #[error("cannot start the agent")]
    Start {
        /// Why.
        source: process::Error,
    },
    /// The CLI could not be signalled or waited for.
    #[error("cannot look after the agent")]
    Process {
        /// Why.
        source: process::Error,
    },
    /// A pipe to the CLI could not be made.
    #[error("cannot make a pipe to the agent")]
    Pipe {
        /// Why.
        source: io::Error,
    },
    /// The CLI's output could not be read.
    #[error("cannot read what the agent says")]
    Read {
        /// Why.
        source: io::Error,
    },
    /// The main thread could not sleep.
    #[error("cannot wait for events")]
    Wait {
        /// Why.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start the thread {name}")]
    Thread {
        /// Which one.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A thread panicked.
    #[error("the thread {name} panicked")]
    Panic {
        /// Which one.
        name: &'static str,
    },
    /// The file of events that wait could not be used.
    #[error("cannot use the file of events that wait")]
    Spool {
        /// Why.
        source: io::Error,
    },
    /// Events never reached the platform.
    #[error("events {which} are lost: {reason}")]
    EventsLost {
        /// Their numbers.
        which: String,
        /// Why the first of them is.
        reason: String,
    },
    /// A tool did not return in time.
    #[error("Tool timeout: {tool} exceeded {seconds}s without returning a result")]
    Tool {
        /// Its name.
        tool: String,
        /// The limit.
        seconds: u64,
    },
    /// Somebody ended the run.
    #[error("ended by signal {signal}")]
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// The CLI failed.
    #[error("the agent exited with code {code}{}", remark(.said))]
    Agent {
        /// Its exit code, 128+n for signal n.
        code: u8,
        /// What it said about it.
        said: String,
    },
    /// The CLI succeeded, but what it leaves could not be kept.
    #[error("cannot make the checkpoint")]
    Checkpoint {
        /// Why.
        source: Box<Error>,
    },
    /// It takes longer than makes sense.
    #[error("it takes too long")]
    Late,
    /// The CLI never named its session.
    #[error("the agent named no session, or none that can be a file's name")]
    NoSession,
    /// There is no history of the session.
    #[error("there is no history of session {session}")]
    NoHistory {
        /// Which one.
        session: String,
    },
    /// The history is not what a history is.
    #[error("the history {path} is empty or no JSONL")]
    BadHistory {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or folder of the workspace could not be kept.
    #[error("cannot keep {path}")]
    Keep {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are too many files.
    #[error("{path} has more than {most} files")]
    TooManyFiles {
        /// Where.
        path: PathBuf,
        /// How many are allowed.
        most: usize,
    },
    /// The archive of a mount could not be written.
    #[error("cannot write an archive")]
    Archive {
        /// Why.
        source: io::Error,
    },
    /// The platform's answer lacks what comes next.
    #[error("the platform named no place for {what}")]
    NoUpload {
        /// Of what.
        what: &'static str,
    },
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

fn remark(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}
