//! The threads that talk to the platform while the CLI runs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use guest_common::{OperationLog, RunFolder};
use mask::Masker;
use platform_client::{PlatformClient, PlatformCredentials, RequestCancellation};

use crate::delivery::{Delivered, Delivery};
use crate::heartbeat::{Heartbeat, TIMING};
use crate::sink::Sink;
use crate::telemetry::Telemetry;
use crate::waker::Waker;
use crate::worker::Worker;
use crate::{Error, Result, spool};

/// Time limit for the last telemetry report.
const LAST_REPORT: Duration = Duration::from_secs(20);

/// The heartbeat, delivery and telemetry threads of a run.
pub(crate) struct Services {
    is_reachable: Arc<AtomicBool>,
    heartbeat: Worker<Result<()>>,
    delivery: Worker<Delivered>,
    telemetry: Worker<()>,
    /// Ends the delivery. Events that are not acknowledged by then are lost.
    pub(crate) give_up_events: RequestCancellation,
    /// Ends the requests of the heartbeat and of the telemetry.
    abort: RequestCancellation,
    end_heartbeat: RequestCancellation,
    end_telemetry: RequestCancellation,
}

/// The parts of a run that its services use.
pub(crate) struct ServiceContext<'a> {
    pub(crate) folder: &'a RunFolder,
    pub(crate) masker: &'a Arc<Masker>,
    pub(crate) operations: &'a Arc<OperationLog>,
    pub(crate) waker: &'a Waker,
    /// A folder on the disk that the metrics measure.
    pub(crate) disk: &'a Path,
}

impl Services {
    /// Starts all services. The returned sink takes the CLI's events.
    pub(crate) fn start(
        credentials: &PlatformCredentials,
        context: &ServiceContext<'_>,
    ) -> Result<(Self, Sink)> {
        let ServiceContext { folder, operations, waker, .. } = context;
        let [abort, give_up_events, end_heartbeat, end_telemetry] =
            [(); 4].map(|()| RequestCancellation::new());
        let platform = PlatformClient::new(credentials, &abort)?;
        let run_id = &credentials.client_session;

        let is_reachable = Arc::new(AtomicBool::new(false));
        let heartbeat = Heartbeat {
            platform: platform.clone(),
            run_id: run_id.clone(),
            stop: end_heartbeat.clone(),
            timing: TIMING,
        };
        let (answered, heartbeat_waker) = (Arc::clone(&is_reachable), (*waker).clone());
        let run = move || heartbeat.run(&answered, &heartbeat_waker);
        let heartbeat = Worker::start("heartbeat", waker, run)?;

        let (writer, reader) = spool::spool(folder.scratch("events")?, waker)?;
        let delivery = Delivery::new(credentials, &give_up_events, folder)?;
        let delivery = Worker::start("events", waker, move || delivery.run(&reader))?;

        let telemetry = Telemetry::new(&platform, run_id, context, &end_telemetry)?;
        let operations = Arc::clone(operations);
        let telemetry = Worker::start("telemetry", waker, move || telemetry.run(&operations))?;

        let services = Self {
            is_reachable,
            heartbeat,
            delivery,
            telemetry,
            give_up_events,
            abort,
            end_heartbeat,
            end_telemetry,
        };
        Ok((services, Sink::Platform { spool: writer, next: 0 }))
    }

    /// Whether the platform has answered the first heartbeat.
    pub(crate) fn is_reachable(&self) -> bool {
        self.is_reachable.load(Ordering::Acquire)
    }

    /// The error that ends the run: the heartbeat has failed, or the delivery has ended before the
    /// last event.
    pub(crate) fn failure(&self) -> Option<Error> {
        let ended = self.heartbeat.take();
        let heartbeat = ended.and_then(|ended| ended.and_then(|result| result).err());
        heartbeat.or_else(|| match self.delivery.peek(Delivered::loss)? {
            Ok(loss) => loss,
            Err(error) => Some(error),
        })
    }

    /// The result of the delivery, once it has ended.
    pub(crate) fn delivered(&self) -> Option<Delivered> {
        let lost =
            |error: Error| Delivered { reason: Some(error.to_string()), ..Delivered::default() };
        Some(self.delivery.take()?.unwrap_or_else(lost))
    }

    /// Ends all services. The telemetry may send its last report until [`LAST_REPORT`] has passed,
    /// or until `latest` if that is sooner.
    pub(crate) fn end(self, waker: &Waker, latest: Option<Instant>) {
        self.end_heartbeat.cancel();
        self.end_telemetry.cancel();
        let until = Instant::now() + LAST_REPORT;
        let until = latest.map_or(until, |latest| until.min(latest));
        while self.telemetry.take().is_none() && waker.wait_until(until) {}
        self.give_up_events.cancel();
        self.abort.cancel();
        self.telemetry.join();
        self.heartbeat.join();
        self.delivery.join();
    }
}
