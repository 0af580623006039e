//! The thread `report`: tells the platform how jobs ended, until it has heard it, and has jobs offered
//! again whose claims it did not answer.
//!
//! ```text
//!  due ──▶ sent ──▶ accepted, or finally refused ──▶ the record is removed
//!   ▲        │
//!   └────────┘ no answer, 5xx, 429: in 1 s, 2 s, … 60 s, or when the platform says; for a day
//! ```
//!
//! It sleeps in its channel until the next one is due. What it has not told when it stops is in the
//! journal, and told after the next start.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use guest_common::{Identity, Kind, Operation, Platform, epoch_ms, pause_after};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::context::RunId;
use super::journal::{Completion, Journal, Record, State};
use super::source::Source;
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
    /// A claim that had no answer.
    Unanswered(RunId),
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

/// What is owed to the platform.
struct Pending {
    debt: Debt,
    since_ms: u64,
    due: Instant,
    wait: Duration,
}

enum Debt {
    Outcome(Box<Record>),
    Claim(RunId),
}

struct Desk {
    platform: Platform,
    source: Arc<dyn Source>,
    journal: Journal,
    pending: Vec<Pending>,
}

impl Reporter {
    /// Starts it; reports go to the sender. Requests are made as `platform` makes them.
    pub(crate) fn start(
        platform: Platform,
        stop: guest_common::Stop,
        source: Arc<dyn Source>,
        journal: Journal,
    ) -> Result<(Self, Sender<Report>)> {
        let (reports, inbox) = unbounded();
        let (done_tx, done) = bounded(0);
        let mut desk = Desk { platform, source, journal, pending: Vec::new() };
        let stopped = stop.clone();
        let work = move || {
            let _done: Sender<()> = done_tx;
            desk.work(&inbox, &stopped);
        };
        let thread = thread::Builder::new().name(THREAD.to_owned()).spawn(work);
        let thread = thread.map_err(|source| Error::Thread { name: THREAD, source })?;
        Ok((Self { stop, done, thread: Some(thread) }, reports))
    }

    /// Disconnects when all is told, which needs all senders to be dropped.
    pub(crate) fn done(&self) -> &Receiver<()> {
        &self.done
    }

    /// Ends it; what is not told then is told after the next start.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.stop.signal();
        if thread.join().is_err() {
            log::error!("a thread panicked: this is a bug; thread={THREAD}");
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.end();
    }
}

/// The answer to an outcome; one that does not say anything is a success, too.
#[derive(Deserialize)]
#[serde(try_from = "Value")]
struct Accepted;

impl TryFrom<Value> for Accepted {
    type Error = &'static str;

    fn try_from(answer: Value) -> std::result::Result<Self, Self::Error> {
        match answer.as_object().map(|answer| answer.get("success")) {
            Some(None | Some(Value::Bool(true))) => Ok(Self),
            _ => Err("it does not say that the outcome was taken"),
        }
    }
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
                Ok(Report::Outcome(record)) => self.owe(Debt::Outcome(record)),
                Ok(Report::Unanswered(run)) => self.owe(Debt::Claim(run)),
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

    /// Nothing more comes: what there is, is told, or kept for the next start, as are claims without an
    /// answer.
    fn tell_the_rest(&mut self, stop: &guest_common::Stop) {
        self.pending.retain(|pending| matches!(pending.debt, Debt::Outcome(_)));
        while let Some(due) = self.pending.iter().map(|pending| pending.due).min() {
            if stop.wait_until(due) {
                let count = self.pending.len();
                log::warn!(
                    "what the platform did not take is told after the next start; count={count}"
                );
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
            let record = match &pending.debt {
                Debt::Outcome(record) => record,
                Debt::Claim(run) => {
                    if self.source.offer_again(*run) {
                        pending.due = Instant::now() + pending.wait;
                        pending.wait = (pending.wait * 2).min(LONGEST_WAIT);
                        self.pending.push(pending);
                    }
                    continue;
                }
            };
            let (run, Err(error)) = (record.run, self.tell(record)) else { continue };
            let age = Duration::from_millis(epoch_ms().saturating_sub(pending.since_ms));
            if age >= PATIENCE {
                log::error!(
                    "the platform is not told of a job; run={run} error={:?}",
                    error.chain()
                );
                self.journal.remove(run);
                continue;
            }
            log::warn!("the platform is told again later; run={run} error={:?}", error.chain());
            pending.due = Instant::now() + pause_after(error.of_api(), pending.wait);
            pending.wait = (pending.wait * 2).min(LONGEST_WAIT);
            self.pending.push(pending);
        }
    }

    fn owe(&mut self, debt: Debt) {
        let is_same = |one: &Pending| match (&one.debt, &debt) {
            (Debt::Claim(known), Debt::Claim(run)) => known == run,
            _ => false,
        };
        if self.pending.iter().any(is_same) {
            return;
        }
        let since_ms = match &debt {
            Debt::Outcome(record) => record.ended_ms(),
            Debt::Claim(_) => None,
        };
        let since_ms = since_ms.unwrap_or_else(epoch_ms);
        self.pending.push(Pending { debt, since_ms, due: Instant::now(), wait: FIRST_WAIT });
    }

    /// Tells of an outcome; an error if it is to be told again.
    fn tell(&self, record: &Record) -> Result<()> {
        let run = record.run;
        let State::Ended { token, completion, .. } = &record.state else { return Ok(()) };
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            run_id: RunId,
            #[serde(flatten)]
            completion: &'a Completion,
        }
        let body = Body { run_id: run, completion };
        match self.post::<Option<Accepted>>(run, token, "complete", &body) {
            Ok(_) => log::debug!("the platform knows the outcome; run={run}"),
            // Only the platform's own word is final: whatever else goes wrong may be ours, and be mended.
            Err(Error::Api { source }) if source.is_refusal() => {
                let error = guest_common::chain(&source);
                log::warn!("the outcome is refused; run={run} error={error:?}");
            }
            Err(error) => return Err(error),
        }
        self.journal.remove(run);
        Ok(())
    }

    fn tell_operations(&self, report: &Operations) {
        let body = json!({"runId": report.run, "sandboxOperations": report.operations});
        let told = self.post::<IgnoredAny>(report.run, &report.token, "telemetry", &body);
        if let Err(error) = told {
            log::debug!("telemetry is lost; run={} error={:?}", report.run, error.chain());
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
        let identity = Identity {
            url: access.url.clone(),
            token: token.to_owned(),
            bypass: access.bypass.clone(),
            run_id: run.to_string(),
        };
        let platform = self.platform.with(Kind::Runner, &identity)?;
        let body = serde_json::to_vec(body).map_err(|source| Error::Json { source })?;
        Ok(platform.attempt(&format!("/api/webhooks/agent/{call}"), &body)?)
    }
}
