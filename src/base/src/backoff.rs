//! Exponential back-off with jitter.

use std::time::Duration;

use crate::random;

/// Delays that double from `first` to `longest`.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// The first delay is `first`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first.min(longest) }
    }

    /// The delay before the next attempt. Up to a fifth is taken off by chance, so that clients that failed
    /// together do not retry together.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.longest);
        delay.mul_f64(1.0 - 0.2 * random::fraction())
    }

    /// An attempt succeeded: the next delay is `first` again.
    pub fn reset(&mut self) {
        self.next = self.first.min(self.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delays_double_up_to_the_longest_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(SECOND, 3 * SECOND);
        let delays: Vec<u64> =
            (0..4).map(|_| backoff.delay().as_secs_f64().ceil() as u64).collect();
        assert_eq!(delays, [1, 2, 3, 3]);
        backoff.reset();
        assert!(backoff.delay() <= SECOND);
    }
}
