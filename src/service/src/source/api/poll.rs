//! The thread `poll`: polls for a job while there is capacity.
//!
//! | after | the next poll is |
//! |---|---|
//! | a job, or a poll that the platform held | at once |
//! | no job | in 5 s; in 30 s while jobs are pushed |
//! | only cancellations | in 1 s |
//! | an error | in 5 s, or after `Retry-After` |
//! | more capacity; a pushed job; a push that may have been missed | at once |
//! | a job that was pushed to another runner | in 2 s |

use std::time::{Duration, Instant};

use contract::{Offer, RunId};
use crossbeam_channel::Receiver;
use platform_client::{PlatformClient, RequestCancellation, pause_after};
use serde::Deserialize;
use serde_json::json;

use super::shared::Shared;
use crate::error::{Error, Result};
use crate::source::{Demand, DiscoveredJob, Discovery};

/// The intervals between polls without a job: regularly, and while jobs are pushed.
const FAST: Duration = Duration::from_secs(5);
const SLOW: Duration = Duration::from_secs(30);
/// A poll that takes at least this long was held by the platform.
const HELD: Duration = Duration::from_secs(1);
/// The delay after a poll that returned only cancellations, which the next one may repeat.
const AFTER_CANCELLATION: Duration = Duration::from_secs(1);

/// The most additional polls that are scheduled.
const MAX_SCHEDULED: usize = 64;

/// The time of a poll, and its reason for the platform's telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ScheduledPoll {
    at: Instant,
    reason: &'static str,
}

impl ScheduledPoll {
    pub(super) fn now() -> Self {
        Self { at: Instant::now(), reason: "immediate" }
    }

    pub(super) fn deferred(time: Duration) -> Self {
        Self { at: Instant::now() + time, reason: "deferred" }
    }
}

/// Additional polls, in order. Each one is made: an earlier poll does not replace it.
#[derive(Debug, Default)]
pub(super) struct Schedule(Vec<ScheduledPoll>);

impl Schedule {
    pub(super) fn add(&mut self, due: ScheduledPoll) {
        // At the limit, the new poll replaces the last one.
        self.0.truncate(MAX_SCHEDULED - 1);
        let at = self.0.partition_point(|other| other.at <= due.at);
        self.0.insert(at, due);
    }

    /// The next poll: the first additional one before `regular`, else `regular`. If several are overdue, the latest of
    /// them, for its reason.
    fn next(&self, regular: ScheduledPoll, now: Instant) -> ScheduledPoll {
        let overdue = self.0.iter().take_while(|due| due.at <= now).last();
        let first = self.0.first().filter(|due| due.at < regular.at);
        *overdue.or(first).unwrap_or(&regular)
    }

    /// Removes the polls that a poll at `now` satisfies.
    fn complete(&mut self, now: Instant) {
        self.0.retain(|due| due.at > now);
    }
}

/// The result of a poll.
enum Polled {
    Job(RunId),
    Cancellations,
    Nothing,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reply {
    job: Option<Offer>,
    #[serde(default)]
    cancelled_run_ids: Option<Vec<RunId>>,
}

impl Shared {
    /// The thread.
    pub(super) fn run_poll(
        &self,
        platform: &PlatformClient,
        woken: &Receiver<()>,
        stop: &RequestCancellation,
    ) {
        let mut regular = ScheduledPoll::now();
        loop {
            // A wake-up carries no data: the state and `stop` are read below.
            let _ = woken.try_recv();
            if stop.is_cancelled() {
                return;
            }
            let Some((demand, next)) = self.demand(regular) else {
                let _ = woken.recv();
                continue;
            };
            if next.at > Instant::now() && woken.recv_deadline(next.at).is_ok() {
                continue;
            }
            let begun = Instant::now();
            self.lock().schedule.complete(begun);
            regular = match self.send_poll(platform, &demand, next.reason) {
                // The platform ignored the exclusion: poll no faster than usual.
                Ok(Polled::Job(run)) if demand.excluded.contains(&run) => {
                    stop.wait_until(begun + FAST);
                    ScheduledPoll::now()
                }
                Ok(Polled::Job(_)) => ScheduledPoll::now(),
                Ok(Polled::Cancellations) => self.regular(begun + AFTER_CANCELLATION),
                Ok(Polled::Nothing) if begun.elapsed() >= HELD => self.regular(Instant::now()),
                Ok(Polled::Nothing) => self.regular(begun + FAST),
                Err(_) if stop.is_cancelled() => return,
                Err(error) => {
                    log::warn!("cannot poll for jobs; error={:?}", error.chain());
                    // More capacity must not shorten the pause that the platform may have requested.
                    stop.wait_until(Instant::now() + pause_after(error.of_api(), FAST));
                    ScheduledPoll::now()
                }
            };
        }
    }

    /// The next regular poll after one without a job: at `unless_pushed`, or later while jobs are pushed.
    fn regular(&self, unless_pushed: Instant) -> ScheduledPoll {
        if self.lock().is_subscribed {
            ScheduledPoll { at: Instant::now() + SLOW, reason: "slow" }
        } else {
            ScheduledPoll { at: unless_pushed, reason: "fast" }
        }
    }

    /// The demand and the next poll. `None` if there is no demand, before the first heartbeat, and while an offer is
    /// undecided, as the demand does not exclude its job yet.
    fn demand(&self, regular: ScheduledPoll) -> Option<(Demand, ScheduledPoll)> {
        let state = self.lock();
        let is_undecided = state.is_deciding || !state.offers.is_empty();
        if !state.is_registered || is_undecided || state.demand.profiles.is_empty() {
            return None;
        }
        Some((state.demand.clone(), state.schedule.next(regular, Instant::now())))
    }

    /// Sends one poll, and queues its results.
    fn send_poll(
        &self,
        platform: &PlatformClient,
        demand: &Demand,
        reason: &str,
    ) -> Result<Polled> {
        let body = json!({
            "runnerId": self.runner.id,
            "group": self.group,
            "supportedProfiles": demand.profiles,
            "excludedRunIds": demand.excluded,
            "telemetry": {"pollReason": reason},
        });
        let body = serde_json::to_vec(&body).map_err(|source| Error::Json { source })?;
        let requested_at = Instant::now();
        let reply: Reply = platform.attempt("/api/runners/poll", &body)?;
        let cancelled = reply.cancelled_run_ids.unwrap_or_default();
        let polled = match &reply.job {
            Some(job) => Polled::Job(job.run_id),
            None if cancelled.is_empty() => Polled::Nothing,
            None => Polled::Cancellations,
        };
        let offer = reply.job.map(|offer| DiscoveredJob::of(offer, Discovery::Polled));
        self.push_update(offer, cancelled, requested_at);
        Ok(polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64, reason: &'static str) -> ScheduledPoll {
        ScheduledPoll { at: start + Duration::from_secs(seconds), reason }
    }

    #[test]
    fn a_poll_before_the_time_of_a_deferred_one_does_not_replace_it() {
        let start = Instant::now();
        let time = |seconds| start + Duration::from_secs(seconds);
        let regular = at(start, 30, "slow");
        let mut schedule = Schedule::default();
        schedule.add(at(start, 2, "deferred"));
        schedule.add(at(start, 1, "immediate"));

        assert_eq!(schedule.next(regular, time(0)), at(start, 1, "immediate"));
        schedule.complete(time(1));
        assert_eq!(schedule.next(regular, time(1)), at(start, 2, "deferred"));
        schedule.complete(time(2));
        assert_eq!(schedule.next(regular, time(2)), regular);
    }

    #[test]
    fn one_poll_satisfies_all_that_are_due_by_then() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        (1..=3).for_each(|second| schedule.add(at(start, second, "deferred")));
        schedule.complete(start + Duration::from_secs(2));
        assert_eq!(schedule.0, [at(start, 3, "deferred")]);
    }

    #[test]
    fn an_overdue_deferred_poll_determines_the_reason() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.add(at(start, 0, "immediate"));
        schedule.add(at(start, 2, "deferred"));
        let next = schedule.next(at(start, 1, "fast"), start + Duration::from_secs(9));
        assert_eq!(next.reason, "deferred");
    }

    #[test]
    fn many_pushes_are_bounded_and_do_not_delay_the_first_poll() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        (1..=1000).for_each(|second| schedule.add(at(start, second, "deferred")));
        assert_eq!(schedule.0.len(), MAX_SCHEDULED);
        assert_eq!(schedule.next(at(start, 2000, "slow"), start).at, at(start, 1, "").at);
        assert_eq!(schedule.0.last(), Some(&at(start, 1000, "deferred")));
    }
}
