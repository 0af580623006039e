//! The thread `poll`: asks for a job whenever there is room for one.
//!
//! | after | it asks again |
//! |---|---|
//! | a job, or a poll that the platform held | at once |
//! | nothing | in 5 s; where jobs are pushed, in 30 s |
//! | cancellations alone | in 1 s |
//! | an error | in 5 s, or when the platform says |
//! | more room; a job that was pushed; a push that may have been missed | at once |
//! | a job that was pushed to another runner | in 2 s |

use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use guest_common::{Platform, Stop, pause_after};
use serde::Deserialize;
use serde_json::json;

use super::shared::Shared;
use crate::error::{Error, Result};
use crate::service::context::RunId;
use crate::service::source::{Demand, Found, Offer};

/// Between polls that found nothing, unless the platform held them; and where jobs are pushed.
const FAST: Duration = Duration::from_secs(5);
const SLOW: Duration = Duration::from_secs(30);
/// From here on it was held.
const HELD: Duration = Duration::from_secs(1);
/// After a poll that told of cancellations alone, which the next may do as well.
const AFTER_CANCELLATION: Duration = Duration::from_secs(1);

/// When to poll next, and why, as the platform is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Next {
    pub(super) at: Instant,
    reason: &'static str,
}

impl Next {
    pub(super) fn now() -> Self {
        Self { at: Instant::now(), reason: "immediate" }
    }

    pub(super) fn deferred(time: Duration) -> Self {
        Self { at: Instant::now() + time, reason: "deferred" }
    }
}

/// What came of a poll.
enum Polled {
    Job(RunId),
    Cancellations,
    Nothing,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reply {
    job: Option<Job>,
    #[serde(default)]
    cancelled_run_ids: Option<Vec<RunId>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Job {
    run_id: RunId,
    experimental_profile: Option<String>,
    reuse_key: Option<String>,
}

impl Shared {
    /// The thread.
    pub(super) fn poll(&self, platform: &Platform, woken: &Receiver<()>, stop: &Stop) {
        let mut next = Next::now();
        loop {
            // What was to be known of it is in what is shared, and in the stop.
            let _ = woken.try_recv();
            if stop.is_given() {
                return;
            }
            let Some(demand) = self.demand(&mut next) else {
                let _ = woken.recv();
                continue;
            };
            if next.at > Instant::now() && woken.recv_deadline(next.at).is_ok() {
                continue;
            }
            let begun = Instant::now();
            next = match self.ask(platform, &demand, next.reason) {
                // Whoever does not hear what is excluded is not asked more often for it.
                Ok(Polled::Job(run)) if demand.excluded.contains(&run) => {
                    stop.wait_until(begun + FAST);
                    Next::now()
                }
                Ok(Polled::Job(_)) => Next::now(),
                Ok(Polled::Cancellations) => self.usual(begun + AFTER_CANCELLATION),
                Ok(Polled::Nothing) if begun.elapsed() >= HELD => self.usual(Instant::now()),
                Ok(Polled::Nothing) => self.usual(begun + FAST),
                Err(_) if stop.is_given() => return,
                Err(error) => {
                    log::warn!("cannot ask for jobs; error={:?}", error.chain());
                    // More room makes no platform better, and it may have said how long to wait.
                    stop.wait_until(Instant::now() + pause_after(error.of_api(), FAST));
                    Next::now()
                }
            };
        }
    }

    /// After a poll that found no job: at that time, or slowly where jobs are pushed.
    fn usual(&self, unless_pushed: Instant) -> Next {
        if self.lock().is_pushed {
            Next { at: Instant::now() + SLOW, reason: "slow" }
        } else {
            Next { at: unless_pushed, reason: "fast" }
        }
    }

    /// What to ask for, and when; none if no job is wanted, if nothing was told yet of this process, or
    /// if it is not decided yet what becomes of the job that was offered: until then the demand does not
    /// exclude it.
    fn demand(&self, next: &mut Next) -> Option<Demand> {
        let mut heard = self.lock();
        let is_open = heard.is_deciding || !heard.offers.is_empty();
        if !heard.is_introduced || is_open || heard.demand.profiles.is_empty() {
            return None;
        }
        if let Some(hurry) = heard.hurry.take().filter(|hurry| hurry.at < next.at) {
            *next = hurry;
        }
        Some(heard.demand.clone())
    }

    /// One poll.
    fn ask(&self, platform: &Platform, demand: &Demand, reason: &str) -> Result<Polled> {
        let body = json!({
            "runnerId": self.runner.id,
            "group": self.group,
            "supportedProfiles": demand.profiles,
            "excludedRunIds": demand.excluded,
            "telemetry": {"pollReason": reason},
        });
        let body = serde_json::to_vec(&body).map_err(|source| Error::Json { source })?;
        let asked = Instant::now();
        let reply: Reply = platform.attempt("/api/runners/poll", &body)?;
        let cancelled = reply.cancelled_run_ids.unwrap_or_default();
        let polled = match &reply.job {
            Some(job) => Polled::Job(job.run_id),
            None if cancelled.is_empty() => Polled::Nothing,
            None => Polled::Cancellations,
        };
        let offer = |job: Job| Offer {
            run: job.run_id,
            profile: job.experimental_profile,
            reuse_key: job.reuse_key,
            found: Found::Polled,
            at: Instant::now(),
        };
        self.put_down(reply.job.map(offer), cancelled, asked);
        Ok(polled)
    }
}
