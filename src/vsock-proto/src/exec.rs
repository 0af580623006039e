//! Running a command in the guest.

use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{CHUNK, list};

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
    /// Its user; root by default.
    pub user: Option<User>,
    /// Whether `Data` and `End` will follow for its standard input; else that is empty.
    pub stdin: bool,
    /// A terminal of this size for all three streams; its output is all [`Stream::Stdout`].
    pub pty: Option<PtySize>,
    /// How long it may run.
    pub timeout: Option<Timeout>,
    /// Whether [`ExecPart`]s with more arguments and variables follow: the command starts with the last.
    pub is_partial: bool,
    /// How many bytes of its standard output to send; the rest is read and dropped.
    pub stdout_cap: Option<u64>,
    /// The same for its standard error.
    pub stderr_cap: Option<u64>,
    /// Whether the guest sends output of descendants after the command's end. If so, it sends `Ended` at
    /// that end, and `Exit` when the pipes have no writer left. If not, it sends `Exit` at that end, and
    /// reads and drops later output. A terminal hangs up with its command.
    pub follow_descendants: bool,
}

/// More arguments and variables of a command: a frame holds fewer than Linux takes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExecPart {
    /// Behind those that came before.
    #[serde(deserialize_with = "list::deserialize")]
    pub argv: Vec<ByteBuf>,
    /// Behind those that came before.
    #[serde(deserialize_with = "list::deserialize")]
    pub env: Vec<(ByteBuf, ByteBuf)>,
    /// Whether the command is complete.
    pub is_last: bool,
}

/// A command in one message has so many bytes of arguments and variables at most; so has each part.
const PART: usize = 4 * CHUNK;

impl Exec {
    /// Takes off what does not fit into one message. The parts are to be sent in their order.
    pub fn split(mut self) -> (Self, Vec<ExecPart>) {
        if self.size() <= PART {
            return (self, Vec::new());
        }
        let mut packer = Packer::default();
        for argument in std::mem::take(&mut self.argv) {
            packer.part(string_cost(&argument)).argv.push(argument);
        }
        for variable in std::mem::take(&mut self.env) {
            packer.part(variable_cost(&variable)).env.push(variable);
        }
        let Packer { mut full, mut last, .. } = packer;
        last.is_last = true;
        full.push(last);
        (Self { is_partial: true, ..self }, full)
    }

    /// Adds a part; whether the command is complete.
    pub fn add(&mut self, part: ExecPart) -> bool {
        self.argv.extend(part.argv);
        self.env.extend(part.env);
        self.is_partial = !part.is_last;
        part.is_last
    }

    /// About how many bytes its arguments and variables take in a message.
    pub fn size(&self) -> usize {
        let arguments: usize = self.argv.iter().map(|text| string_cost(text)).sum();
        arguments + self.env.iter().map(variable_cost).sum::<usize>()
    }
}

fn string_cost(text: &[u8]) -> usize {
    // Its length, and what a guest needs to hold it.
    text.len() + 16
}

fn variable_cost((name, value): &(ByteBuf, ByteBuf)) -> usize {
    string_cost(name) + string_cost(value)
}

/// Fills parts.
#[derive(Default)]
struct Packer {
    full: Vec<ExecPart>,
    last: ExecPart,
    size: usize,
}

impl Packer {
    /// The part that so many bytes more go to. A string that is longer than a part is alone in one.
    fn part(&mut self, cost: usize) -> &mut ExecPart {
        if self.size > 0 && self.size + cost > PART {
            self.full.push(std::mem::take(&mut self.last));
            self.size = 0;
        }
        self.size += cost;
        &mut self.last
    }
}

/// A time-out, never zero: 0 is neither "at once" nor "never".
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
    /// A signal ended it that was not sent by this protocol's time-out or cancel.
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
    /// It did not start.
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

    fn long(variables: usize) -> Exec {
        let variable =
            |at: usize| (ByteBuf::from(format!("V{at}")), ByteBuf::from(vec![b'x'; 100_000]));
        let argv = vec![ByteBuf::from("env"), ByteBuf::from("-0")];
        Exec { argv, env: (0..variables).map(variable).collect(), ..Exec::default() }
    }

    #[test]
    fn a_short_command_is_one_message() {
        let (first, parts) = long(2).split();
        assert_eq!(first, long(2));
        assert!(parts.is_empty());
    }

    #[test]
    fn a_long_command_is_split_and_reassembled() {
        let (mut exec, parts) = long(19).split();
        assert!(exec.is_partial);
        assert!(parts.iter().all(|part| part.env.len() <= 2));
        let complete: Vec<bool> = parts.into_iter().map(|part| exec.add(part)).collect();
        assert_eq!(complete.iter().filter(|is_complete| **is_complete).count(), 1);
        assert_eq!(complete.last(), Some(&true));
        assert_eq!(exec, long(19));
    }

    #[test]
    fn a_string_longer_than_a_part_gets_a_part_of_its_own() {
        let argv = vec![ByteBuf::from("a"), ByteBuf::from(vec![0; 300_000]), ByteBuf::from("b")];
        let (_, parts) = Exec { argv, ..Exec::default() }.split();
        let lengths: Vec<usize> = parts.iter().map(|part| part.argv.len()).collect();
        assert_eq!(lengths, [1, 1, 1]);
    }

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
