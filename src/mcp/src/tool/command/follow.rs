//! A command that is waited for: its output, and reports of its progress.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base::event::Event;
use sandbox_api::ManagedSandbox;
use sandbox_api::files::Account;
use sandbox_api::process::{Ending, Next, Subscription};

use crate::call::Call;
use crate::capture::Capture;
use crate::failure::{Failure, Result};
use crate::text::lossy;

/// How long after a report of progress the next one comes, if there was output.
const REPORT: Duration = Duration::from_millis(500);

/// The same without output: many clients give up after a minute of silence.
const BEAT: Duration = Duration::from_secs(10);

/// How much output a report has at most.
const REPORTED: usize = 2000;

/// How long the sandbox may take to kill a command.
const KILL: Duration = Duration::from_secs(10);

pub(super) struct Foreground<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) subscription: &'a Subscription,
    pub(super) sandbox: &'a ManagedSandbox,
    /// Set when the sandbox is paused or ended.
    pub(super) closed: Arc<Event>,
    /// Where all of the output goes, if it is much.
    pub(super) log: String,
}

/// What is reported to the client while a command runs.
struct Reports {
    begun: Instant,
    last: Instant,
    /// The newest output that was not reported.
    news: Vec<u8>,
}

impl Foreground<'_> {
    /// Waits for the end. A cancelled command is killed.
    pub(super) fn follow(&self, account: Account) -> Result<(String, Ending)> {
        let mut capture = Capture::new(self.call, self.log.clone(), account);
        let mut reports = Reports::new();
        let ending = loop {
            match self.subscription.next_unless(&self.closed, self.call.cancellation, reports.due())
            {
                Next::Output(output) => {
                    capture.push(&output.bytes, || self.sandbox.running());
                    reports.add(&output.bytes);
                }
                Next::Ended(ending) => break ending,
                Next::Closed if self.call.cancellation.is_cancelled() => {
                    self.subscription.process().kill(Instant::now() + KILL);
                    return Err(Failure::Cancelled);
                }
                Next::Closed => break Ending::Lost,
                Next::TimedOut => {}
            }
            reports.send(self.call);
        };
        Ok((capture.finish(), ending))
    }
}

impl Reports {
    fn new() -> Self {
        let now = Instant::now();
        Self { begun: now, last: now, news: Vec::new() }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.news.extend_from_slice(bytes);
        let surplus = self.news.len().saturating_sub(REPORTED);
        self.news.drain(..surplus);
    }

    fn due(&self) -> Instant {
        self.last + if self.news.is_empty() { BEAT } else { REPORT }
    }

    fn send(&mut self, call: &Call<'_>) {
        if self.due() > Instant::now() {
            return;
        }
        let text = lossy(&std::mem::take(&mut self.news));
        match text.trim_end() {
            "" => call.report(&format!("running for {} s", self.begun.elapsed().as_secs())),
            text => call.report(text),
        }
        self.last = Instant::now();
    }
}
