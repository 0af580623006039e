//! The `telemetry` thread: sends the log, the metrics and the operations to the platform, every 30 s
//! and at the end of the run.
//!
//! Data is discarded only after the platform has acknowledged it. A telemetry error never fails a run.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::error::chain;
use guest_common::{OPERATIONS, OperationLog};
use mask::Masker;
use platform_client::{PlatformClient, RequestCancellation};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Result;
use crate::event::Event;
use crate::logging::LOG;
use crate::metric::{Metric, Sampler};
use crate::service::ServiceContext;

const PATH: &str = "/api/webhooks/agent/telemetry";

const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);
const REPORT_INTERVAL: Duration = Duration::from_secs(30);

/// The most operations and metrics in a report.
const MAX_ENTRIES: usize = 500;
/// The most bytes of the log and of the operations in a report. Even if JSON escapes every byte they
/// fit into the 1 MiB that the platform takes.
const MAX_LOG: usize = 128 << 10;
const MAX_OPERATIONS: usize = 128 << 10;
/// The most metrics that wait for the platform: more than an hour's.
const MAX_METRICS: usize = 1000;

/// The data that is still to be sent.
pub(crate) struct Telemetry {
    platform: PlatformClient,
    run_id: String,
    masker: Arc<Masker>,
    stop: RequestCancellation,
    log: Tail,
    operations: Tail,
    metrics: Vec<Metric>,
    sampler: Sampler,
}

/// A file that grows, and the offset up to which it was sent.
struct Tail {
    file: File,
    sent: u64,
}

#[derive(Deserialize)]
struct TelemetryReply {
    #[serde(rename = "success")]
    _success: bool,
}

impl Telemetry {
    /// `stop` ends the regular reports; then the last one is sent.
    pub(crate) fn new(
        platform: &PlatformClient,
        run_id: &str,
        context: &ServiceContext<'_>,
        stop: &RequestCancellation,
    ) -> Result<Self> {
        let tail = |name| {
            let file = context.folder.append(name)?;
            Ok::<_, guest_common::Error>(Tail { file, sent: 0 })
        };
        Ok(Self {
            platform: platform.clone(),
            run_id: run_id.to_owned(),
            masker: Arc::clone(context.masker),
            stop: stop.clone(),
            log: tail(LOG)?,
            operations: tail(OPERATIONS)?,
            metrics: Vec::new(),
            sampler: Sampler::new(context.disk.to_owned()),
        })
    }

    /// Samples and reports until `stop`, and then once more.
    pub(crate) fn run(mut self, operations: &OperationLog) {
        let mut report_at = Instant::now() + REPORT_INTERVAL;
        let mut sample_at = Instant::now() + SAMPLE_INTERVAL;
        while !self.stop.wait_until(sample_at.min(report_at)) {
            let now = Instant::now();
            if now >= sample_at {
                sample_at = now + SAMPLE_INTERVAL;
                let metric = self.sampler.sample();
                self.metrics.push(metric);
                let excess = self.metrics.len().saturating_sub(MAX_METRICS);
                self.metrics.drain(..excess);
            }
            if now >= report_at {
                report_at = now + REPORT_INTERVAL;
                self.report();
            }
        }
        let began = Instant::now();
        self.metrics.push(self.sampler.sample());
        let error = (!self.report()).then_some("the platform did not accept it");
        // This operation measures the report, so it goes into another one.
        operations.record("final_telemetry_upload", began, error);
        if error.is_none() {
            self.report();
        }
    }

    /// Sends all pending data. Returns false if the platform did not accept it.
    fn report(&mut self) -> bool {
        loop {
            let log = self.log.read(MAX_LOG);
            let (operations, operations_length) = self.operations(MAX_ENTRIES);
            let count = self.metrics.len().min(MAX_ENTRIES - operations.len());
            if log.is_empty() && operations_length == 0 && count == 0 {
                return true;
            }
            let mut body = json!({ "runId": self.run_id });
            if !log.is_empty() {
                body["systemLog"] = String::from_utf8_lossy(&log).into();
            }
            if count > 0 {
                body["metrics"] = json!(self.metrics[..count]);
            }
            if !operations.is_empty() {
                body["sandboxOperations"] = operations.into();
            }
            if let Err(error) = self.platform.post::<TelemetryReply>(PATH, &body) {
                log::warn!("cannot send the telemetry; error={}", chain(&error));
                return false;
            }
            self.log.sent += log.len() as u64;
            self.operations.sent += operations_length;
            self.metrics.drain(..count);
        }
    }

    /// The next operations, masked, and their length in the file.
    fn operations(&self, max: usize) -> (Vec<Value>, u64) {
        let bytes = self.operations.read(MAX_OPERATIONS);
        let lines: Vec<_> = bytes.split_inclusive(|byte| *byte == b'\n').take(max).collect();
        let length = lines.iter().map(|line| line.len() as u64).sum();
        let masked = lines.iter().filter_map(|line| Event::read(line, &self.masker));
        let values = masked.filter_map(|event| serde_json::from_slice(&event.into_json(None)).ok());
        (values.collect(), length)
    }
}

impl Tail {
    /// The next whole lines, of at most `max` bytes; a part of a line if it is longer than that.
    fn read(&self, max: usize) -> Vec<u8> {
        let mut bytes = vec![0; max];
        // After a read error the next report tries again.
        let count = self.file.read_at(&mut bytes, self.sent).unwrap_or(0);
        bytes.truncate(count);
        match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => bytes.truncate(last + 1),
            None if count < max => bytes.clear(),
            None => {}
        }
        bytes
    }
}
