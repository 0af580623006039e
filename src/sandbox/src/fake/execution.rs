//! Commands of fake sandboxes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use base::event::Event as Wake;

use super::script::{Act, Answer, Manner, Work};
use super::{Record, exit, lock};
use crate::{Event, ExecRequest, Execution, Outcome, PtySize, Result, Stream};

/// The signal's number, the same on every architecture of Linux.
const SIGKILL: u8 = 9;

pub(super) struct FakeExecution {
    pub(super) pid: Option<u32>,
    pub(super) ending: Arc<Ending>,
    /// How it ends, if not by itself.
    pub(super) manner: Option<Manner>,
    /// How many bytes of input it still takes.
    pub(super) room: AtomicUsize,
    /// What it does when it is waited for.
    pub(super) act: Mutex<Option<(Act, ExecRequest)>>,
    /// What it answers when its standard input is closed, and the input so far.
    pub(super) answer: Mutex<Option<(Answer, ExecRequest, Vec<u8>)>>,
    /// What it does when it is waited for, without the record's lock.
    pub(super) work: Mutex<Option<(Work, ExecRequest)>>,
    pub(super) record: Arc<Mutex<Record>>,
}

/// The remaining events of a command.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) events: Mutex<VecDeque<Event>>,
    pub(super) more: Condvar,
    /// Set by each new event.
    pub(super) wakes: Mutex<Vec<Weak<Wake>>>,
}

impl Ending {
    pub(super) fn end(&self, outcome: Outcome) {
        self.replace([Event::Exit(exit(outcome))].into());
    }

    fn replace(&self, events: VecDeque<Event>) {
        *lock(&self.events) = events;
        self.notify();
    }

    fn notify(&self) {
        self.more.notify_all();
        lock(&self.wakes).iter().filter_map(Weak::upgrade).for_each(|wake| wake.set());
    }

    pub(super) fn print(&self, text: &[u8]) {
        lock(&self.events).push_back(Event::Output(Stream::Stdout, text.to_vec()));
        self.notify();
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
        let work = lock(&self.work).take();
        if let Some((Work(task), request)) = work {
            let files = lock(&self.record).files.clone();
            let (files, code) = task(&request, &files);
            lock(&self.record).files.extend(files);
            self.ending.end(Outcome::Exited(code));
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
        if self.write_some(data, Instant::now())? < data.len() {
            let phase = "waiting for a fake command to take its input".to_owned();
            return Err(crate::Error::TimedOut { phase, after: Duration::ZERO });
        }
        Ok(())
    }

    fn write_some(&self, data: &[u8], _deadline: Instant) -> Result<usize> {
        let room = self.room.load(Ordering::Relaxed);
        let count = data.len().min(room);
        self.room.store(room - count, Ordering::Relaxed);
        let data = data.get(..count).unwrap_or_default();
        lock(&self.record).stdin.extend_from_slice(data);
        if let Some((_, _, input)) = &mut *lock(&self.answer) {
            input.extend_from_slice(data);
        }
        Ok(count)
    }

    fn notify(&self, event: &Arc<Wake>) {
        lock(&self.ending.wakes).push(Arc::downgrade(event));
    }

    fn close_stdin(&self) -> Result<()> {
        let answer = lock(&self.answer).take();
        if let Some((Answer(reply), request, input)) = answer {
            let (output, code) = reply(&request, &input);
            let output = Event::Output(Stream::Stdout, output);
            let events = [output, Event::Exit(exit(Outcome::Exited(code)))];
            self.ending.replace(events.into());
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
