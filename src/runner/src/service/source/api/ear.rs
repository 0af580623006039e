//! What is heard of a platform elsewhere, by two threads, and put down for the main thread to look at.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use guest_common::{Platform, Stop, pause_after};
use serde::Deserialize;
use serde_json::json;

use crate::error::{Error, Result};
use crate::service::admission::Amount;
use crate::service::context::RunId;
use crate::service::identity::Identity;
use crate::service::source::{Cancelled, Demand, Offer, Presence};

/// Between polls that found nothing, unless the platform held them.
const PAUSE: Duration = Duration::from_secs(5);
/// From here on it was held.
const HELD: Duration = Duration::from_secs(1);
/// After a poll that told of cancellations alone, which the next may do as well.
const AFTER_CANCELLATION: Duration = Duration::from_secs(1);
const BEAT: Duration = Duration::from_secs(10);

/// What the threads share with the main thread.
pub(super) struct Shared {
    pub(super) runner: Identity,
    pub(super) name: String,
    pub(super) group: String,
    pub(super) total: Amount,
    pub(super) most: usize,
    pub(super) heard: Mutex<Heard>,
    pub(super) bell: Sender<()>,
    pub(super) wake_poll: Sender<()>,
    pub(super) wake_beat: Sender<()>,
}

/// What is put down.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) demand: Demand,
    pub(super) offers: VecDeque<Offer>,
    /// Whether the main thread has an offer of which the demand does not tell yet what became.
    pub(super) is_deciding: bool,
    pub(super) cancelled: Vec<Cancelled>,
    pub(super) presence: Option<Presence>,
    /// Whether this process has told of itself, or tried to: what is claimed before belongs, for the
    /// platform, to the process before.
    pub(super) is_introduced: bool,
}

/// What came of a poll.
enum Polled {
    Job(RunId),
    Cancellations,
    Nothing,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PollReply {
    job: Option<PolledJob>,
    #[serde(default)]
    cancelled_run_ids: Option<Vec<RunId>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PolledJob {
    run_id: RunId,
    experimental_profile: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BeatReply {
    cancelled_run_ids: Option<Vec<RunId>>,
}

impl Shared {
    /// The thread `poll`.
    pub(super) fn poll(&self, platform: &Platform, woken: &Receiver<()>, stop: &Stop) {
        let mut pause = Duration::ZERO;
        loop {
            // What was to be known of it is in what is shared, and in the stop.
            let _ = woken.try_recv();
            if stop.is_given() {
                return;
            }
            let Some(demand) = self.demand() else {
                let _ = woken.recv();
                continue;
            };
            // A change ends the pause: there may be room for what there was none for before.
            if !pause.is_zero() && woken.recv_timeout(pause).is_ok() {
                pause = Duration::ZERO;
                continue;
            }
            let begun = Instant::now();
            pause = Duration::ZERO;
            match self.ask(platform, &demand) {
                // Whoever does not hear what is excluded is not asked more often for it.
                Ok(Polled::Job(run)) if demand.excluded.contains(&run) => {
                    stop.wait_until(Instant::now() + PAUSE);
                }
                Ok(Polled::Job(_)) => {}
                Ok(Polled::Cancellations) => pause = AFTER_CANCELLATION,
                Ok(Polled::Nothing) if begun.elapsed() >= HELD => {}
                Ok(Polled::Nothing) => pause = PAUSE,
                Err(_) if stop.is_given() => return,
                Err(error) => {
                    log::warn!("cannot ask for jobs; error={:?}", error.chain());
                    // A change makes no platform better, and it may have said how long to wait.
                    stop.wait_until(Instant::now() + pause_after(error.of_api(), PAUSE));
                }
            }
        }
    }

    /// What to ask for; none if no job is wanted, if nothing was told yet of this process, or if it is
    /// not decided yet what becomes of the job that was offered: until then the demand does not
    /// exclude it.
    fn demand(&self) -> Option<Demand> {
        let heard = self.lock();
        let is_open = heard.is_deciding || !heard.offers.is_empty();
        (heard.is_introduced && !is_open && !heard.demand.profiles.is_empty())
            .then(|| heard.demand.clone())
    }

    /// One poll.
    fn ask(&self, platform: &Platform, demand: &Demand) -> Result<Polled> {
        let body = json!({
            "runnerId": self.runner.id,
            "group": self.group,
            "supportedProfiles": demand.profiles,
            "excludedRunIds": demand.excluded,
            "telemetry": {"pollReason": "fast"},
        });
        let body = serde_json::to_vec(&body).map_err(|source| Error::Json { source })?;
        let asked = Instant::now();
        let reply: PollReply = platform.attempt("/api/runners/poll", &body)?;
        let cancelled = reply.cancelled_run_ids.unwrap_or_default();
        let polled = match &reply.job {
            Some(job) => Polled::Job(job.run_id),
            None if cancelled.is_empty() => Polled::Nothing,
            None => Polled::Cancellations,
        };
        self.put_down(reply.job, cancelled, asked);
        Ok(polled)
    }

    /// The thread `heartbeat`.
    pub(super) fn beat(&self, platform: &Platform, woken: &Receiver<()>, stop: &Stop) {
        let mut sequence = 0;
        loop {
            let _ = woken.recv_timeout(BEAT);
            if stop.is_given() {
                return;
            }
            let Some(presence) = self.lock().presence.clone() else { continue };
            sequence += 1;
            let asked = Instant::now();
            match self.tell(platform, &presence, sequence) {
                Ok(cancelled) => self.put_down(None, cancelled, asked),
                Err(error) => {
                    log::warn!("a heartbeat was not heard; error={:?}", error.chain());
                    stop.wait_until(asked + pause_after(error.of_api(), Duration::ZERO));
                }
            }
            if !std::mem::replace(&mut self.lock().is_introduced, true) {
                let _ = self.wake_poll.try_send(());
            }
        }
    }

    fn tell(&self, platform: &Platform, presence: &Presence, sequence: u64) -> Result<Vec<RunId>> {
        let body = json!({
            "runnerId": self.runner.id,
            "runnerName": self.name,
            "group": self.group,
            "snapshotGeneration": self.runner.generation,
            "snapshotSequence": sequence,
            "totalVcpu": self.total.vcpus,
            "totalMemoryMb": self.total.memory_mib,
            "maxConcurrent": self.most,
            "allocatedVcpu": presence.taken.vcpus,
            "allocatedMemoryMb": presence.taken.memory_mib,
            "runningCount": presence.running,
            "admittableProfiles": presence.profiles,
            "heldSessionStates": [],
            "mode": presence.mode,
        });
        let body = serde_json::to_vec(&body).map_err(|source| Error::Json { source })?;
        let reply: BeatReply = platform.attempt("/api/runners/heartbeat", &body)?;
        Ok(reply.cancelled_run_ids.unwrap_or_default())
    }

    fn put_down(&self, job: Option<PolledJob>, cancelled: Vec<RunId>, asked: Instant) {
        if job.is_none() && cancelled.is_empty() {
            return;
        }
        let mut heard = self.lock();
        heard
            .offers
            .extend(job.map(|job| Offer { run: job.run_id, profile: job.experimental_profile }));
        heard.cancelled.extend(cancelled.into_iter().map(|run| Cancelled { run, asked }));
        drop(heard);
        let _ = self.bell.try_send(());
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Heard> {
        // Nothing panics while it has the lock.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
