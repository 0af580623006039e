//! The thread of a job: from its claim to the end of its VM.
//!
//! INVARIANT: whatever happens to the job, its claim ends in one completion, and the main thread hears
//! that its room is free again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use guest_common::epoch_ms;
use sandbox::Image;

use super::config::Profile;
use super::context::RunId;
use super::endpoint::Endpoint;
use super::journal::{Completion, Journal, Record, State};
use super::leash::Leash;
use super::network_log::NetworkLog;
use super::pool::{Pool, Taken};
use super::report::{Operations, Report};
use super::source::{Claim, Offer, Source};
use super::stage::Stages;
use super::work;
use crate::egress::ProxyPool;
use crate::error::{Error, Result};

/// What the agent's error begins with if the platform did not answer its first heartbeat.
const UNREACHABLE: &str = "cannot reach API at";

/// The longest time that a job may take.
const LONGEST: Duration = Duration::from_secs(2 * 60 * 60);

/// The files that VMs of a profile start from.
pub(crate) type Images = dyn Fn(&Profile) -> Result<Image> + Send + Sync;

/// What all jobs' threads share.
pub(crate) struct Crew {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) pool: Pool,
    pub(crate) images: Arc<Images>,
    pub(crate) journal: Journal,
    pub(crate) reports: Sender<Report>,
    pub(crate) gate: Arc<ProxyPool>,
    pub(crate) network_log: NetworkLog,
    /// How long a job has to end when it is asked to.
    pub(crate) cancel_grace: Duration,
}

/// A job that was admitted.
pub(crate) struct Job {
    pub(crate) run: RunId,
    pub(crate) offer: Offer,
    pub(crate) profile: Profile,
    pub(crate) leash: Arc<Leash>,
    pub(crate) crew: Arc<Crew>,
    pub(crate) news: Sender<News>,
}

/// What the main thread hears of a job.
#[derive(Debug)]
pub(crate) enum News {
    /// It is ours, and may run until then.
    Claimed { run: RunId, until: Instant },
    /// Its thread ends.
    Over { run: RunId, how: How },
    /// Sessions have got VMs here, or lost them.
    Held,
}

/// How it went with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// It was done, well or not.
    Done,
    /// Somebody else has it.
    Lost,
    /// It could not be claimed.
    Failed,
}

impl Job {
    /// Starts its thread.
    pub(crate) fn start(self) -> Result<JoinHandle<()>> {
        thread::Builder::new()
            .name(format!("job-{}", self.run.short()))
            .spawn(move || self.live())
            .map_err(|source| Error::Thread { name: "job", source })
    }

    fn live(self) {
        let mut farewell = Farewell { job: &self, how: How::Failed };
        let mut stages = Stages::default();
        let claim =
            stages.measure("claim", || self.crew.source.claim(&self.offer, &self.crew.journal));
        farewell.how = match claim {
            Ok(Some(claim)) => {
                self.attempt(claim, stages);
                How::Done
            }
            Ok(None) => {
                log::debug!("somebody else has the job; run={}", self.run);
                How::Lost
            }
            Err(error) => {
                log::warn!("a job cannot be claimed; run={} error={:?}", self.run, error.chain());
                let _ = self.crew.reports.send(Report::Unanswered(self.run));
                How::Failed
            }
        };
    }

    fn attempt(&self, claim: Claim, mut stages: Stages) {
        let begun = Instant::now();
        let Claim { attempt, timeout, token, context } = claim;
        let run = self.run;
        let limit = self.profile.timeout.min(timeout.unwrap_or(LONGEST)).min(LONGEST);
        let _ = self.news.send(News::Claimed { run, until: begun + limit });
        let mut record = Record {
            run,
            attempt,
            source: self.crew.source.kind(),
            state: State::Claimed { token: token.clone() },
        };
        let mut slot = None;
        let is_intercepted = self.profile.egress.is_some();
        let told = is_intercepted.then(|| self.crew.network_log.tell(run, &token));
        let network_record = told.as_ref().map(|told| told.path.as_path());
        let written = self.crew.journal.write(&record);
        let claimed = written.and(context).map_err(|error| error.chain());
        let worked = claimed.and_then(|context| {
            log::info!("job claimed; run={run} attempt={}", attempt.unwrap_or(1));
            // What a panic leaves of the VM is only ended.
            let work = AssertUnwindSafe(|| {
                work::work(self, &context, network_record, &mut slot, &mut stages)
            });
            let worked = catch_unwind(work).unwrap_or(Err(Error::Panicked));
            worked.map_err(|error| context.masked(error.chain()))
        });
        let reason = self.reason(&worked);
        let completion = self.completion(worked, slot.as_ref());
        self.warn_if_unreachable(&completion);
        let code = completion.exit_code;
        record.state = State::Ended { token: token.clone(), at_ms: epoch_ms(), completion };
        match self.crew.journal.write(&record) {
            Ok(()) => log::debug!("outcome written; run={run}"),
            Err(error) => {
                log::error!("an outcome is not on the disk; run={run} error={}", error.chain());
            }
        }
        if let Some(told) = &told {
            told.flush();
        }
        // A reporter that is gone finds it in the journal at the next start.
        let _ = self.crew.reports.send(Report::Outcome(Box::new(record)));
        self.leash.let_go();
        if let Some(taken) = slot {
            let begun = Instant::now();
            let cleared = self.clear(taken, code);
            stages.add("cleanup", begun.elapsed(), cleared.is_ok());
            if let Err(error) = cleared {
                log::error!("a vm did not end well; run={run} error={}", error.chain());
            }
        }
        // Nothing is sent any more.
        drop(told);
        stages.add("job", begun.elapsed(), code == 0);
        log::info!("job over; run={run} exit_code={code}{reason} {}", stages.line());
        let operations = Operations { run, token, operations: stages.operations() };
        let _ = self.crew.reports.send(Report::Operations(operations));
    }

    /// Says where to look if the agent could not reach the platform from its VM.
    fn warn_if_unreachable(&self, completion: &Completion) {
        let said = completion.error.as_deref();
        let Some(error) = said.filter(|error| error.contains(UNREACHABLE)) else { return };
        let url = &self.crew.source.access().guest_url;
        let addresses = Endpoint::of_url(url).map(|it| it.resolve()).unwrap_or_default();
        log::error!(
            "a job cannot reach the platform from its vm; run={} profile={} url={url} \
             addresses={addresses:?} error={error:?}",
            self.run,
            self.profile.name,
        );
    }

    /// Keeps the VM for its session if that is wanted and all went well, or ends it.
    fn clear(&self, taken: Taken, code: u8) -> Result<()> {
        let is_good = code == 0 && self.leash.end().is_none();
        if is_good && self.crew.pool.wants(&taken) {
            return self.crew.pool.park(taken, &self.profile);
        }
        Ok(taken.sandbox.kill()?)
    }

    /// Why the runner ended it, for the log. What the agent says is for the platform alone: it may
    /// repeat the prompt.
    fn reason(&self, worked: &std::result::Result<Completion, String>) -> String {
        let ours = self.leash.end().map(|end| end.to_string());
        let reason = ours.or_else(|| worked.as_ref().err().cloned());
        reason.map_or_else(String::new, |reason| format!(" reason={reason:?}"))
    }

    /// What the platform is told.
    fn completion(
        &self,
        worked: std::result::Result<Completion, String>,
        taken: Option<&Taken>,
    ) -> Completion {
        let sandbox_id = taken.map(|taken| taken.sandbox.id().to_string());
        let sandbox_reuse_result = taken.and_then(|taken| taken.reuse);
        match (worked, self.leash.end()) {
            // Whoever was done before it was ended, is done.
            (Ok(completion), None) => completion,
            (Ok(completion), Some(_)) if completion.exit_code == 0 => completion,
            (Ok(completion), Some(end)) => Completion {
                exit_code: end.exit_code(),
                error: Some(end.to_string()),
                ..completion
            },
            (Err(_), Some(end)) => Completion {
                exit_code: end.exit_code(),
                error: Some(end.to_string()),
                sandbox_id,
                sandbox_reuse_result,
                ..Completion::default()
            },
            (Err(text), None) => {
                Completion { sandbox_id, sandbox_reuse_result, ..Completion::failed(text) }
            }
        }
    }
}

/// Tells the main thread of the end, however it comes.
struct Farewell<'a> {
    job: &'a Job,
    how: How,
}

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        let _ = self.job.news.send(News::Over { run: self.job.run, how: self.how });
    }
}
