//! The thread `report`: sends outcomes of jobs to the platform until it accepts them, and has jobs offered again
//! whose claims got no answer.
//!
//! ```text
//!  due ──▶ sent ──▶ accepted, or finally refused ──▶ the record is removed
//!   ▲        │
//!   └────────┘ no answer, 5xx, 429: after 1 s, 2 s, … 60 s, or `Retry-After`; for a day
//! ```
//!
//! It sleeps in its channel until the next report is due. Outcomes that it has not sent when it stops are in the
//! journal, and are sent after the next start.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base::date::epoch_ms;
use contract::{CompleteRequest, Operation};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use platform_client::{
    ClientType, PlatformClient, PlatformCredentials, RequestCancellation, RequestLimits,
    pause_after,
};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::journal::{ClaimRecord, ClaimState, Journal};
use super::source::Source;
use crate::error::{Error, Result};
use contract::RunId;

const THREAD: &str = "report";

const FIRST_DELAY: Duration = Duration::from_secs(1);
const MAX_DELAY: Duration = Duration::from_secs(60);

/// The age at which an undeliverable outcome is dropped.
const GIVE_UP_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The limits of a request.
const LIMITS: RequestLimits = RequestLimits::within(Duration::from_secs(30));

/// A report about a job.
pub(crate) enum JobReport {
    /// A record with an outcome.
    Outcome(Box<ClaimRecord>),
    /// A claim that got no answer.
    UnansweredClaim(RunId),
    /// Durations of stages. They are sent once, without retries.
    Telemetry(JobTelemetry),
}

/// The durations of a job's stages.
pub(crate) struct JobTelemetry {
    pub(crate) run: RunId,
    pub(crate) token: String,
    pub(crate) operations: Vec<Operation<'static>>,
}

/// The owner of the thread, which ends after the last sender is dropped and all outcomes are sent.
pub(crate) struct Reporter {
    stop: RequestCancellation,
    done: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// A report that is retried until it succeeds.
struct PendingReport {
    subject: Subject,
    since_ms: u64,
    due: Instant,
    delay: Duration,
}

enum Subject {
    Outcome(Box<ClaimRecord>),
    Claim(RunId),
}

struct ReportWorker {
    platform: PlatformClient,
    source: Arc<dyn Source>,
    journal: Journal,
    pending: Vec<PendingReport>,
}

impl Reporter {
    /// Starts the thread. Returns the sender for its reports.
    pub(crate) fn start(
        source: Arc<dyn Source>,
        journal: Journal,
    ) -> Result<(Self, Sender<JobReport>)> {
        let stop = RequestCancellation::new();
        // Each report uses its run's credentials. These only share the connections.
        let credentials = PlatformCredentials {
            addresses: source.access().addresses.clone(),
            token: String::new(),
            bypass: None,
            client_session: String::new(),
        };
        let platform = PlatformClient::of(ClientType::Runner, &credentials, LIMITS, &stop)?;
        let (reports, reports_rx) = unbounded();
        let (done_tx, done) = bounded(0);
        let mut worker = ReportWorker { platform, source, journal, pending: Vec::new() };
        let stopped = stop.clone();
        let thread = base::thread::spawn(THREAD, move || {
            let _done: Sender<()> = done_tx;
            worker.run(&reports_rx, &stopped);
        });
        let thread = thread.map_err(|source| Error::Thread { name: THREAD, source })?;
        Ok((Self { stop, done, thread: Some(thread) }, reports))
    }

    /// Disconnects once all senders are dropped and all outcomes are sent.
    pub(crate) fn done(&self) -> &Receiver<()> {
        &self.done
    }

    /// Stops the thread. Outcomes that are not sent are sent after the next start.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.stop.cancel();
        base::thread::join(thread);
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.end();
    }
}

/// The answer to an outcome. An answer without `success` is a success.
#[derive(Deserialize)]
#[serde(try_from = "Value")]
struct Accepted;

impl TryFrom<Value> for Accepted {
    type Error = &'static str;

    fn try_from(answer: Value) -> std::result::Result<Self, Self::Error> {
        match answer.as_object().map(|answer| answer.get("success")) {
            Some(None | Some(Value::Bool(true))) => Ok(Self),
            _ => Err("it does not confirm the outcome"),
        }
    }
}

impl ReportWorker {
    fn run(&mut self, reports: &Receiver<JobReport>, stop: &RequestCancellation) {
        loop {
            let next = self.pending.iter().map(|pending| pending.due).min();
            let report = match next {
                Some(due) => reports.recv_deadline(due),
                None => reports.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match report {
                Ok(JobReport::Outcome(record)) => self.enqueue(Subject::Outcome(record)),
                Ok(JobReport::UnansweredClaim(run)) => self.enqueue(Subject::Claim(run)),
                Ok(JobReport::Telemetry(telemetry)) => self.send_telemetry(&telemetry),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.drain(stop),
            }
            self.send_due();
            if stop.is_cancelled() {
                return;
            }
        }
    }

    /// Sends the rest after the last sender is dropped. Claims without an answer, and outcomes that are unsent when
    /// `stop` is given, are left to the next start.
    fn drain(&mut self, stop: &RequestCancellation) {
        self.pending.retain(|pending| matches!(pending.subject, Subject::Outcome(_)));
        while let Some(due) = self.pending.iter().map(|pending| pending.due).min() {
            if stop.wait_until(due) {
                let count = self.pending.len();
                log::warn!("unsent outcomes are sent after the next start; count={count}");
                return;
            }
            self.send_due();
        }
    }

    fn send_due(&mut self) {
        for mut pending in std::mem::take(&mut self.pending) {
            if pending.due > Instant::now() {
                self.pending.push(pending);
                continue;
            }
            let record = match &pending.subject {
                Subject::Outcome(record) => record,
                Subject::Claim(run) => {
                    if self.source.reoffer(*run) {
                        pending.due = Instant::now() + pending.delay;
                        pending.delay = (pending.delay * 2).min(MAX_DELAY);
                        self.pending.push(pending);
                    }
                    continue;
                }
            };
            let (run, Err(error)) = (record.run, self.send_outcome(record)) else { continue };
            let age = Duration::from_millis(epoch_ms().saturating_sub(pending.since_ms));
            if age >= GIVE_UP_AFTER {
                log::error!(
                    "an outcome cannot be delivered and is dropped; run={run} error={:?}",
                    error.chain()
                );
                self.journal.remove(run);
                continue;
            }
            log::warn!(
                "cannot send an outcome, retrying later; run={run} error={:?}",
                error.chain()
            );
            pending.due = Instant::now() + pause_after(error.of_api(), pending.delay);
            pending.delay = (pending.delay * 2).min(MAX_DELAY);
            self.pending.push(pending);
        }
    }

    fn enqueue(&mut self, subject: Subject) {
        let is_same = |one: &PendingReport| match (&one.subject, &subject) {
            (Subject::Claim(known), Subject::Claim(run)) => known == run,
            _ => false,
        };
        if self.pending.iter().any(is_same) {
            return;
        }
        let since_ms = match &subject {
            Subject::Outcome(record) => record.ended_ms(),
            Subject::Claim(_) => None,
        };
        let since_ms = since_ms.unwrap_or_else(epoch_ms);
        self.pending.push(PendingReport {
            subject,
            since_ms,
            due: Instant::now(),
            delay: FIRST_DELAY,
        });
    }

    /// Sends an outcome. An error means that it must be sent again.
    fn send_outcome(&self, record: &ClaimRecord) -> Result<()> {
        let run = record.run;
        let ClaimState::Ended { token, completion, .. } = &record.state else { return Ok(()) };
        let body = CompleteRequest { run_id: run, completion: completion.clone() };
        match self.post::<Option<Accepted>>(run, token, "complete", &body) {
            Ok(_) => log::debug!("outcome accepted; run={run}"),
            // Only a refusal by the platform is final. Other errors may be temporary.
            Err(Error::Api { source }) if source.is_refusal() => {
                let error = base::error::chain(&source);
                log::warn!("the platform refuses an outcome; run={run} error={error:?}");
            }
            Err(error) => return Err(error),
        }
        self.journal.remove(run);
        Ok(())
    }

    fn send_telemetry(&self, telemetry: &JobTelemetry) {
        let body = json!({"runId": telemetry.run, "sandboxOperations": telemetry.operations});
        let sent = self.post::<IgnoredAny>(telemetry.run, &telemetry.token, "telemetry", &body);
        if let Err(error) = sent {
            log::debug!("cannot send telemetry; run={} error={:?}", telemetry.run, error.chain());
        }
    }

    fn post<T: DeserializeOwned>(
        &self,
        run: RunId,
        token: &str,
        call: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let access = self.source.access();
        let credentials = PlatformCredentials {
            addresses: access.addresses.clone(),
            token: token.to_owned(),
            bypass: access.bypass.clone(),
            client_session: run.to_string(),
        };
        let platform = self.platform.with(ClientType::Runner, &credentials)?;
        let body = serde_json::to_vec(body).map_err(|source| Error::Json { source })?;
        Ok(platform.attempt(&format!("/api/webhooks/agent/{call}"), &body)?)
    }
}
