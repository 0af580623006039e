//! Exponential back-off with jitter; the first retry is immediate unless the last attempt was recent.

use std::time::{Duration, Instant};

use crate::random;

#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    /// The next wait, after a first failure.
    wait: Option<Duration>,
    last_attempt: Option<Instant>,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, wait: None, last_attempt: None }
    }

    /// Records the start of an attempt.
    pub(crate) fn attempt(&mut self, now: Instant) {
        self.last_attempt = Some(now);
    }

    /// Records a success.
    pub(crate) fn succeed(&mut self) {
        self.wait = None;
    }

    /// When to retry after a failure, or after the loss of a connection.
    pub(crate) fn next(&mut self, now: Instant) -> Instant {
        let is_fresh = self.last_attempt.is_none_or(|last| now - last >= self.first);
        let wait = match self.wait {
            None if is_fresh => Duration::ZERO,
            wait => wait.unwrap_or(self.first),
        };
        self.wait = Some(if wait.is_zero() { self.first } else { (wait * 2).min(self.longest) });
        // Jitter: clients that lost their connections together do not reconnect together.
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
    fn a_connection_that_lasted_is_retried_at_once() {
        let (mut backoff, start) = backoff();
        backoff.attempt(start);
        backoff.succeed();

        assert_eq!(backoff.next(start + SECOND), start + SECOND);
    }

    #[test]
    fn a_connection_that_was_lost_at_once_is_retried_after_a_pause() {
        let (mut backoff, start) = backoff();
        backoff.attempt(start);
        backoff.succeed();

        let wait = backoff.next(start) - start;

        assert!(wait >= SECOND.mul_f64(0.8) && wait <= SECOND, "{wait:?}");
    }

    #[test]
    fn waits_double_up_to_the_longest() {
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
    fn a_success_resets_the_wait() {
        let (mut backoff, start) = backoff();
        (0..10).for_each(|_| {
            backoff.next(start);
        });
        backoff.attempt(start);
        backoff.succeed();

        assert!(backoff.next(start) - start <= SECOND);
    }
}
