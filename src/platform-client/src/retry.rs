//! Retries with exponential back-off.

use std::time::{Duration, Instant, UNIX_EPOCH};

use base::date::since_epoch;
use base::error::chain;

use crate::{Error, RequestCancellation, Result};

/// How long [`RetryPolicy::through_outage`] retries.
const OUTAGE: Duration = Duration::from_secs(180);

/// The longest `RetryPolicy-After` that is obeyed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// A retry policy.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// The number of attempts, the first included. `None`: until the deadline.
    pub attempts: Option<u32>,
    /// No attempt begins after this, except the first `at_least`.
    pub deadline: Option<Instant>,
    /// The number of attempts that are made even after the deadline.
    pub at_least: u32,
    /// The wait after the first failure.
    pub first_wait: Duration,
    /// Each wait is twice as long as the one before, up to this.
    pub longest_wait: Duration,
}

impl RetryPolicy {
    /// The default for calls to the platform: 3 attempts, 1 s between them.
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

    /// For calls that decide a job's success: outlasts a restart of the platform and any outage of less
    /// than three minutes. At least 3 attempts.
    pub fn through_outage() -> Self {
        Self { at_least: 3, ..Self::until(Instant::now() + OUTAGE) }
    }

    /// Until `deadline`. Waits double from 1 s to 10 s.
    pub fn until(deadline: Instant) -> Self {
        Self {
            attempts: None,
            deadline: Some(deadline),
            at_least: 1,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(10),
        }
    }

    /// Calls `attempt` until it succeeds, fails with a permanent error, or the policy ends. Returns the
    /// last result. Waits between attempts as [`pause_after`] says.
    pub fn run<T>(
        &self,
        stop: &RequestCancellation,
        mut attempt: impl FnMut() -> Result<T>,
    ) -> Result<T> {
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
            log::debug!("retrying; attempt={} error={}", count + 1, chain(&error));
            wait = (wait * 2).min(self.longest_wait);
            count += 1;
        }
    }
}

/// How long to wait after `error`: the peer's `RetryPolicy-After`, else `wait` plus up to a quarter of it by
/// chance, so that clients that failed together do not retry together.
pub fn pause_after(error: Option<&Error>, wait: Duration) -> Duration {
    match error {
        Some(Error::Status { retry_after: Some(pause), .. }) => (*pause).min(MAX_RETRY_AFTER),
        _ => wait + wait.mul_f64(f64::from(since_epoch().subsec_nanos() % 1000) / 4000.0),
    }
}

/// The duration of a `RetryPolicy-After` header: seconds, or an HTTP date.
pub(crate) fn parse_retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(parse_http_date(text)?.saturating_sub(since_epoch()))
}

/// The time since 1970 of an HTTP date: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn parse_http_date(text: &str) -> Option<Duration> {
    httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()
}

#[cfg(test)]
mod tests {
    use std::io;

    use base::date::iso_of;

    use super::*;

    const QUICK: RetryPolicy = RetryPolicy {
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
    fn a_retriable_error_is_tried_three_times() {
        let mut count = 0;
        let result: Result<()> = QUICK.run(&RequestCancellation::new(), || {
            count += 1;
            Err(Error::Transport { call: "GET".into(), source: io::ErrorKind::TimedOut.into() })
        });
        assert!(result.is_err());
        assert_eq!(count, 3);
    }

    #[test]
    fn after_the_deadline_the_minimum_number_of_attempts_is_still_made() {
        let late =
            RetryPolicy { attempts: None, deadline: Some(Instant::now()), at_least: 3, ..QUICK };
        let mut count = 0;
        let result: Result<()> = late.run(&RequestCancellation::new(), || {
            count += 1;
            Err(status(503, None))
        });
        assert!(result.is_err());
        assert_eq!(count, 3);
    }

    #[test]
    fn through_outage_waits_up_to_ten_seconds_for_three_minutes() {
        let retry = RetryPolicy::through_outage();
        let left = retry.deadline.unwrap() - Instant::now();
        assert!(left > Duration::from_secs(170) && retry.attempts.is_none());
        assert_eq!(
            (retry.first_wait, retry.longest_wait),
            (Duration::from_secs(1), Duration::from_secs(10))
        );
    }

    #[test]
    fn a_permanent_error_is_not_retried() {
        let mut count = 0;
        let result: Result<()> = QUICK.run(&RequestCancellation::new(), || {
            count += 1;
            Err(status(404, None))
        });
        assert_eq!(result.unwrap_err().status(), Some(404));
        assert_eq!(count, 1);
    }

    #[test]
    fn retry_after_overrides_the_policy_up_to_a_limit() {
        let second = Duration::from_secs(1);
        assert_eq!(pause_after(Some(&status(429, Some(5 * second))), second), 5 * second);
        assert_eq!(
            pause_after(Some(&status(429, Some(1_000_000 * second))), second),
            MAX_RETRY_AFTER
        );
        let usual = pause_after(Some(&status(500, None)), second);
        assert!(usual >= second && usual <= second * 5 / 4, "{usual:?}");
    }

    #[test]
    fn a_stop_ends_the_wait() {
        let stop = RequestCancellation::new();
        stop.cancel();
        let patient = RetryPolicy { first_wait: Duration::from_secs(3600), ..QUICK };
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
    #[test]
    fn an_http_date_is_parsed() {
        let time = parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(time, Some(Duration::from_secs(784_111_777)));
        assert_eq!(
            parse_http_date("Thu, 29 Feb 2024 23:59:59 GMT").map(iso_of).as_deref(),
            Some("2024-02-29T23:59:59.000Z")
        );
    }

    #[test]
    fn text_that_is_no_http_date_is_none() {
        for text in ["", "soon", "Sun, 99 Nov 1994 08:49:37 GMT", "Sun, 06 ovD 1994 08:49:37 GMT"] {
            assert_eq!(parse_http_date(text), None, "{text}");
        }
        assert_eq!(parse_http_date("Sun, 06 Nov 99999999999999999999 08:49:37 GMT"), None);
    }
}
