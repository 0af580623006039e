//! When to try again: at once, unless that was just done; then less and less often, without end.

use std::time::{Duration, Instant};

use crate::random;

#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    /// What the next failure costs, if one came already.
    wait: Option<Duration>,
    last_attempt: Option<Instant>,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, wait: None, last_attempt: None }
    }

    /// An attempt begins.
    pub(crate) fn attempt(&mut self, now: Instant) {
        self.last_attempt = Some(now);
    }

    /// An attempt came to what it was for.
    pub(crate) fn succeed(&mut self) {
        self.wait = None;
    }

    /// When to try again what failed, or what was lost after it had succeeded.
    pub(crate) fn next(&mut self, now: Instant) -> Instant {
        let is_fresh = self.last_attempt.is_none_or(|last| now - last >= self.first);
        let wait = match self.wait {
            None if is_fresh => Duration::ZERO,
            wait => wait.unwrap_or(self.first),
        };
        self.wait = Some(if wait.is_zero() { self.first } else { (wait * 2).min(self.longest) });
        // Those who lost their connection together do not all come back together.
        now + wait.mul_f64(1.0 - 0.2 * random::fraction())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn backoff() -> (Backoff, Instant) {
        (Backoff::new(SECOND, 15 * SECOND), Instant::now())
    }

    #[test]
    fn what_was_lost_after_a_while_is_tried_again_at_once() {
        let (mut backoff, start) = backoff();
        backoff.attempt(start);
        backoff.succeed();

        assert_eq!(backoff.next(start + SECOND), start + SECOND);
    }

    #[test]
    fn what_was_lost_at_once_is_not_tried_again_at_once() {
        let (mut backoff, start) = backoff();
        backoff.attempt(start);
        backoff.succeed();

        let wait = backoff.next(start) - start;

        assert!(wait >= SECOND.mul_f64(0.8) && wait <= SECOND, "{wait:?}");
    }

    #[test]
    fn waits_double_up_to_the_longest_and_never_end() {
        let (mut backoff, start) = backoff();
        backoff.next(start);
        let waits: Vec<u64> = (0..100)
            .map(|_| {
                backoff.attempt(start);
                // The longest that chance allows is the whole.
                ((backoff.next(start) - start).as_secs_f64() / 0.8).floor() as u64
            })
            .collect();

        assert!(waits[0] <= 1 && waits[1] >= 2 && waits[2] >= 4 && waits[3] >= 8, "{waits:?}");
        assert!(waits[4..].iter().all(|&wait| wait >= 15), "{waits:?}");
    }

    #[test]
    fn a_success_makes_waits_short_again() {
        let (mut backoff, start) = backoff();
        (0..10).for_each(|_| {
            backoff.next(start);
        });
        backoff.attempt(start);
        backoff.succeed();

        assert!(backoff.next(start) - start <= SECOND);
    }
}
