//! The time, which tests set.

use std::time::{Instant, SystemTime};

/// The time for time-outs and the time of day.
pub trait Clock: Send + Sync + 'static {
    /// The time that deadlines are compared with.
    fn now(&self) -> Instant;

    /// The time of day.
    fn wall(&self) -> SystemTime;
}

/// The system's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}
