//! A run that reports to a platform. The numbers are the steps in the crate's documentation.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::error::chain;
use contract::AgentOutcome;
use platform_client::{PlatformClient, PlatformCredentials, RequestCancellation};

use crate::checkpoint::{Checkpoint, CheckpointResult, Shape};
use crate::conversation::CliReport;
use crate::failure::{self, Failure, RunResult};
use crate::limit::Phase;
use crate::run::RunContext;
use crate::service::Services;
use crate::sink::Sink;
use crate::worker::Worker;
use crate::{Error, Result};

/// Time limit for delivering the last events after the CLI has exited by itself.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);

/// Time limit for a checkpoint.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(3600);

/// A run whose services have started.
pub(crate) struct Hosted<'a> {
    pub(crate) context: &'a RunContext,
    pub(crate) credentials: &'a PlatformCredentials,
    pub(crate) services: &'a Services,
    pub(crate) working_dir: &'a Path,
    /// When a signal or a failure asked the run to end.
    pub(crate) end_requested: Cell<Option<Instant>>,
}

impl Hosted<'_> {
    /// Runs all steps, from the first heartbeat to the checkpoint.
    pub(crate) fn execute(&self, mut sink: Sink, began: Instant) -> AgentOutcome {
        let RunContext { config, operations, .. } = self.context;
        // 1 begin
        let shapes = Shape::of_all(&config.artifacts, &config.excluded);
        if let Err(error) = self.wait_for_heartbeat() {
            return Failure::of(&error).into();
        }
        operations.record("init_total", began, None);
        // 2 converse
        let report =
            match self.context.converse(self.working_dir, &mut sink, || self.services.failure()) {
                Ok(report) => report,
                Err(error) => return Failure::of(&error).into(),
            };
        let mut outcome =
            AgentOutcome { session_id: report.session.clone(), ..AgentOutcome::default() };
        self.end_requested.set(report.end_requested);
        let end = failure::evaluate(&report, config.limits.tool);
        // 3 deliver
        let end = end.and(self.deliver(&mut sink, &mut outcome));
        // 4 save
        let shortage = report.shortage.clone();
        let end = self.save(end, report, shapes, &mut outcome);
        failure::outcome_of(
            end.map_err(|failure| failure.with_reason(shortage.as_deref())),
            outcome,
        )
    }

    fn wait_for_heartbeat(&self) -> Result<()> {
        let began = Instant::now();
        let result = self.context.wait(None, || match self.services.failure() {
            Some(error) => Some(Err(error)),
            None => self.services.is_reachable().then_some(Ok(())),
        });
        let result = result.and_then(|result| result.unwrap_or(Ok(())));
        let error = result.as_ref().err().map(|error| chain(error));
        self.context.operations.record("heartbeat_start", began, error.as_deref());
        result
    }

    /// Waits until all events are acknowledged or lost.
    fn deliver(&self, sink: &mut Sink, outcome: &mut AgentOutcome) -> RunResult {
        let mut until = Some(self.deadline(Phase::Delivery, DELIVERY_TIMEOUT));
        let mut end = Ok(());
        let mut closed = false;
        loop {
            let delivered = self.context.wait(until, || {
                closed = closed || sink.close_if_room();
                self.services.delivered()
            });
            match delivered {
                Ok(Some(delivered)) => {
                    outcome.last_event_sequence = delivered.last;
                    let lost = delivered.loss().map_or(Ok(()), |loss| Err(Failure::of(&loss)));
                    return end.and(lost);
                }
                Ok(None) => {}
                Err(error) => {
                    self.end_requested.set(self.end_requested.get().or(Some(Instant::now())));
                    end = Err(Failure::of(&error));
                }
            }
            // Past the deadline, or a signal: the delivery gives up the rest, which takes no time.
            self.services.give_up_events.cancel();
            until = None;
        }
    }

    /// Makes a checkpoint if the run has succeeded so far, else a partial checkpoint.
    fn save(
        &self,
        end: RunResult,
        report: CliReport,
        shapes: Vec<Shape>,
        outcome: &mut AgentOutcome,
    ) -> RunResult {
        let stop = RequestCancellation::new();
        let checkpoint = match self.checkpoint(&stop) {
            Ok(checkpoint) => checkpoint,
            Err(error) => return end.and(Err(Failure::of(&error))),
        };
        let notes: Vec<String> = report.shortage.into_iter().collect();
        let is_success = end.is_ok();
        let resumed = self.context.config.resume.clone().filter(|_| !is_success);
        let session = report.session.or(resumed);
        let make = move || {
            if is_success {
                checkpoint.whole(session.as_deref(), &shapes, notes)
            } else {
                checkpoint.partial(session.as_deref(), &shapes, notes)
            }
        };
        let worker = match Worker::start("checkpoint", &self.context.waker, make) {
            Ok(worker) => worker,
            Err(error) => return end.and(Err(Failure::of(&error))),
        };
        let (made, signalled) = self.wait_for_checkpoint(&worker);
        // Past the deadline, or a signal: end the requests that are still under way.
        stop.cancel();
        worker.join();
        let made = made.unwrap_or_else(|error| CheckpointResult {
            failure: Some(error),
            ..CheckpointResult::default()
        });
        outcome.warnings = u32::try_from(made.warnings.len()).unwrap_or(u32::MAX);
        (outcome.checkpoint_id, outcome.partial_checkpoint_id) = (made.whole, made.partial);
        let failed = |error| Failure::of(&Error::Checkpoint { source: Box::new(error) });
        let failure = signalled.map(|error| Failure::of(&error));
        let failure = failure.filter(|_| outcome.checkpoint_id.is_none());
        end.and(failure.or(made.failure.filter(|_| is_success).map(failed)).map_or(Ok(()), Err))
    }

    fn checkpoint(&self, stop: &RequestCancellation) -> Result<Checkpoint> {
        Ok(Checkpoint {
            config: Arc::clone(&self.context.config),
            platform: PlatformClient::new(self.credentials, stop)?,
            folder: Arc::clone(&self.context.folder),
            operations: Arc::clone(&self.context.operations),
            working_dir: self.working_dir.to_owned(),
            masker: Arc::clone(&self.context.masker),
            stop: stop.clone(),
        })
    }

    /// Waits for the checkpoint. A first signal shortens its deadline, a second ends it.
    fn wait_for_checkpoint(
        &self,
        worker: &Worker<CheckpointResult>,
    ) -> (Result<CheckpointResult>, Option<Error>) {
        let mut signalled = None;
        let mut until = self.deadline(Phase::Checkpoint, CHECKPOINT_TIMEOUT);
        loop {
            match self.context.wait(Some(until), || worker.take()) {
                Ok(made) => return (made.unwrap_or(Err(Error::Timeout)), signalled),
                Err(error) if self.end_requested.get().is_none() => {
                    self.end_requested.set(Some(Instant::now()));
                    until = until.min(self.deadline(Phase::Checkpoint, CHECKPOINT_TIMEOUT));
                    signalled = Some(error);
                }
                Err(error) => return (Err(Error::Timeout), Some(error)),
            }
        }
    }

    /// The deadline of a phase: `timeout` from now, or sooner if the run was asked to end.
    fn deadline(&self, phase: Phase, timeout: Duration) -> Instant {
        let usual = Instant::now() + timeout;
        let limit = self.context.config.limits.phase_end(phase);
        self.end_requested.get().map_or(usual, |at| usual.min(at + limit))
    }
}
