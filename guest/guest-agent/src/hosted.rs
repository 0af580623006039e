//! A run for a platform. The numbers are those of the crate's documentation.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_common::{Identity, Platform, Stop, chain};

use crate::checkpoint::{Checkpoint, Made, Shape};
use crate::conversation::Report;
use crate::ending::{self, Ending, Failure};
use crate::limit::Part;
use crate::run::Scene;
use crate::service::Services;
use crate::sink::Sink;
use crate::worker::Worker;
use crate::{Error, Outcome, Result};

/// How long events may be on their way when the CLI has ended by itself.
const DELIVERY: Duration = Duration::from_secs(120);

/// How long a checkpoint may take: longer than any that makes sense.
const CHECKPOINT: Duration = Duration::from_secs(3600);

/// A run whose services have started.
pub(crate) struct Hosted<'a> {
    pub(crate) scene: &'a Scene,
    pub(crate) identity: &'a Identity,
    pub(crate) services: &'a Services,
    pub(crate) working_dir: &'a Path,
    /// When the run was asked to end, or failed, if that is so.
    pub(crate) asked: Cell<Option<Instant>>,
}

impl Hosted<'_> {
    /// The run, from its first heartbeat to its checkpoint.
    pub(crate) fn play(&self, mut sink: Sink, began: Instant) -> Outcome {
        let Scene { config, operations, .. } = self.scene;
        // 1 begin
        let shapes = Shape::of_all(&config.artifacts, &config.excluded);
        if let Err(error) = self.wait_for_heartbeat() {
            return Failure::of(&error).into();
        }
        operations.record("init_total", began, None);
        // 2 converse
        let report =
            match self.scene.converse(self.working_dir, &mut sink, || self.services.failure()) {
                Ok(report) => report,
                Err(error) => return Failure::of(&error).into(),
            };
        let mut outcome = Outcome { session_id: report.session.clone(), ..Outcome::default() };
        self.asked.set(report.asked);
        let end = ending::of(&report, config.limits.tool);
        // 3 deliver
        let end = end.and(self.deliver(&mut sink, &mut outcome));
        // 4 keep
        let shortage = report.shortage.clone();
        let end = self.keep(end, report, shapes, &mut outcome);
        outcome.with(end.map_err(|failure| failure.because(shortage.as_deref())))
    }

    fn wait_for_heartbeat(&self) -> Result<()> {
        let began = Instant::now();
        let heard = self.scene.wait(None, || match self.services.failure() {
            Some(error) => Some(Err(error)),
            None => self.services.is_beating().then_some(Ok(())),
        });
        let heard = heard.and_then(|heard| heard.unwrap_or(Ok(())));
        let error = heard.as_ref().err().map(|error| chain(error));
        self.scene.operations.record("heartbeat_start", began, error.as_deref());
        heard
    }

    /// Waits until all events have arrived, or are lost.
    fn deliver(&self, sink: &mut Sink, outcome: &mut Outcome) -> Ending {
        let mut until = Some(self.until(Part::Delivery, DELIVERY));
        let mut end = Ok(());
        let mut closed = false;
        loop {
            let delivered = self.scene.wait(until, || {
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
                    self.asked.set(self.asked.get().or(Some(Instant::now())));
                    end = Err(Failure::of(&error));
                }
            }
            // Late, or ended: what is not there yet is lost, which takes no time.
            self.services.give_up_events.signal();
            until = None;
        }
    }

    /// Keeps what the run leaves: as a checkpoint if all went well so far, else as a partial one.
    fn keep(
        &self,
        end: Ending,
        report: Report,
        shapes: Vec<Shape>,
        outcome: &mut Outcome,
    ) -> Ending {
        let stop = Stop::new();
        let checkpoint = match self.checkpoint(&stop) {
            Ok(checkpoint) => checkpoint,
            Err(error) => return end.and(Err(Failure::of(&error))),
        };
        let notes: Vec<String> = report.shortage.into_iter().collect();
        let is_good = end.is_ok();
        let resumed = self.scene.config.resume.clone().filter(|_| !is_good);
        let session = report.session.or(resumed);
        let make = move || match is_good {
            true => checkpoint.whole(session.as_deref(), &shapes, notes),
            false => checkpoint.partial(session.as_deref(), &shapes, notes),
        };
        let worker = match Worker::start("checkpoint", &self.scene.bell, make) {
            Ok(worker) => worker,
            Err(error) => return end.and(Err(Failure::of(&error))),
        };
        let (made, signalled) = self.wait_for_checkpoint(&worker);
        // Whatever is still under way was given up.
        stop.signal();
        worker.join();
        let made = made.unwrap_or_else(|error| Made { failure: Some(error), ..Made::default() });
        outcome.warnings = made.warnings.len();
        (outcome.checkpoint_id, outcome.partial_checkpoint_id) = (made.whole, made.partial);
        let failed = |error| Failure::of(&Error::Checkpoint { source: Box::new(error) });
        let failure = signalled.map(|error| Failure::of(&error));
        let failure = failure.filter(|_| outcome.checkpoint_id.is_none());
        end.and(failure.or(made.failure.filter(|_| is_good).map(failed)).map_or(Ok(()), Err))
    }

    fn checkpoint(&self, stop: &Stop) -> Result<Checkpoint> {
        Ok(Checkpoint {
            config: Arc::clone(&self.scene.config),
            platform: Platform::new(self.identity, stop)?,
            folder: Arc::clone(&self.scene.folder),
            operations: Arc::clone(&self.scene.operations),
            working_dir: self.working_dir.to_owned(),
            masker: Arc::clone(&self.scene.masker),
            stop: stop.clone(),
        })
    }

    /// Waits for the checkpoint. A signal leaves it some time, the next one none.
    fn wait_for_checkpoint(&self, worker: &Worker<Made>) -> (Result<Made>, Option<Error>) {
        let mut signalled = None;
        let mut until = self.until(Part::Checkpoint, CHECKPOINT);
        loop {
            match self.scene.wait(Some(until), || worker.take()) {
                Ok(made) => return (made.unwrap_or(Err(Error::Late)), signalled),
                Err(error) if self.asked.get().is_none() => {
                    self.asked.set(Some(Instant::now()));
                    until = until.min(self.until(Part::Checkpoint, CHECKPOINT));
                    signalled = Some(error);
                }
                Err(error) => return (Err(Error::Late), Some(error)),
            }
        }
    }

    /// Until when a part may take: `usual` from now on, unless the run was asked to end.
    fn until(&self, part: Part, usual: Duration) -> Instant {
        let usual = Instant::now() + usual;
        let limit = self.scene.config.limits.until(part);
        self.asked.get().map_or(usual, |asked| usual.min(asked + limit))
    }
}
