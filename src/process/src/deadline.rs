//! Converts deadlines to time-outs of poll(2).

use std::time::Instant;

use nix::poll::PollTimeout;

/// The time until `deadline`, rounded up to a millisecond so that the caller does not spin; zero after it.
pub fn poll_timeout(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now());
    PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_rest_of_a_millisecond_is_one() {
        assert_eq!(poll_timeout(Instant::now()), PollTimeout::ZERO);
        let soon = Instant::now() + Duration::from_secs(3600);
        assert!(poll_timeout(soon) > PollTimeout::try_from(3_590_000u32).unwrap());
        let far = Instant::now() + Duration::from_secs(1 << 40);
        assert_eq!(poll_timeout(far), PollTimeout::MAX);
    }
}
