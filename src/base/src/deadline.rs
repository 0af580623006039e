//! Deadlines, as poll(2) wants them.

use std::time::{Duration, Instant};

use nix::poll::PollTimeout;

/// The time-out of a poll that ends at `deadline`; zero once that is over. Rounded up to the next
/// millisecond: a caller does not spin through the last one.
pub fn poll_timeout(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now());
    PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
}

/// `duration` after `instant`. A duration of more than ten years counts as ten years, so that the
/// addition does not overflow.
pub fn after(instant: Instant, duration: Duration) -> Instant {
    instant + duration.min(Duration::from_secs(10 * 365 * 24 * 60 * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_timeout_is_zero_when_overdue_and_capped_at_the_maximum() {
        assert_eq!(poll_timeout(Instant::now()), PollTimeout::ZERO);
        let soon = Instant::now() + Duration::from_secs(3600);
        assert!(poll_timeout(soon) > PollTimeout::try_from(3_590_000u32).unwrap());
        let far = Instant::now() + Duration::from_secs(1 << 40);
        assert_eq!(poll_timeout(far), PollTimeout::MAX);
    }

    #[test]
    fn a_deadline_in_the_far_future_does_not_overflow() {
        assert!(
            after(Instant::now(), Duration::MAX) > Instant::now() + Duration::from_secs(1 << 28)
        );
    }
}
