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

/// The most polls that are scheduled besides the usual one.
const MOST_SCHEDULED: usize = 64;

/// When a poll is due, and why, as the platform is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    at: Instant,
    reason: &'static str,
}

impl Due {
    pub(super) fn now() -> Self {
        Self { at: Instant::now(), reason: "immediate" }
    }

    pub(super) fn deferred(time: Duration) -> Self {
        Self { at: Instant::now() + time, reason: "deferred" }
    }
}

/// Polls besides the usual one, each of which is made: a poll before its time does not replace it.
#[derive(Debug, Default)]
pub(super) struct Schedule(Vec<Due>);

impl Schedule {
    pub(super) fn add(&mut self, due: Due) {
        // Where there are too many, the last one is postponed to the new one's time.
        self.0.truncate(MOST_SCHEDULED - 1);
        let at = self.0.partition_point(|other| other.at <= due.at);
        self.0.insert(at, due);
    }

    /// When the next poll is due, where usually that is `usual`. Of several that are due now, the
    /// reason is the latest one's.
    fn next(&self, usual: Due, now: Instant) -> Due {
        let overdue = self.0.iter().take_while(|due| due.at <= now).last();
        let first = self.0.first().filter(|due| due.at < usual.at);
        *overdue.or(first).unwrap_or(&usual)
    }

    /// A poll begins: whatever was due by then is done.
    fn poll(&mut self, now: Instant) {
        self.0.retain(|due| due.at > now);
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
        let mut usual = Due::now();
        loop {
            // What was to be known of it is in what is shared, and in the stop.
            let _ = woken.try_recv();
            if stop.is_given() {
                return;
            }
            let Some((demand, next)) = self.demand(usual) else {
                let _ = woken.recv();
                continue;
            };
            if next.at > Instant::now() && woken.recv_deadline(next.at).is_ok() {
                continue;
            }
            let begun = Instant::now();
            self.lock().schedule.poll(begun);
            usual = match self.ask(platform, &demand, next.reason) {
                // Whoever does not hear what is excluded is not asked more often for it.
                Ok(Polled::Job(run)) if demand.excluded.contains(&run) => {
                    stop.wait_until(begun + FAST);
                    Due::now()
                }
                Ok(Polled::Job(_)) => Due::now(),
                Ok(Polled::Cancellations) => self.usual(begun + AFTER_CANCELLATION),
                Ok(Polled::Nothing) if begun.elapsed() >= HELD => self.usual(Instant::now()),
                Ok(Polled::Nothing) => self.usual(begun + FAST),
                Err(_) if stop.is_given() => return,
                Err(error) => {
                    log::warn!("cannot ask for jobs; error={:?}", error.chain());
                    // More room makes no platform better, and it may have said how long to wait.
                    stop.wait_until(Instant::now() + pause_after(error.of_api(), FAST));
                    Due::now()
                }
            };
        }
    }

    /// After a poll that found no job: at that time, or slowly where jobs are pushed.
    fn usual(&self, unless_pushed: Instant) -> Due {
        if self.lock().is_pushed {
            Due { at: Instant::now() + SLOW, reason: "slow" }
        } else {
            Due { at: unless_pushed, reason: "fast" }
        }
    }

    /// What to ask for, and when; none if no job is wanted, if nothing was told yet of this process, or
    /// if it is not decided yet what becomes of the job that was offered: until then the demand does not
    /// exclude it.
    fn demand(&self, usual: Due) -> Option<(Demand, Due)> {
        let heard = self.lock();
        let is_open = heard.is_deciding || !heard.offers.is_empty();
        if !heard.is_introduced || is_open || heard.demand.profiles.is_empty() {
            return None;
        }
        Some((heard.demand.clone(), heard.schedule.next(usual, Instant::now())))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64, reason: &'static str) -> Due {
        Due { at: start + Duration::from_secs(seconds), reason }
    }

    #[test]
    fn a_poll_before_the_time_of_a_deferred_one_does_not_replace_it() {
        let start = Instant::now();
        let time = |seconds| start + Duration::from_secs(seconds);
        let usual = at(start, 30, "slow");
        let mut schedule = Schedule::default();
        schedule.add(at(start, 2, "deferred"));
        schedule.add(at(start, 1, "immediate"));

        assert_eq!(schedule.next(usual, time(0)), at(start, 1, "immediate"));
        schedule.poll(time(1));
        assert_eq!(schedule.next(usual, time(1)), at(start, 2, "deferred"));
        schedule.poll(time(2));
        assert_eq!(schedule.next(usual, time(2)), usual);
    }

    #[test]
    fn one_poll_is_enough_for_all_that_are_due_by_then() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        (1..=3).for_each(|second| schedule.add(at(start, second, "deferred")));
        schedule.poll(start + Duration::from_secs(2));
        assert_eq!(schedule.0, [at(start, 3, "deferred")]);
    }

    #[test]
    fn a_deferred_poll_that_is_overdue_says_so_whatever_else_is_due() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.add(at(start, 0, "immediate"));
        schedule.add(at(start, 2, "deferred"));
        let next = schedule.next(at(start, 1, "fast"), start + Duration::from_secs(9));
        assert_eq!(next.reason, "deferred");
    }

    #[test]
    fn a_flood_of_pushes_neither_grows_without_end_nor_delays_the_first() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        (1..=1000).for_each(|second| schedule.add(at(start, second, "deferred")));
        assert_eq!(schedule.0.len(), MOST_SCHEDULED);
        assert_eq!(schedule.next(at(start, 2000, "slow"), start).at, at(start, 1, "").at);
        assert_eq!(schedule.0.last(), Some(&at(start, 1000, "deferred")));
    }
}
