//! The threads that talk to the platform while the CLI runs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use guest_common::{Identity, OperationLog, Platform, RunFolder, Stop};
use mask::Masker;

use crate::bell::Bell;
use crate::delivery::{Delivered, Delivery};
use crate::heartbeat::{Heart, RHYTHM};
use crate::sink::Sink;
use crate::telemetry::Telemetry;
use crate::worker::Worker;
use crate::{Error, Result, spool};

/// How long the last telemetry may take.
const LAST_REPORT: Duration = Duration::from_secs(20);

/// The services of a run.
pub(crate) struct Services {
    beating: Arc<AtomicBool>,
    heart: Worker<Result<()>>,
    delivery: Worker<Delivered>,
    telemetry: Worker<()>,
    /// What is not acknowledged by then is lost.
    pub(crate) give_up_events: Stop,
    /// Ends the requests of the heart and of the telemetry.
    abort: Stop,
    end_heart: Stop,
    end_telemetry: Stop,
}

/// What services need to know of their run.
pub(crate) struct Place<'a> {
    pub(crate) folder: &'a RunFolder,
    pub(crate) masker: &'a Arc<Masker>,
    pub(crate) operations: &'a Arc<OperationLog>,
    pub(crate) bell: &'a Bell,
    /// The folder whose disk is measured.
    pub(crate) disk: &'a Path,
}

impl Services {
    /// Starts all of them; the sink is where events go.
    pub(crate) fn start(identity: &Identity, place: &Place<'_>) -> Result<(Self, Sink)> {
        let Place { folder, operations, bell, .. } = place;
        let [abort, give_up_events, end_heart, end_telemetry] = [(); 4].map(|()| Stop::new());
        let platform = Platform::new(identity, &abort)?;
        let run_id = &identity.run_id;

        let beating = Arc::new(AtomicBool::new(false));
        let heart = Heart {
            platform: platform.clone(),
            run_id: run_id.clone(),
            stop: end_heart.clone(),
            rhythm: RHYTHM,
        };
        let (heard, ringing) = (Arc::clone(&beating), (*bell).clone());
        let heart = Worker::start("heartbeat", bell, move || heart.run(&heard, &ringing))?;

        let (inlet, outlet) = spool::spool(folder.scratch("events")?, bell)?;
        let delivery = Delivery::new(identity, &give_up_events, folder)?;
        let delivery = Worker::start("events", bell, move || delivery.run(&outlet))?;

        let telemetry = Telemetry::new(&platform, run_id, place, &end_telemetry)?;
        let operations = Arc::clone(operations);
        let telemetry = Worker::start("telemetry", bell, move || telemetry.run(&operations))?;

        let services = Self {
            beating,
            heart,
            delivery,
            telemetry,
            give_up_events,
            abort,
            end_heart,
            end_telemetry,
        };
        Ok((services, Sink::Platform { spool: inlet, next: 0 }))
    }

    /// Whether the platform was heard.
    pub(crate) fn is_beating(&self) -> bool {
        self.beating.load(Ordering::Acquire)
    }

    /// Why the run cannot go on, if that is so: its heart has stopped, or events go nowhere, as
    /// their delivery has ended before the last of them came.
    pub(crate) fn failure(&self) -> Option<Error> {
        let heart = self.heart.take().and_then(|ended| ended.and_then(|ended| ended).err());
        heart.or_else(|| match self.delivery.peek(Delivered::loss)? {
            Ok(loss) => loss,
            Err(error) => Some(error),
        })
    }

    /// What became of the events, once that is known.
    pub(crate) fn delivered(&self) -> Option<Delivered> {
        let lost =
            |error: Error| Delivered { reason: Some(error.to_string()), ..Delivered::default() };
        Some(self.delivery.take()?.unwrap_or_else(lost))
    }

    /// Ends all of them; the telemetry has some time for its last report, until `latest` if that is
    /// sooner.
    pub(crate) fn end(self, bell: &Bell, latest: Option<Instant>) {
        self.end_heart.signal();
        self.end_telemetry.signal();
        let until = Instant::now() + LAST_REPORT;
        let until = latest.map_or(until, |latest| until.min(latest));
        while self.telemetry.take().is_none() && bell.wait_until(until) {}
        self.give_up_events.signal();
        self.abort.signal();
        self.telemetry.join();
        self.heart.join();
        self.delivery.join();
    }
}
