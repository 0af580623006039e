//! The deadline of a call.

use std::time::{Duration, Instant};

use crate::error::Halt;

/// A call's deadline and its start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    since: Instant,
    until: Option<Instant>,
}

impl Deadline {
    /// Starts now; without `until` it never ends.
    pub(crate) fn new(until: impl Into<Option<Instant>>) -> Self {
        Self { since: Instant::now(), until: until.into() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// The time left, `None` without a deadline.
    pub(crate) fn left(&self) -> Result<Option<Duration>, Halt> {
        let Some(until) = self.until else {
            return Ok(None);
        };
        let now = Instant::now();
        match until.checked_duration_since(now) {
            Some(left) if !left.is_zero() => Ok(Some(left)),
            _ => Err(Halt::TimedOut { after: now - self.since }),
        }
    }
}
