//! Tells the platform that the run lives, and the run that the platform does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use guest_common::{Platform, Retry, Stop};
use serde_json::{Value, json};

use crate::bell::Bell;
use crate::{Error, Result};

const PATH: &str = "/api/webhooks/agent/heartbeat";

/// How long the first one is tried, and how long it is from one to the next.
pub(crate) const RHYTHM: Rhythm =
    Rhythm { patience: Duration::from_secs(30), interval: Duration::from_secs(60) };

/// So many failures in a row end the run.
const FAILURES: u32 = 3;

/// The heart of a run.
pub(crate) struct Heart {
    pub(crate) platform: Platform,
    pub(crate) run_id: String,
    pub(crate) stop: Stop,
    pub(crate) rhythm: Rhythm,
}

/// How patient and how frequent it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rhythm {
    patience: Duration,
    interval: Duration,
}

impl Heart {
    /// Beats until it is stopped, which is the good end. Once the first beat was heard `beating` is
    /// set and the bell rings.
    pub(crate) fn run(&self, beating: &AtomicBool, bell: &Bell) -> Result<()> {
        let body = json!({ "runId": self.run_id });
        let first = serde_json::to_vec(&body).unwrap_or_default();
        let until = Retry::until(Instant::now() + self.rhythm.patience);
        let heard = until.run(&self.stop, || self.platform.attempt::<Value>(PATH, &first));
        if self.stop.is_given() {
            return Ok(());
        }
        heard
            .map_err(|source| Error::Unreachable { url: self.platform.url().to_owned(), source })?;
        beating.store(true, Ordering::Release);
        bell.ring();
        let mut failures = 0;
        loop {
            if self.stop.wait_until(Instant::now() + self.rhythm.interval) {
                return Ok(());
            }
            match self.platform.post::<Value>(PATH, &body) {
                Ok(_) => failures = 0,
                Err(_) if self.stop.is_given() => return Ok(()),
                Err(source) if source.refuses_caller() => return Err(Error::Refused { source }),
                Err(source) => {
                    failures += 1;
                    log::warn!(
                        "a heartbeat failed; count={failures} error={}",
                        guest_common::chain(&source)
                    );
                    if failures == FAILURES {
                        return Err(Error::Heartbeat { count: failures, source });
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use guest_common::Identity;
    use guest_test::{FakePlatform, Reply};

    use super::*;

    /// A heart that is in a hurry.
    fn heart(url: String, stop: &Stop) -> Heart {
        let identity = Identity { url, token: "t".into(), bypass: None, run_id: "r".into() };
        let rhythm = Rhythm { patience: Duration::ZERO, interval: Duration::from_millis(1) };
        let platform = Platform::new(&identity, stop).unwrap();
        Heart { platform, run_id: "r".into(), stop: stop.clone(), rhythm }
    }

    #[test]
    fn a_platform_that_is_not_there_is_named() {
        let fake = FakePlatform::start();
        let url = fake.server.url();
        drop(fake);
        let beating = AtomicBool::new(false);
        let heart = heart(url.clone(), &Stop::new());
        let error = heart.run(&beating, &Bell::new().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot reach API at {url}"));
        assert!(!beating.into_inner());
    }

    #[test]
    fn a_refusal_of_the_run_is_the_end_at_once() {
        for status in [401, 403, 404] {
            let fake = FakePlatform::start();
            fake.answer("heartbeat", Reply::json(&json!({ "ok": true })));
            fake.answer("heartbeat", Reply::refusal(status, "it is lost"));
            let heart = heart(fake.server.url(), &Stop::new());
            let error = heart.run(&AtomicBool::new(false), &Bell::new().unwrap()).unwrap_err();
            assert!(matches!(error, Error::Refused { .. }), "{error}");
            assert_eq!(fake.calls("heartbeat").len(), 2);
        }
    }

    #[test]
    fn three_failures_in_a_row_are_the_end_and_two_are_not() {
        let fake = FakePlatform::start();
        fake.answer("heartbeat", Reply::json(&json!({ "ok": true })));
        for status in [400, 400, 200, 400, 400, 400] {
            fake.answer("heartbeat", Reply::json(&json!({})).but_status(status));
        }
        let beating = AtomicBool::new(false);
        let heart = heart(fake.server.url(), &Stop::new());
        let error = heart.run(&beating, &Bell::new().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "3 heartbeats in a row failed");
        assert_eq!(fake.calls("heartbeat").len(), 7);
        assert_eq!(fake.bodies("heartbeat")[0], json!({ "runId": "r" }));
    }
}
