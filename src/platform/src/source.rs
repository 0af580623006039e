//! Jobs for a runner in the same process, without HTTP.
//!
//! A message of [`Source::notifications`] is a hint: the runner then asks for jobs and cancellations. So
//! a runner that waits in its own `select!` misses nothing when notifications coalesce.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;
use serde_json::Value;

use crate::attempt::{Claimant, Loss};
use crate::backend::Backend;
use crate::key::{hash, random};
use crate::notifier::Topic;
use crate::presence::Incarnation;
use crate::{Completed, Completion, Error, Offer, Refusal, Result, RunId, Wanted};

/// A claimed job.
#[derive(Clone)]
pub struct Claimed {
    /// The job.
    pub run_id: RunId,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The time limit, in milliseconds. The platform then requests the cancellation.
    pub timeout_ms: Option<u64>,
    /// The execution context, as in the reply to a claim over HTTP. It has secrets.
    pub context: Value,
    token: String,
}

/// A job that was claimed before this process started, and has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orphan {
    /// The job.
    pub run_id: RunId,
    /// The attempt.
    pub attempt: u32,
}

/// A source of jobs. While it exists, the jobs that it handed out count as alive.
pub struct Source {
    backend: Arc<Backend>,
    base: String,
    here: Incarnation,
    notifications: Receiver<()>,
}

impl Source {
    pub(crate) fn open(backend: Arc<Backend>, base: String) -> Result<Self> {
        let [a, b, c, d, e, f, ..] = random()?;
        let generation = i64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        let here = Incarnation { runner: backend.local_runner()?, generation };
        backend.presence.join(here);
        let notifications = backend.notifier.subscribe_to_work();
        Ok(Self { backend, base, here, notifications })
    }

    /// A notification for each possible job or cancellation; disconnects when the platform stops.
    #[must_use]
    pub fn notifications(&self) -> &Receiver<()> {
        &self.notifications
    }

    /// The oldest job that fits, as soon as there is one; `None` at the deadline, which may have
    /// passed.
    pub fn next(&self, wanted: &Wanted, deadline: Instant) -> Result<Option<Offer>> {
        self.backend.record_poll(self.here.runner, wanted.group.as_deref(), &wanted.profiles)?;
        let hold = deadline.saturating_duration_since(Instant::now());
        self.backend.held(Topic::Work, hold, || self.backend.offer(wanted, self.here.runner))
    }

    /// Claims a job; `None` if it is not available any more.
    pub fn claim(&self, run: RunId) -> Result<Option<Claimed>> {
        let claimant = Claimant { owner: Some(self.here), ..Claimant::default() };
        match self.backend.claim(run, claimant, &self.base) {
            Ok(claim) => Ok(Some(Claimed {
                run_id: run,
                attempt: claim.attempt,
                timeout_ms: claim.timeout_ms,
                context: claim.context,
                token: claim.token,
            })),
            Err(Error::Refused(Refusal::Taken | Refusal::Ended | Refusal::NoJob { .. })) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends a run. The first completion decides.
    pub fn complete(&self, job: &Claimed, completion: Completion) -> Result<Completed> {
        self.backend.complete(&hash(&job.token), job.run_id, completion)
    }

    /// The jobs of this source that it must end: cancelled ones until they have ended, and for a
    /// while those with a lost attempt, unless this source claimed them again.
    pub fn cancelled(&self) -> Result<Vec<RunId>> {
        self.backend.cancelled(self.here)
    }

    /// The jobs that were claimed before this process started. The caller gives each back, or
    /// completes it over HTTP with a saved token; otherwise it is lost at the end of its lease.
    pub fn orphans(&self) -> Result<Vec<Orphan>> {
        let orphans = self.backend.orphans(self.here.runner)?;
        Ok(orphans.into_iter().map(|(run_id, attempt)| Orphan { run_id, attempt }).collect())
    }

    /// Gives a job back: it is queued again, or fails after its last attempt. An attempt that has
    /// ended is ignored.
    pub fn give_back(&self, run: RunId, attempt: u32) -> Result<()> {
        self.backend.lose(run, attempt, Loss::GivenBack)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.backend.presence.leave(self.here);
        self.backend.notifier.notify(Topic::Deadline);
    }
}
