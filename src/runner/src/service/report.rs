//! The thread `report`: tells the platform how jobs ended, until it has heard it.
//!
//! ```text
//!  due ──▶ sent ──▶ accepted, or finally refused ──▶ the record is removed
//!   ▲        │
//!   └────────┘ no answer, 5xx, 429: in 1 s, 2 s, … 60 s, for a day
//! ```
//!
//! It sleeps in its channel until the next one is due. What it has not told when it stops is in the
//! journal, and told after the next start.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use guest_common::{Identity, Kind, Operation, Platform, epoch_ms};
use serde::Serialize;
use serde_json::{Value, json};

use super::context::RunId;
use super::journal::{Completion, Journal, Record, State};
use super::source::Access;
use crate::error::{Error, Result};

const THREAD: &str = "report";

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How long an outcome is told in vain.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// What is told.
pub(crate) enum Report {
    /// A record that has ended.
    Outcome(Box<Record>),
    /// How long things took, for as many as come: it is tried once.
    Operations(Operations),
}

/// How long things took in a job.
pub(crate) struct Operations {
    pub(crate) run: RunId,
    pub(crate) token: String,
    pub(crate) operations: Vec<Operation<'static>>,
}

/// The owner of the thread, which ends when nobody has anything to report any more.
pub(crate) struct Reporter {
    stop: guest_common::Stop,
    done: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// An outcome that is on its way.
struct Pending {
    record: Box<Record>,
    due: Instant,
    wait: Duration,
}

struct Desk {
    platform: Platform,
    access: Access,
    journal: Journal,
    pending: Vec<Pending>,
}

impl Reporter {
    /// Starts it; reports go to the sender. Requests are made as `platform` makes them.
    pub(crate) fn start(
        platform: Platform,
        stop: guest_common::Stop,
        access: Access,
        journal: Journal,
    ) -> Result<(Self, Sender<Report>)> {
        let (reports, inbox) = unbounded();
        let (done_tx, done) = bounded(0);
        let mut desk = Desk { platform, access, journal, pending: Vec::new() };
        let stopped = stop.clone();
        let work = move || {
            let _done: Sender<()> = done_tx;
            desk.work(&inbox, &stopped);
        };
        let thread = thread::Builder::new().name(THREAD.to_owned()).spawn(work);
        let thread = thread.map_err(|source| Error::Thread { name: THREAD, source })?;
        Ok((Self { stop, done, thread: Some(thread) }, reports))
    }

    /// Tells what can be told until the deadline. All senders are to be dropped before.
    pub(crate) fn stop(mut self, deadline: Instant) {
        self.end(deadline);
    }

    fn end(&mut self, deadline: Instant) {
        let Some(thread) = self.thread.take() else { return };
        if let Err(RecvTimeoutError::Timeout) = self.done.recv_deadline(deadline) {
            log::warn!("outcomes that the platform does not take are told after the next start");
            self.stop.signal();
        }
        if thread.join().is_err() {
            log::error!("a thread panicked: this is a bug; thread={THREAD}");
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.end(Instant::now());
    }
}

/// Only the platform's own word is final: whatever else goes wrong may be ours, and be mended.
fn is_refused(error: &guest_common::Error) -> bool {
    error.status().is_some() && !error.is_retriable()
}

impl Desk {
    fn work(&mut self, inbox: &Receiver<Report>, stop: &guest_common::Stop) {
        loop {
            let next = self.pending.iter().map(|pending| pending.due).min();
            let report = match next {
                Some(due) => inbox.recv_deadline(due),
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match report {
                Ok(Report::Outcome(record)) => {
                    let (due, wait) = (Instant::now(), FIRST_WAIT);
                    self.pending.push(Pending { record, due, wait });
                }
                Ok(Report::Operations(operations)) => self.tell_operations(&operations),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.tell_the_rest(stop),
            }
            self.tell_what_is_due();
            if stop.is_given() {
                return;
            }
        }
    }

    /// Nothing more comes: what there is, is told, or kept for the next start.
    fn tell_the_rest(&mut self, stop: &guest_common::Stop) {
        while let Some(due) = self.pending.iter().map(|pending| pending.due).min() {
            if stop.is_given() || stop.wait_until(due) {
                log::warn!("outcomes are kept for the next start; count={}", self.pending.len());
                return;
            }
            self.tell_what_is_due();
        }
    }

    fn tell_what_is_due(&mut self) {
        for mut pending in std::mem::take(&mut self.pending) {
            if pending.due > Instant::now() {
                self.pending.push(pending);
                continue;
            }
            if !self.tell(&pending.record) {
                pending.due = Instant::now() + pending.wait;
                pending.wait = (pending.wait * 2).min(LONGEST_WAIT);
                self.pending.push(pending);
            }
        }
    }

    /// Whether the platform has answered for good.
    fn tell(&self, record: &Record) -> bool {
        let run = record.run;
        let State::Ended { token, at_ms, completion } = &record.state else {
            return true;
        };
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            run_id: RunId,
            #[serde(flatten)]
            completion: &'a Completion,
        }
        match self.post(run, token, "complete", &Body { run_id: run, completion }) {
            Ok(_) => log::debug!("the platform knows the outcome; run={run}"),
            Err(Error::Api { source }) if is_refused(&source) => {
                let error = guest_common::chain(&source);
                log::warn!("the outcome is refused; run={run} error={error:?}");
            }
            Err(error) => {
                let age = Duration::from_millis(epoch_ms().saturating_sub(*at_ms));
                if age < PATIENCE {
                    let error = error.chain();
                    log::warn!("the outcome is told again later; run={run} error={error:?}");
                    return false;
                }
                log::error!("the outcome is given up; run={run} error={:?}", error.chain());
            }
        }
        self.journal.remove(run);
        true
    }

    fn tell_operations(&self, report: &Operations) {
        let body = json!({"runId": report.run, "sandboxOperations": report.operations});
        if let Err(error) = self.post(report.run, &report.token, "telemetry", &body) {
            log::debug!("telemetry is lost; run={} error={:?}", report.run, error.chain());
        }
    }

    fn post(&self, run: RunId, token: &str, call: &str, body: &impl Serialize) -> Result<Value> {
        let identity = Identity {
            url: self.access.url.clone(),
            token: token.to_owned(),
            bypass: self.access.bypass.clone(),
            run_id: run.to_string(),
        };
        let platform = self.platform.with(Kind::Runner, &identity)?;
        let body = serde_json::to_vec(body).map_err(|source| Error::Json { source })?;
        Ok(platform.attempt(&format!("/api/webhooks/agent/{call}"), &body)?)
    }
}
