//! How a process ended, in the words that clients know.

use sandbox::Outcome;

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
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
    /// It was lost with its sandbox.
    Lost,
}

const SIGKILL: u8 = 9;

impl Ending {
    pub(super) fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Exited(code) | Outcome::FailedToStart { code, .. } => Self::Exited(code),
            Outcome::Signalled { signal, core_dumped } => Self::Signalled { signal, core_dumped },
            Outcome::TimedOut => Self::TimedOut,
            Outcome::Cancelled => Self::Signalled { signal: SIGKILL, core_dumped: false },
        }
    }

    /// The exit code; -1 if it was killed.
    pub fn code(&self) -> i32 {
        match self {
            Self::Exited(code) => (*code).into(),
            _ => -1,
        }
    }

    /// Whether it returned a code.
    pub fn has_exited(&self) -> bool {
        matches!(self, Self::Exited(_))
    }

    /// `exit status 1`, `signal: killed`
    pub fn status(&self) -> String {
        match self {
            Self::Exited(code) => format!("exit status {code}"),
            Self::Signalled { signal, core_dumped } => {
                let core = if *core_dumped { " (core dumped)" } else { "" };
                format!("signal: {}{core}", signal_name(*signal))
            }
            Self::TimedOut | Self::Lost => "signal: killed".to_owned(),
        }
    }
}

fn signal_name(signal: u8) -> String {
    let name = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        _ => return format!("signal {signal}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_words_that_clients_know() {
        let killed = Ending::of(Outcome::Cancelled);
        assert_eq!((killed.code(), killed.has_exited()), (-1, false));
        assert_eq!(killed.status(), "signal: killed");
        assert_eq!(Ending::Exited(3).status(), "exit status 3");
        let dumped = Ending::Signalled { signal: 11, core_dumped: true };
        assert_eq!(dumped.status(), "signal: segmentation fault (core dumped)");
        let real_time = Ending::Signalled { signal: 40, core_dumped: false };
        assert_eq!(real_time.status(), "signal: signal 40");
    }
}
