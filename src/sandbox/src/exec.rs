//! Running a command in a sandbox.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::event::Event as Wake;

use crate::Result;

/// A command to run. Everything is data: no shell sees any of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// Program and arguments. A program without a slash is looked up in `PATH`.
    pub argv: Vec<OsString>,
    /// Its environment, besides `PATH`, `HOME`, `USER`, `LOGNAME` and `TERM`, which have defaults.
    pub env: Vec<(OsString, OsString)>,
    /// Where it starts; in its user's home if nothing is said.
    pub cwd: Option<PathBuf>,
    /// Its user; root by default.
    pub user: Option<User>,
    /// Whether its standard input will be written; else that is empty.
    pub stdin: bool,
    /// A terminal of this size for all its streams.
    pub pty: Option<PtySize>,
    /// How long it may run; for ever if nothing is said.
    pub timeout: Option<Duration>,
    /// How many bytes of each output stream to pass on; the rest is dropped.
    pub output_cap: Option<u64>,
    /// Whether output of its descendants is passed on after its own end, until none of them holds its
    /// streams: [`Event::Ended`] then tells that end. Else it is dropped; they live on in both cases.
    pub follow_descendants: bool,
}

/// Who runs a command. Names are looked up in the sandbox; a number that is no name there is an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// A name or number of an account in the sandbox, with its groups. A number that is none has the
    /// group of the same number.
    Name(String),
    /// Numbers, with no other groups.
    Ids {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
    /// The first, in this group and no other.
    InGroup {
        /// A name or number.
        user: String,
        /// A name or number.
        group: String,
    },
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PtySize {
    /// Height.
    pub rows: u16,
    /// Width.
    pub columns: u16,
}

/// A running command. Dropping it before its exit kills it with all its descendants.
pub trait Execution: Send + Sync {
    /// Its process id in the sandbox; none if it did not start: its exit then says why.
    fn pid(&self) -> Option<u32>;

    /// Whether it has started.
    fn has_started(&self) -> bool {
        self.pid().is_some()
    }

    /// The next event; blocks until the deadline, or without limit.
    fn next(&self, deadline: Option<Instant>) -> Result<Event>;

    /// Writes all of `data` to its standard input; what it no longer reads is dropped.
    fn write_stdin(&self, data: &[u8], deadline: Option<Instant>) -> Result<()>;

    /// Writes as much of `data` as it takes now: perhaps nothing, so 0. `deadline` is for a guest that reads
    /// nothing at all.
    fn write_some(&self, data: &[u8], deadline: Instant) -> Result<usize>;

    /// Sets `event` whenever it does something that another call could return, while both live: for a thread
    /// that sleeps until this or something else happens. [`Execution::next`] with a deadline that has passed
    /// and [`Execution::write_some`] do not wait.
    fn notify(&self, event: &Arc<Wake>);

    /// Closes its standard input.
    fn close_stdin(&self) -> Result<()>;

    /// Resizes its terminal.
    fn resize(&self, size: PtySize) -> Result<()>;

    /// Sends it a signal. Only a guest that reads nothing makes it wait, at most until the deadline.
    fn signal(&self, signal: u8, deadline: Instant) -> Result<()>;

    /// Kills it with all its descendants; waits as [`Execution::signal`] does. Its exit still comes.
    fn cancel(&self, deadline: Instant) -> Result<()>;
}

/// An event of a running command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It wrote these bytes.
    Output(Stream, Vec<u8>),
    /// It ended. Output of its descendants may follow.
    Ended(Exit),
    /// It ended. This is the last event.
    Exit(Exit),
}

/// An output stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// What ended it.
    pub outcome: Outcome,
    /// Bytes of output over the cap, which were dropped.
    pub dropped: u64,
    /// How long it ran.
    pub duration: Duration,
    /// How many of its processes, descendants included, the OOM killer killed.
    pub oom_kills: u64,
}

impl Exit {
    /// Says how many processes of the command the OOM killer ended in a VM of this size; `None` if it ended none.
    pub fn memory_shortage(&self, memory_mib: u32) -> Option<String> {
        let processes = match self.oom_kills {
            0 => return None,
            1 => "1 process".to_owned(),
            count => format!("{count} processes"),
        };
        Some(format!(
            "the VM ran out of memory ({memory_mib} MiB) and its kernel killed {processes}"
        ))
    }
}

/// What ended a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It returned this code.
    Exited(u8),
    /// A signal ended it.
    Signalled {
        /// The signal's number.
        signal: u8,
        /// Whether it left a core dump.
        core_dumped: bool,
    },
    /// Its time-out passed.
    TimedOut,
    /// [`Execution::cancel`] was called.
    Cancelled,
    /// It never ran: what could not be done, on what, and why.
    FailedToStart {
        /// 127 if the program is not there, 126 whatever else the reason is.
        code: u8,
        /// The reason.
        message: String,
    },
}

impl Outcome {
    /// The exit code that a shell would report: 128+n for signal n, 124 for a time-out, 137 for a
    /// cancel.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exited(code) | Self::FailedToStart { code, .. } => *code,
            Self::Signalled { signal, .. } => 128u8.saturating_add(*signal),
            Self::TimedOut => 124,
            Self::Cancelled => 137,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_killed_for_memory_are_counted_and_none_is_no_shortage() {
        let exit = |oom_kills| Exit {
            outcome: Outcome::Exited(0),
            dropped: 0,
            duration: Duration::ZERO,
            oom_kills,
        };
        let text = exit(1).memory_shortage(256).unwrap();
        assert_eq!(text, "the VM ran out of memory (256 MiB) and its kernel killed 1 process");
        assert!(exit(2).memory_shortage(256).unwrap().ends_with("killed 2 processes"));
        assert_eq!(exit(0).memory_shortage(256), None);
    }
}
