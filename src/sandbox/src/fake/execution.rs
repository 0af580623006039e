//! Commands of fake sandboxes.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::script::{Act, Answer, Manner};
use super::{Record, exit, lock};
use crate::{Event, ExecRequest, Execution, Outcome, PtySize, Result, Stream};

/// The signal's number, the same on every architecture of Linux.
const SIGKILL: u8 = 9;

pub(super) struct FakeExecution {
    pub(super) pid: Option<u32>,
    pub(super) ending: Arc<Ending>,
    /// How it ends, if not by itself.
    pub(super) manner: Option<Manner>,
    /// What it does when it is waited for.
    pub(super) act: Mutex<Option<(Act, ExecRequest)>>,
    /// What it answers when its standard input is closed, and the input so far.
    pub(super) answer: Mutex<Option<(Answer, ExecRequest, Vec<u8>)>>,
    pub(super) record: Arc<Mutex<Record>>,
}

/// The remaining events of a command.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) events: Mutex<VecDeque<Event>>,
    pub(super) more: Condvar,
}

impl Ending {
    pub(super) fn end(&self, outcome: Outcome) {
        *lock(&self.events) = [Event::Exit(exit(outcome))].into();
        self.more.notify_all();
    }

    pub(super) fn print(&self, text: &[u8]) {
        lock(&self.events).push_back(Event::Output(Stream::Stdout, text.to_vec()));
        self.more.notify_all();
    }
}

impl Execution for FakeExecution {
    fn pid(&self) -> Option<u32> {
        self.pid
    }

    fn next(&self, deadline: Option<Instant>) -> Result<Event> {
        if let Some((Act(act), request)) = lock(&self.act).take() {
            act(&request, &mut lock(&self.record));
        }
        let mut events = lock(&self.ending.events);
        while events.is_empty() && (self.manner.is_some() || lock(&self.answer).is_some()) {
            let Some(deadline) = deadline else {
                events = self.ending.more.wait(events).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let phase = "waiting for a fake command".to_owned();
                return Err(crate::Error::TimedOut { phase, after: Duration::ZERO });
            }
            let waited = self.ending.more.wait_timeout(events, left);
            events = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(events.pop_front().unwrap_or(Event::Exit(exit(Outcome::Cancelled))))
    }

    fn write_stdin(&self, data: &[u8], _deadline: Option<Instant>) -> Result<()> {
        lock(&self.record).stdin.extend_from_slice(data);
        if let Some((_, _, input)) = &mut *lock(&self.answer) {
            input.extend_from_slice(data);
        }
        Ok(())
    }

    fn close_stdin(&self) -> Result<()> {
        let answer = lock(&self.answer).take();
        if let Some((Answer(reply), request, input)) = answer {
            let (output, code) = reply(&request, &input);
            let output = Event::Output(Stream::Stdout, output);
            let events = [output, Event::Exit(exit(Outcome::Exited(code)))];
            *lock(&self.ending.events) = events.into();
            self.ending.more.notify_all();
        }
        Ok(())
    }

    fn resize(&self, _size: PtySize) -> Result<()> {
        Ok(())
    }

    fn signal(&self, signal: u8, _deadline: Instant) -> Result<()> {
        lock(&self.record).signals.push(signal);
        let is_killed = self.manner == Some(Manner::Deaf) && signal == SIGKILL;
        if self.manner == Some(Manner::Polite) || is_killed {
            self.ending.end(Outcome::Signalled { signal, core_dumped: false });
        }
        Ok(())
    }

    fn cancel(&self, _deadline: Instant) -> Result<()> {
        drop(lock(&self.answer).take());
        self.ending.end(Outcome::Cancelled);
        Ok(())
    }
}
