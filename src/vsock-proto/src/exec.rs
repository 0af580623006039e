//! Running a command in the guest.

use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::list;

/// A command to run. Everything is data: no shell sees any of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments. A program without a slash is looked up in `PATH`.
    #[serde(deserialize_with = "list::deserialize")]
    pub argv: Vec<ByteBuf>,
    /// The environment, name and value. The guest adds `PATH`, `HOME`, `USER`, `LOGNAME`
    /// and, with a PTY, `TERM`, where they are missing.
    #[serde(deserialize_with = "list::deserialize")]
    pub env: Vec<(ByteBuf, ByteBuf)>,
    /// The folder to start in; the user's home, else `/`, where there is none given.
    pub cwd: Option<ByteBuf>,
    /// Who runs it; root if nobody is named.
    pub user: Option<User>,
    /// Whether `Data` and `End` will follow for its standard input; else that is empty.
    pub stdin: bool,
    /// A terminal of this size for all three streams; its output is all [`Stream::Stdout`].
    pub pty: Option<PtySize>,
    /// How long it may run.
    pub timeout: Option<Timeout>,
    /// How many bytes of its standard output to send; the rest is read and dropped.
    pub stdout_cap: Option<u64>,
    /// The same for its standard error.
    pub stderr_cap: Option<u64>,
}

/// A length of time that is never zero: 0 is neither "at once" nor "never".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeout {
    milliseconds: NonZeroU64,
}

impl Timeout {
    /// `duration`, up to the next millisecond, and at least one.
    pub fn new(duration: Duration) -> Self {
        let up = duration.as_nanos().div_ceil(1_000_000);
        let milliseconds = u64::try_from(up).unwrap_or(u64::MAX);
        Self { milliseconds: NonZeroU64::new(milliseconds).unwrap_or(NonZeroU64::MIN) }
    }

    /// The same as a duration.
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.milliseconds.get())
    }
}

/// Who runs a command. Names are looked up in the guest; a number that is no name there is an id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum User {
    /// A name or number of the guest's `/etc/passwd`, with its groups. A number that is not in there
    /// has the group of the same number.
    Name(String),
    /// Numbers, with no other groups.
    Ids {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
    /// The first, in this group of `/etc/group` and no other.
    InGroup {
        /// A name or number.
        user: String,
        /// A name or number.
        group: String,
    },
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PtySize {
    /// Height.
    pub rows: u16,
    /// Width.
    pub columns: u16,
}

/// One of a request's streams from the guest. The contents of files travel on `Stdout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// What happened.
    pub outcome: Outcome,
    /// What it wrote to its standard output.
    pub stdout: StreamTotal,
    /// What it wrote to its standard error.
    pub stderr: StreamTotal,
    /// From start to end, in microseconds of the guest's clock.
    pub duration_us: u64,
    /// How many of its processes, descendants included, the kernel killed for want of memory
    /// until it ended.
    pub oom_kills: u64,
}

/// How much a command wrote to one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamTotal {
    /// Bytes that were sent.
    pub sent: u64,
    /// Bytes over the stream's cap, which were not.
    pub dropped: u64,
}

/// What ended a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It returned.
    Exited {
        /// Its exit code.
        code: u8,
    },
    /// A signal that nobody here sent ended it.
    Signalled {
        /// The signal's number.
        signal: u8,
        /// Whether it left a core dump.
        core_dumped: bool,
    },
    /// Its [`Exec::timeout`] passed; it and all its descendants were killed.
    TimedOut,
    /// `Cancel` came; it and all its descendants were killed.
    Cancelled,
    /// It never ran.
    FailedToStart {
        /// Whether the program is not there. Whatever else is missing (its folder, its user) is another
        /// failure: shells tell the two apart by their exit codes.
        is_missing: bool,
        /// What could not be done, on what, and why.
        message: String,
    },
}

impl Outcome {
    /// The exit code that a shell would report: 128+n for signal n, 124 for a time-out, 137 for
    /// a cancel, 127 for a program that is not there and 126 for whatever else kept it from starting.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exited { code } => *code,
            Self::Signalled { signal, .. } => 128u8.saturating_add(*signal),
            Self::TimedOut => 124,
            Self::Cancelled => 137,
            Self::FailedToStart { is_missing: true, .. } => 127,
            Self::FailedToStart { .. } => 126,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_never_zero_and_never_shorter_than_asked() {
        assert_eq!(Timeout::new(Duration::ZERO).duration(), Duration::from_millis(1));
        assert_eq!(Timeout::new(Duration::from_micros(1500)).duration(), Duration::from_millis(2));
        assert_eq!(Timeout::new(Duration::MAX).duration(), Duration::from_millis(u64::MAX));
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        let missing = Outcome::FailedToStart { is_missing: true, message: String::new() };
        let refused = Outcome::FailedToStart { is_missing: false, message: String::new() };
        let killed = Outcome::Signalled { signal: 9, core_dumped: false };
        assert_eq!(Outcome::Exited { code: 7 }.exit_code(), 7);
        assert_eq!(killed.exit_code(), 137);
        assert_eq!(Outcome::TimedOut.exit_code(), 124);
        assert_eq!(missing.exit_code(), 127);
        assert_eq!(refused.exit_code(), 126);
    }
}
