//! A run for a platform. The numbers are those of the crate's documentation.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_common::{Identity, Platform, Stop, chain};

use crate::checkpoint::{Checkpoint, Shape};
use crate::conversation::Cause;
use crate::ending::{self, Ending, Failure};
use crate::run::Scene;
use crate::service::Services;
use crate::sink::Sink;
use crate::worker::Worker;
use crate::{Error, Outcome, Result};

/// How long events may be on their way when the CLI has ended, and when the run was ended.
const DELIVERY: Duration = Duration::from_secs(120);
const HASTY_DELIVERY: Duration = Duration::from_secs(20);

/// How long a checkpoint may take: longer than any that makes sense.
const CHECKPOINT: Duration = Duration::from_secs(3600);

/// A run whose services have started.
pub(crate) struct Hosted<'a> {
    pub(crate) scene: &'a Scene,
    pub(crate) identity: &'a Identity,
    pub(crate) services: &'a Services,
    pub(crate) working_dir: &'a Path,
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
        let mut end = ending::of(&report, config.limits.tool);
        // 3 deliver
        let patience = match report.cause {
            Some(Cause::Signal(_) | Cause::Failed(_)) => HASTY_DELIVERY,
            _ => DELIVERY,
        };
        let ended = self.deliver(&mut sink, patience, &mut outcome);
        end = end.and(ended);
        // 4 keep
        if end.is_ok() {
            end = self.keep(report.session, shapes, &mut outcome);
        }
        outcome.with(end)
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
    fn deliver(&self, sink: &mut Sink, patience: Duration, outcome: &mut Outcome) -> Ending {
        let mut until = Some(Instant::now() + patience);
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
                Err(error) => end = Err(Failure::of(&error)),
            }
            // Late, or ended: what is not there yet is lost, which takes no time.
            self.services.give_up_events.signal();
            until = None;
        }
    }

    fn keep(&self, session: Option<String>, shapes: Vec<Shape>, outcome: &mut Outcome) -> Ending {
        let stop = Stop::new();
        let checkpoint = Checkpoint {
            config: Arc::clone(&self.scene.config),
            platform: Platform::new(self.identity, &stop).map_err(|error| Failure::of(&error))?,
            folder: Arc::clone(&self.scene.folder),
            operations: Arc::clone(&self.scene.operations),
            working_dir: self.working_dir.to_owned(),
            stop: stop.clone(),
        };
        let make = move || checkpoint.make(session, &shapes);
        let worker = Worker::start("checkpoint", &self.scene.bell, make);
        let worker = worker.map_err(|error| Failure::of(&error))?;
        let made = self.scene.wait(Some(Instant::now() + CHECKPOINT), || worker.take());
        // Whatever is still under way was given up.
        stop.signal();
        worker.join();
        let failed = |error| Failure::of(&Error::Checkpoint { source: Box::new(error) });
        match made.map_err(|error| Failure::of(&error))? {
            Some(made) => {
                let id = made.and_then(|made| made).map_err(failed)?;
                outcome.checkpoint_id = Some(id);
                Ok(())
            }
            None => Err(failed(Error::Late)),
        }
    }
}
