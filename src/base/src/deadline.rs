//! Deadlines, as poll(2) wants them.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollTimeout, poll};

/// The time-out of a poll that ends at `deadline`; zero once that is over. Rounded up to the next
/// millisecond: a caller does not spin through the last one.
pub fn poll_timeout(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now());
    PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
}

/// Sleeps in poll(2) until one of `fds` is ready, or until `deadline`: then it returns 0. Signals do not end it.
pub fn poll_until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> nix::Result<i32> {
    loop {
        match poll(fds, deadline.map_or(PollTimeout::NONE, poll_timeout)) {
            Err(Errno::EINTR) => {}
            // A poll takes no longer time-out than some weeks.
            Ok(0) if deadline.is_none_or(|deadline| deadline > Instant::now()) => {}
            other => return other,
        }
    }
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
