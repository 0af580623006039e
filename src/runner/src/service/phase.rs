//! What the service is doing, as signals have it.
//!
//! ```text
//!            SIGUSR1                SIGTERM, SIGINT         the same again
//!  running ──────────▶ draining ──────────────────▶ leaving ──────────────▶ stopping
//!     ▲                   │
//!     └───────────────────┘ SIGUSR2
//! ```
//!
//! Who drains takes no job; who leaves ends when its jobs have ended; who stops ends them.

use nix::sys::signal::Signal;

use super::source::Mode;

/// Each has all that the one before has given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) enum Phase {
    Running,
    Draining,
    Leaving,
    Stopping,
}

impl Phase {
    /// What a signal makes of it.
    pub(crate) fn after(self, signal: Signal) -> Self {
        match (signal, self) {
            (Signal::SIGUSR1, Self::Running) => Self::Draining,
            (Signal::SIGUSR2, Self::Draining) => Self::Running,
            (Signal::SIGUSR1 | Signal::SIGUSR2, phase) => phase,
            (_, Self::Running | Self::Draining) => Self::Leaving,
            (_, Self::Leaving | Self::Stopping) => Self::Stopping,
        }
    }

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Running => "jobs are taken",
            Self::Draining => "no more jobs are taken",
            Self::Leaving => {
                "no more jobs are taken, and the runner ends after the last; another signal ends all"
            }
            Self::Stopping => "all jobs are ended",
        }
    }
}

/// As the platform sees it.
impl From<Phase> for Mode {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Running => Self::Running,
            Phase::Draining | Phase::Leaving => Self::Draining,
            Phase::Stopping => Self::Stopping,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_that_drains_may_resume_but_not_one_that_leaves() {
        let after = |signals: &[Signal]| signals.iter().fold(Phase::Running, |p, s| p.after(*s));
        use Signal::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
        assert_eq!(after(&[SIGUSR1]), Phase::Draining);
        assert_eq!(after(&[SIGUSR1, SIGUSR2]), Phase::Running);
        assert_eq!(after(&[SIGTERM, SIGUSR2]), Phase::Leaving);
        assert_eq!(after(&[SIGUSR1, SIGTERM]), Phase::Leaving);
        assert_eq!(after(&[SIGTERM, SIGINT]), Phase::Stopping);
    }
}
