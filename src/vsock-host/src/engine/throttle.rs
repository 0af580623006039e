//! A rate limit on warnings, so that a guest's processes cannot fill the host's log.

use std::time::{Duration, Instant};

/// The burst size.
const BURST: u32 = 5;

/// After a burst, one warning is permitted in each interval.
const INTERVAL: Duration = Duration::from_secs(10);

/// A token bucket that counts what it withholds.
#[derive(Debug)]
pub(crate) struct Throttle {
    tokens: u32,
    refilled: Instant,
    suppressed: u64,
}

impl Throttle {
    pub(crate) fn new(now: Instant) -> Self {
        Self { tokens: BURST, refilled: now, suppressed: 0 }
    }

    /// Whether a warning may be logged now; it is counted if not.
    pub(crate) fn permits(&mut self, now: Instant) -> bool {
        self.refill(now);
        match self.tokens.checked_sub(1) {
            Some(rest) => {
                self.tokens = rest;
                true
            }
            None => {
                self.suppressed += 1;
                false
            }
        }
    }

    /// The time of the next [`Self::report`], if warnings have been withheld.
    pub(crate) fn due(&self) -> Option<Instant> {
        (self.suppressed > 0).then(|| self.refilled + INTERVAL)
    }

    /// How many warnings have been withheld since the last report.
    pub(crate) fn report(&mut self) -> Option<u64> {
        match std::mem::take(&mut self.suppressed) {
            0 => None,
            count => Some(count),
        }
    }

    fn refill(&mut self, now: Instant) {
        while self.tokens < BURST && now.saturating_duration_since(self.refilled) >= INTERVAL {
            self.tokens += 1;
            self.refilled += INTERVAL;
        }
        if self.tokens == BURST {
            self.refilled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_costs_a_burst_and_then_one_warning_an_interval() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        let permitted =
            |throttle: &mut Throttle, at| (0..1000).filter(|_| throttle.permits(at)).count();
        assert_eq!(permitted(&mut throttle, start), 5);
        assert_eq!(permitted(&mut throttle, start + INTERVAL), 1);
        assert_eq!(throttle.report(), Some(995 + 999));
        assert_eq!(throttle.report(), None);
    }

    #[test]
    fn a_report_is_due_only_while_something_is_withheld() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        (0..5).for_each(|_| assert!(throttle.permits(start)));
        assert_eq!(throttle.due(), None);
        assert!(!throttle.permits(start));
        assert_eq!(throttle.due(), Some(start + INTERVAL));
    }

    #[test]
    fn a_quiet_time_restores_the_burst_and_no_more() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        (0..1000).for_each(|_| _ = throttle.permits(start));
        let later = start + 100 * INTERVAL;
        assert_eq!((0..1000).filter(|_| throttle.permits(later)).count(), 5);
    }
}
