//! The `heartbeat` thread: tells the platform that the run is alive, and ends the run if the platform
//! is unreachable or does not know the run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use platform_client::{PlatformClient, RequestCancellation, RetryPolicy};
use serde_json::{Value, json};

use crate::waker::Waker;
use crate::{Error, Result};

const PATH: &str = "/api/webhooks/agent/heartbeat";

/// The timing of heartbeats outside of tests.
pub(crate) const TIMING: Timing =
    Timing { first_timeout: Duration::from_secs(30), interval: Duration::from_secs(60) };

/// This many failures in a row end the run.
const MAX_FAILURES: u32 = 3;

/// Sends the heartbeats of a run.
pub(crate) struct Heartbeat {
    pub(crate) platform: PlatformClient,
    pub(crate) run_id: String,
    pub(crate) stop: RequestCancellation,
    pub(crate) timing: Timing,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// How long the first heartbeat is retried.
    first_timeout: Duration,
    interval: Duration,
}

impl Heartbeat {
    /// Sends heartbeats until `stop`, then returns `Ok`. When the platform answers the first one, sets
    /// `is_reachable` and wakes the main thread.
    pub(crate) fn run(&self, is_reachable: &AtomicBool, waker: &Waker) -> Result<()> {
        let body = json!({ "runId": self.run_id });
        let first = serde_json::to_vec(&body).unwrap_or_default();
        let retry = RetryPolicy::until(Instant::now() + self.timing.first_timeout);
        let answer = retry.run(&self.stop, || self.platform.attempt::<Value>(PATH, &first));
        if self.stop.is_cancelled() {
            return Ok(());
        }
        answer.map_err(|source| Error::Unreachable {
            url: self.platform.addresses().names(),
            source,
        })?;
        is_reachable.store(true, Ordering::Release);
        waker.wake();
        let mut failures = 0;
        loop {
            if self.stop.wait_until(Instant::now() + self.timing.interval) {
                return Ok(());
            }
            match self.platform.post::<Value>(PATH, &body) {
                Ok(_) => failures = 0,
                Err(_) if self.stop.is_cancelled() => return Ok(()),
                Err(source) if source.refuses_caller() => return Err(Error::Refused { source }),
                Err(source) => {
                    failures += 1;
                    log::warn!(
                        "a heartbeat failed; count={failures} error={}",
                        base::error::chain(&source)
                    );
                    if failures == MAX_FAILURES {
                        return Err(Error::Heartbeat { count: failures, source });
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use guest_test::{FakePlatform, Reply};
    use platform_client::PlatformCredentials;

    use super::*;

    /// Heartbeats without delays.
    fn heartbeat(url: String, stop: &RequestCancellation) -> Heartbeat {
        let credentials = PlatformCredentials {
            addresses: url.into(),
            token: "t".into(),
            bypass: None,
            client_session: "r".into(),
        };
        let timing = Timing { first_timeout: Duration::ZERO, interval: Duration::from_millis(1) };
        let platform = PlatformClient::new(&credentials, stop).unwrap();
        Heartbeat { platform, run_id: "r".into(), stop: stop.clone(), timing }
    }

    #[test]
    fn the_error_of_an_unreachable_platform_has_its_url() {
        let fake = FakePlatform::start();
        let url = fake.server.url();
        drop(fake);
        let is_reachable = AtomicBool::new(false);
        let heartbeat = heartbeat(url.clone(), &RequestCancellation::new());
        let error = heartbeat.run(&is_reachable, &Waker::new().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot reach API at {url}"));
        assert!(!is_reachable.into_inner());
    }

    #[test]
    fn a_status_that_rejects_the_run_ends_the_heartbeats_at_once() {
        for status in [401, 403, 404] {
            let fake = FakePlatform::start();
            fake.answer("heartbeat", Reply::json(&json!({ "ok": true })));
            fake.answer("heartbeat", Reply::refusal(status, "it is lost"));
            let heartbeat = heartbeat(fake.server.url(), &RequestCancellation::new());
            let error = heartbeat.run(&AtomicBool::new(false), &Waker::new().unwrap()).unwrap_err();
            assert!(matches!(error, Error::Refused { .. }), "{error}");
            assert_eq!(fake.calls("heartbeat").len(), 2);
        }
    }

    #[test]
    fn three_failures_in_a_row_end_the_heartbeats_and_two_do_not() {
        let fake = FakePlatform::start();
        fake.answer("heartbeat", Reply::json(&json!({ "ok": true })));
        for status in [400, 400, 200, 400, 400, 400] {
            fake.answer("heartbeat", Reply::json(&json!({})).with_status(status));
        }
        let is_reachable = AtomicBool::new(false);
        let heartbeat = heartbeat(fake.server.url(), &RequestCancellation::new());
        let error = heartbeat.run(&is_reachable, &Waker::new().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "3 heartbeats in a row failed");
        assert_eq!(fake.calls("heartbeat").len(), 7);
        assert_eq!(fake.bodies("heartbeat")[0], json!({ "runId": "r" }));
    }
}
