//! The phases of the service, which signals change.
//!
//! ```text
//!            SIGUSR1                SIGTERM, SIGINT              the same again
//!  running ──────────▶ draining ──────────────────▶ shutting down ──────────────▶ fast shutdown
//!     ▲                   │
//!     └───────────────────┘ SIGUSR2
//! ```
//!
//! Draining takes no new jobs. Shutting down also exits after the last job. A fast shutdown kills all jobs.

use nix::sys::signal::Signal;

use super::source::Mode;

/// Each phase allows less than the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) enum Phase {
    Running,
    Draining,
    ShuttingDown,
    FastShutdown,
}

impl Phase {
    /// The phase after a signal.
    pub(crate) fn after(self, signal: Signal) -> Self {
        match (signal, self) {
            (Signal::SIGUSR1, Self::Running) => Self::Draining,
            (Signal::SIGUSR2, Self::Draining) => Self::Running,
            (Signal::SIGUSR1 | Signal::SIGUSR2, phase) => phase,
            (_, Self::Running | Self::Draining) => Self::ShuttingDown,
            (_, Self::ShuttingDown | Self::FastShutdown) => Self::FastShutdown,
        }
    }

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Running => "running: takes jobs",
            Self::Draining => "draining: takes no more jobs",
            Self::ShuttingDown => {
                "shutting down: takes no more jobs and exits after the last; another signal kills all jobs"
            }
            Self::FastShutdown => "fast shutdown: kills all jobs",
        }
    }
}

/// The phase as reported to the platform.
impl From<Phase> for Mode {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Running => Self::Running,
            Phase::Draining | Phase::ShuttingDown => Self::Draining,
            Phase::FastShutdown => Self::Stopping,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draining_runner_may_resume_but_not_one_that_shuts_down() {
        let after = |signals: &[Signal]| signals.iter().fold(Phase::Running, |p, s| p.after(*s));
        use Signal::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
        assert_eq!(after(&[SIGUSR1]), Phase::Draining);
        assert_eq!(after(&[SIGUSR1, SIGUSR2]), Phase::Running);
        assert_eq!(after(&[SIGTERM, SIGUSR2]), Phase::ShuttingDown);
        assert_eq!(after(&[SIGUSR1, SIGTERM]), Phase::ShuttingDown);
        assert_eq!(after(&[SIGTERM, SIGINT]), Phase::FastShutdown);
    }
}
