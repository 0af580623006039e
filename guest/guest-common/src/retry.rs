//! Trying again what may come right.

use std::time::{Duration, Instant};

use crate::date::{parse_http_date, since_epoch};
use crate::{Error, Result, Stop};

/// How long what a job's success hangs on is tried again.
const OUTAGE: Duration = Duration::from_secs(180);

/// The longest that a peer may make anybody wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How often and how patiently.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// The number of attempts, the first included; without one, until the deadline.
    pub attempts: Option<u32>,
    /// No attempt begins after this.
    pub deadline: Option<Instant>,
    /// So many attempts there are even after the deadline: one that takes long has another.
    pub at_least: u32,
    /// The wait after the first failure.
    pub first_wait: Duration,
    /// Each wait is twice as long as the one before, up to this.
    pub longest_wait: Duration,
}

impl Retry {
    /// As every call to the platform unless it is said otherwise: 3 attempts, 1 s between them.
    pub fn usual() -> Self {
        let second = Duration::from_secs(1);
        Self {
            attempts: Some(3),
            deadline: None,
            at_least: 1,
            first_wait: second,
            longest_wait: second,
        }
    }

    /// As what a job's success hangs on: through a restart of the platform and any outage of less
    /// than three minutes, and at least as often as usual.
    pub fn through_outage() -> Self {
        Self { at_least: 3, ..Self::until(Instant::now() + OUTAGE) }
    }

    /// Until `deadline`, at first after 1 s, then less and less often.
    pub fn until(deadline: Instant) -> Self {
        Self {
            attempts: None,
            deadline: Some(deadline),
            at_least: 1,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(10),
        }
    }

    /// Calls `attempt` until it succeeds, fails for good, or nothing is left; the last error counts.
    /// Between attempts it waits as the peer said, else as long as the policy says and up to a
    /// quarter more, so that many who failed at once do not come back at once.
    pub fn run<T>(&self, stop: &Stop, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let mut wait = self.first_wait;
        let mut count = 1;
        loop {
            let error = match attempt() {
                Err(error) if error.is_retriable() => error,
                done => return done,
            };
            let pause = pause_after(Some(&error), wait);
            let next = Instant::now() + pause;
            let out_of_attempts = self.attempts.is_some_and(|attempts| count >= attempts);
            let out_of_time =
                count >= self.at_least && self.deadline.is_some_and(|deadline| next >= deadline);
            if out_of_attempts || out_of_time || stop.wait_until(next) {
                return Err(error);
            }
            log::debug!("trying again; attempt={} error={}", count + 1, crate::chain(&error));
            wait = (wait * 2).min(self.longest_wait);
            count += 1;
        }
    }
}

/// How long to wait after `error` when the policy says `wait`.
pub fn pause_after(error: Option<&Error>, wait: Duration) -> Duration {
    match error {
        Some(Error::Status { retry_after: Some(pause), .. }) => (*pause).min(LONGEST_WAIT),
        _ => wait + wait.mul_f64(f64::from(since_epoch().subsec_nanos() % 1000) / 4000.0),
    }
}

/// What `Retry-After` says: seconds, or a date.
pub(crate) fn parse_retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(parse_http_date(text)?.saturating_sub(since_epoch()))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    const QUICK: Retry = Retry {
        attempts: Some(3),
        deadline: None,
        at_least: 1,
        first_wait: Duration::from_millis(1),
        longest_wait: Duration::from_millis(1),
    };

    fn status(status: u16, retry_after: Option<Duration>) -> Error {
        Error::Status { call: "GET".into(), status, message: String::new(), retry_after }
    }

    #[test]
    fn a_failure_that_may_pass_is_tried_three_times() {
        let mut count = 0;
        let result: Result<()> = QUICK.run(&Stop::new(), || {
            count += 1;
            Err(Error::Transport { call: "GET".into(), source: io::ErrorKind::TimedOut.into() })
        });
        assert!(result.is_err());
        assert_eq!(count, 3);
    }

    #[test]
    fn a_deadline_that_has_passed_leaves_the_least_number_of_attempts() {
        let late = Retry { attempts: None, deadline: Some(Instant::now()), at_least: 3, ..QUICK };
        let mut count = 0;
        let result: Result<()> = late.run(&Stop::new(), || {
            count += 1;
            Err(status(503, None))
        });
        assert!(result.is_err());
        assert_eq!(count, 3);
    }

    #[test]
    fn an_outage_has_waits_that_double_to_ten_seconds_for_three_minutes() {
        let retry = Retry::through_outage();
        let left = retry.deadline.unwrap() - Instant::now();
        assert!(left > Duration::from_secs(170) && retry.attempts.is_none());
        assert_eq!(
            (retry.first_wait, retry.longest_wait),
            (Duration::from_secs(1), Duration::from_secs(10))
        );
    }

    #[test]
    fn a_refusal_is_final_at_once() {
        let mut count = 0;
        let result: Result<()> = QUICK.run(&Stop::new(), || {
            count += 1;
            Err(status(404, None))
        });
        assert_eq!(result.unwrap_err().status(), Some(404));
        assert_eq!(count, 1);
    }

    #[test]
    fn the_peers_wish_comes_before_the_policy_but_not_for_ever() {
        let second = Duration::from_secs(1);
        assert_eq!(pause_after(Some(&status(429, Some(5 * second))), second), 5 * second);
        assert_eq!(pause_after(Some(&status(429, Some(1_000_000 * second))), second), LONGEST_WAIT);
        let usual = pause_after(Some(&status(500, None)), second);
        assert!(usual >= second && usual <= second * 5 / 4, "{usual:?}");
    }

    #[test]
    fn a_stop_ends_the_wait() {
        let stop = Stop::new();
        stop.signal();
        let patient = Retry { first_wait: Duration::from_secs(3600), ..QUICK };
        let mut count = 0;
        let result: Result<()> = patient.run(&stop, || {
            count += 1;
            Err(status(503, None))
        });
        assert!(result.is_err());
        assert_eq!(count, 1);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(parse_retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(parse_retry_after("later"), None);
    }
}
