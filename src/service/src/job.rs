//! The thread of a job, from its claim to the end of its VM.
//!
//! INVARIANT: every claim ends in exactly one completion, and the thread always sends
//! [`JobEvent::Finished`], so that the main thread releases the job's resources.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base::date::epoch_ms;
use contract::{Completion, RunId};
use crossbeam_channel::Sender;
use sandbox::{Cause, Image};

use super::cancellation::JobCancellation;
use super::config::Profile;
use super::endpoint::Endpoint;
use super::execution;
use super::journal::{ClaimRecord, ClaimState, Journal};
use super::network_log::NetworkLog;
use super::pool::{Pool, PooledVm};
use super::report::{JobReport, JobTelemetry};
use super::source::{Claim, DiscoveredJob, Source};
use super::stage::Stages;
use crate::error::{Error, Result};
use egress::ProxyPool;

/// Part of the agent's error if the platform did not answer its first heartbeat.
const UNREACHABLE: &str = "cannot reach API at";

/// The longest time limit of a job.
const MAX_TIMEOUT: Duration = Duration::from_secs(2 * 60 * 60);

/// Finds the image files of a profile.
pub type Images = dyn Fn(&Profile) -> std::result::Result<Image, Cause> + Send + Sync;

/// What the threads of all jobs share.
pub(crate) struct JobContext {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) images: Arc<Images>,
    pub(crate) journal: Journal,
    pub(crate) reports: Sender<JobReport>,
    pub(crate) proxies: Arc<ProxyPool>,
    pub(crate) network_log: NetworkLog,
    /// The time between SIGTERM and SIGKILL for a cancelled job.
    pub(crate) cancel_grace: Duration,
}

/// An admitted job.
pub(crate) struct Job {
    pub(crate) run: RunId,
    pub(crate) offer: DiscoveredJob,
    pub(crate) profile: Profile,
    pub(crate) cancellation: Arc<JobCancellation>,
    pub(crate) shared: Arc<JobContext>,
    pub(crate) events: Sender<JobEvent>,
}

/// Sent by job threads and the pool to the main thread.
#[derive(Debug)]
pub(crate) enum JobEvent {
    /// The job was claimed and may run until `deadline`.
    Claimed { run: RunId, deadline: Instant },
    /// The job's thread ends.
    Finished { run: RunId, outcome: JobOutcome },
    /// The set of sessions with a parked VM changed.
    SessionsChanged,
    /// A sandbox took resources, or returned them.
    ResourcesChanged,
}

/// The result of a job's thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobOutcome {
    /// The job was claimed, and its completion is in the journal.
    Done,
    /// Another runner has the job.
    Lost,
    /// The claim failed.
    Failed,
}

impl Job {
    /// Starts the job's thread.
    pub(crate) fn start(self) -> Result<JoinHandle<()>> {
        base::thread::spawn(format!("job-{}", self.run.short()), move || self.run())
            .map_err(|source| Error::Thread { name: "job", source })
    }

    fn run(self) {
        let mut guard = CompletionGuard { job: &self, outcome: JobOutcome::Failed };
        let mut stages = Stages::default();
        let claim =
            stages.measure("claim", || self.shared.source.claim(&self.offer, &self.shared.journal));
        guard.outcome = match claim {
            Ok(Some(claim)) => {
                self.run_claimed(claim, stages);
                JobOutcome::Done
            }
            Ok(None) => {
                log::debug!("another runner has the job; run={}", self.run);
                JobOutcome::Lost
            }
            Err(error) => {
                log::warn!("cannot claim a job; run={} error={:?}", self.run, error.chain());
                let _ = self.shared.reports.send(JobReport::UnansweredClaim(self.run));
                JobOutcome::Failed
            }
        };
    }

    fn run_claimed(&self, claim: Claim, mut stages: Stages) {
        let started = Instant::now();
        let Claim { attempt, timeout, token, context } = claim;
        let run = self.run;
        let limit = self.profile.timeout.min(timeout.unwrap_or(MAX_TIMEOUT)).min(MAX_TIMEOUT);
        let _ = self.events.send(JobEvent::Claimed { run, deadline: started + limit });
        let mut record = ClaimRecord {
            run,
            attempt,
            source: self.shared.source.kind(),
            state: ClaimState::Claimed { token: token.clone() },
        };
        let mut slot = None;
        let is_intercepted = self.profile.interception.is_some();
        let log = is_intercepted.then(|| self.shared.network_log.open(run, &token));
        let network_record = log.as_ref().map(|log| log.path.as_path());
        let written = self.shared.journal.write(&record);
        let claimed = written.and(context).map_err(|error| error.chain());
        let result = claimed.and_then(|context| {
            log::info!("job claimed; run={run} attempt={}", attempt.unwrap_or(1));
            // After a panic the VM is only killed.
            let execute = AssertUnwindSafe(|| {
                execution::execute(self, &context, network_record, &mut slot, &mut stages)
            });
            let result = catch_unwind(execute).unwrap_or(Err(Error::Panicked));
            result.map_err(|error| context.masked(error.chain()))
        });
        let reason = self.failure_reason(&result);
        let completion = self.completion(result, slot.as_ref());
        self.warn_if_unreachable(&completion);
        let code = completion.exit_code;
        record.state = ClaimState::Ended { token: token.clone(), at_ms: epoch_ms(), completion };
        self.write_outcome(&record);
        if let Some(log) = &log {
            log.flush();
        }
        // If the reporter has stopped, the next start reads the outcome from the journal.
        let _ = self.shared.reports.send(JobReport::Outcome(Box::new(record)));
        self.cancellation.clear();
        if let Some(pooled) = slot {
            let started = Instant::now();
            let released = self.release_vm(pooled, code);
            stages.add("cleanup", started.elapsed(), released.is_ok());
            if let Err(error) = released {
                log::error!("cannot park or kill a vm; run={run} error={}", error.chain());
            }
        }
        // The VM no longer sends: upload the rest of its network log.
        drop(log);
        stages.add("job", started.elapsed(), code == 0);
        log::info!("job finished; run={run} exit_code={code}{reason} {}", stages.log_fields());
        let telemetry = JobTelemetry { run, token, operations: stages.operations() };
        let _ = self.shared.reports.send(JobReport::Telemetry(telemetry));
    }

    fn write_outcome(&self, record: &ClaimRecord) {
        match self.shared.journal.write(record) {
            Ok(()) => log::debug!("outcome written; run={}", self.run),
            Err(error) => {
                let (run, error) = (self.run, error.chain());
                log::error!("cannot write an outcome to the journal; run={run} error={error}");
            }
        }
    }

    /// Logs the platform's URL and addresses if the agent could not reach it from its VM.
    fn warn_if_unreachable(&self, completion: &Completion) {
        let error = completion.error.as_deref();
        let Some(error) = error.filter(|error| error.contains(UNREACHABLE)) else { return };
        for url in &self.shared.source.access().guest_urls {
            let addresses = Endpoint::of_url(url).map(|it| it.resolve()).unwrap_or_default();
            log::error!(
                "a job cannot reach the platform from its vm; run={} profile={} url={url} \
                 addresses={addresses:?} error={error:?}",
                self.run,
                self.profile.name,
            );
        }
    }

    /// Parks the VM for its session after a success, if the pool accepts it, or kills it.
    fn release_vm(&self, pooled: PooledVm, code: u8) -> Result<()> {
        let is_success = code == 0 && self.cancellation.reason().is_none();
        if is_success && self.shared.pool.can_park(&pooled) {
            return self.shared.pool.park(pooled, &self.profile);
        }
        Ok(pooled.sandbox.kill()?)
    }

    /// For the log: why the runner ended the job. The agent's own error goes only to the platform, because
    /// it may contain the prompt.
    fn failure_reason(&self, result: &std::result::Result<Completion, String>) -> String {
        let reason = self.cancellation.reason().map(|reason| reason.to_string());
        let reason = reason.or_else(|| result.as_ref().err().cloned());
        reason.map_or_else(String::new, |reason| format!(" reason={reason:?}"))
    }

    /// The completion for the platform.
    fn completion(
        &self,
        result: std::result::Result<Completion, String>,
        pooled: Option<&PooledVm>,
    ) -> Completion {
        let sandbox_id = pooled.map(|pooled| pooled.sandbox.id().to_string());
        let sandbox_reuse_result = pooled.and_then(|pooled| pooled.reuse);
        match (result, self.cancellation.reason()) {
            // A job that succeeded before its cancellation took effect is a success.
            (Ok(completion), None) => completion,
            (Ok(completion), Some(_)) if completion.exit_code == 0 => completion,
            (Ok(completion), Some(reason)) => Completion {
                exit_code: reason.exit_code(),
                error: Some(reason.to_string()),
                ..completion
            },
            (Err(_), Some(reason)) => Completion {
                exit_code: reason.exit_code(),
                error: Some(reason.to_string()),
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

/// Sends [`JobEvent::Finished`] when dropped, also by a panic.
struct CompletionGuard<'a> {
    job: &'a Job,
    outcome: JobOutcome,
}

impl Drop for CompletionGuard<'_> {
    fn drop(&mut self) {
        let _ =
            self.job.events.send(JobEvent::Finished { run: self.job.run, outcome: self.outcome });
    }
}
