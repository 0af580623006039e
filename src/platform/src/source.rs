//! Work for a runner in this process: no HTTP in between, and no time lost.
//!
//! What it is told by [`Source::rings`] is a hint; what is true is asked for. So a runner that
//! sleeps in its own `select!` loses nothing, however many rings melt into one.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;
use serde_json::Value;
use uuid::Uuid;

use crate::attempt::Claimant;
use crate::backend::Backend;
use crate::bell::Topic;
use crate::key::{hash, random};
use crate::presence::Incarnation;
use crate::{Completed, Completion, Error, Offer, Refusal, Result, RunId, Wanted};

/// The runner in the process of the platform; there is one, whichever process that is.
const RUNNER: Uuid = Uuid::nil();

/// A job that was claimed.
#[derive(Clone)]
pub struct Claimed {
    /// The job.
    pub run_id: RunId,
    /// How often it was handed out, this time included.
    pub attempt: u32,
    /// How long it may run, in milliseconds. The platform asks for its cancellation then.
    pub timeout_ms: Option<u64>,
    /// The execution context, as the claim over HTTP is answered. It holds secrets.
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

/// A source of jobs. As long as it is there, the jobs that it handed out count as alive.
pub struct Source {
    backend: Arc<Backend>,
    base: String,
    here: Incarnation,
    rings: Receiver<()>,
}

impl Source {
    pub(crate) fn open(backend: Arc<Backend>, base: String) -> Result<Self> {
        let [a, b, c, d, e, f, ..] = random()?;
        let generation = i64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        let here = Incarnation { runner: RUNNER, generation };
        backend.presence.join(here);
        let rings = backend.bell.worker();
        Ok(Self { backend, base, here, rings })
    }

    /// Rings when there may be a job or a cancellation; disconnects when the platform stops.
    #[must_use]
    pub fn rings(&self) -> &Receiver<()> {
        &self.rings
    }

    /// The oldest job that fits, as soon as there is one; `None` at the deadline, which may be now.
    pub fn next(&self, wanted: &Wanted, deadline: Instant) -> Result<Option<Offer>> {
        self.backend.presence.asks_for(RUNNER, &wanted.profiles);
        let hold = deadline.saturating_duration_since(Instant::now());
        self.backend.held(Topic::Work, hold, || self.backend.offer(wanted))
    }

    /// Claims a job; `None` if it is not to be had any more.
    pub fn claim(&self, run: RunId) -> Result<Option<Claimed>> {
        let claimant = Claimant { owner: Some(self.here), request: None };
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

    /// The jobs of this source that are to be ended: those that are to be cancelled, until they
    /// have ended, and for a while those whose attempt is void, unless this source has another.
    pub fn cancelled(&self) -> Result<Vec<RunId>> {
        self.backend.cancelled(self.here)
    }

    /// What was claimed before this process started. Each is to be given back, or to be completed
    /// over HTTP by whoever wrote down its token; otherwise it is lost when its lease is over.
    pub fn orphans(&self) -> Result<Vec<Orphan>> {
        let orphans = self.backend.orphans(RUNNER)?;
        Ok(orphans.into_iter().map(|(run_id, attempt)| Orphan { run_id, attempt }).collect())
    }

    /// Gives a job back: another attempt is made, or the job fails if that was the last. An attempt
    /// that has ended is left alone.
    pub fn give_back(&self, run: RunId, attempt: u32) -> Result<()> {
        self.backend.lose(run, attempt, "its runner gave it back")
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.backend.presence.leave(self.here);
        self.backend.bell.ring(Topic::Deadline);
    }
}
