//! The log, the metrics and the operations to the platform, every now and then and at the end.
//!
//! What was sent is forgotten only when the platform has it. Nothing of it is worth failing a run.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_common::{OPERATIONS, OperationLog, Platform, Stop, chain};
use mask::Masker;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Result;
use crate::event::Event;
use crate::logging::LOG;
use crate::metric::{Meter, Metric};
use crate::service::Place;

const PATH: &str = "/api/webhooks/agent/telemetry";

/// How long it is from one look at the machine to the next, and from one report to the next.
const LOOK: Duration = Duration::from_secs(5);
const REPORT: Duration = Duration::from_secs(30);

/// The most entries of a report.
const MOST_ENTRIES: usize = 500;
/// As much of the log, and of the operations, as is within a report's 1 MiB even if each byte of it
/// is escaped.
const MOST_LOG: usize = 128 << 10;
const MOST_OPERATIONS: usize = 128 << 10;
/// The most metrics that wait for the platform: more than an hour's.
const MOST_METRICS: usize = 1000;

/// What has to be told.
pub(crate) struct Telemetry {
    platform: Platform,
    run_id: String,
    masker: Arc<Masker>,
    stop: Stop,
    log: Tail,
    operations: Tail,
    metrics: Vec<Metric>,
    meter: Meter,
}

/// A file that is appended to, and how far it was sent.
struct Tail {
    file: File,
    sent: u64,
}

#[derive(Deserialize)]
struct Receipt {
    #[serde(rename = "success")]
    _success: bool,
}

impl Telemetry {
    /// `stop` ends the regular reports; then comes the last one.
    pub(crate) fn new(
        platform: &Platform,
        run_id: &str,
        place: &Place<'_>,
        stop: &Stop,
    ) -> Result<Self> {
        let tail = |name| {
            let file = place.folder.append(name)?;
            Ok::<_, guest_common::Error>(Tail { file, sent: 0 })
        };
        Ok(Self {
            platform: platform.clone(),
            run_id: run_id.to_owned(),
            masker: Arc::clone(place.masker),
            stop: stop.clone(),
            log: tail(LOG)?,
            operations: tail(OPERATIONS)?,
            metrics: Vec::new(),
            meter: Meter::new(place.disk.to_owned()),
        })
    }

    /// Looks and reports until it is stopped, and then once more.
    pub(crate) fn run(mut self, operations: &OperationLog) {
        let mut report_at = Instant::now() + REPORT;
        let mut look_at = Instant::now() + LOOK;
        while !self.stop.wait_until(look_at.min(report_at)) {
            let now = Instant::now();
            if now >= look_at {
                look_at = now + LOOK;
                let metric = self.meter.look();
                self.metrics.push(metric);
                let over = self.metrics.len().saturating_sub(MOST_METRICS);
                self.metrics.drain(..over);
            }
            if now >= report_at {
                report_at = now + REPORT;
                self.report();
            }
        }
        let began = Instant::now();
        self.metrics.push(self.meter.look());
        let error = (!self.report()).then_some("the platform did not take it");
        // It is sent by itself: it could not be part of what it is about.
        operations.record("final_telemetry_upload", began, error);
        if error.is_none() {
            self.report();
        }
    }

    /// Reports all there is; false if the platform did not take it.
    fn report(&mut self) -> bool {
        loop {
            let log = self.log.read(MOST_LOG);
            let (operations, operations_length) = self.operations(MOST_ENTRIES);
            let count = self.metrics.len().min(MOST_ENTRIES - operations.len());
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
            if let Err(error) = self.platform.post::<Receipt>(PATH, &body) {
                log::warn!("the platform took no telemetry; error={}", chain(&error));
                return false;
            }
            self.log.sent += log.len() as u64;
            self.operations.sent += operations_length;
            self.metrics.drain(..count);
        }
    }

    /// The next operations, masked, and how long they are in their file.
    fn operations(&self, most: usize) -> (Vec<Value>, u64) {
        let bytes = self.operations.read(MOST_OPERATIONS);
        let lines: Vec<_> = bytes.split_inclusive(|byte| *byte == b'\n').take(most).collect();
        let length = lines.iter().map(|line| line.len() as u64).sum();
        let masked = lines.iter().filter_map(|line| Event::read(line, &self.masker));
        let values = masked.filter_map(|event| serde_json::from_slice(&event.into_json(None)).ok());
        (values.collect(), length)
    }
}

impl Tail {
    /// The next whole lines, or if there is none so long a piece of one.
    fn read(&self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; most];
        // What cannot be read now is read the next time.
        let count = self.file.read_at(&mut bytes, self.sent).unwrap_or(0);
        bytes.truncate(count);
        match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => bytes.truncate(last + 1),
            None if count < most => bytes.clear(),
            None => {}
        }
        bytes
    }
}
