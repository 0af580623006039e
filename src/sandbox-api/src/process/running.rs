//! One process, and those who follow it.

use std::convert::Infallible;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base::deadline::poll_until;
use base::event::Event as Wake;
use base::sync::Mutex;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, select};
use log::Level;
use nix::poll::{PollFd, PollFlags};
use sandbox::{Cancellation, Event, ExecRequest, Execution, PtySize, Stream};

use super::{Command, Ending, Error, Result};
use crate::event_log::EventLog;
use crate::wait::{Waiter, event};

/// The largest piece of output that is handed to subscribers.
const PIECE: usize = 16 << 10;

/// How many pieces wait for a subscriber: with the one that it writes they are 64 KiB.
const QUEUED: usize = 3;

/// How long the sandbox may take to pass a signal on.
const SIGNAL: Duration = Duration::from_secs(10);

const SIGKILL: u8 = 9;

/// A process that runs, or has ended.
pub struct Process {
    pid: u32,
    tag: Option<String>,
    command: Command,
    has_terminal: bool,
    has_stdin: AtomicBool,
    execution: Box<dyn Execution>,
    state: Mutex<State>,
    log: Arc<EventLog>,
}

#[derive(Default)]
struct State {
    subscribers: Vec<Subscriber>,
    next_subscriber: u64,
    /// A call sent it a signal: the output of its descendants does not keep it any more.
    is_signalled: bool,
    /// Its own end, while its descendants hold its output.
    own: Option<Ending>,
    ended: Option<(Ending, Instant)>,
}

#[derive(Clone)]
struct Subscriber {
    number: u64,
    output: Sender<Output>,
    wake: Arc<Wake>,
}

/// A piece of output.
#[derive(Debug, Clone)]
pub struct Output {
    /// Where it came from; standard output if that is a terminal.
    pub stream: Stream,
    /// The bytes.
    pub bytes: Arc<[u8]>,
}

/// The output of a process from the subscription on.
pub struct Subscription {
    number: u64,
    process: Arc<Process>,
    output: Receiver<Output>,
    wake: Arc<Wake>,
}

/// What a subscriber gets.
#[derive(Debug)]
pub enum Next {
    /// The process wrote something.
    Output(Output),
    /// It ended, and all its output was handed out.
    Ended(Ending),
    /// The sandbox was paused or ended.
    Closed,
    /// Nothing happened in time.
    TimedOut,
}

impl Process {
    pub(super) fn new(
        (pid, tag): (u32, Option<String>),
        command: Command,
        exec: &ExecRequest,
        execution: Box<dyn Execution>,
        log: Arc<EventLog>,
    ) -> Self {
        let (has_terminal, has_stdin) = (exec.pty.is_some(), AtomicBool::new(exec.stdin));
        let state = Mutex::default();
        Self { pid, tag, command, has_terminal, has_stdin, execution, state, log }
    }

    /// Its id in the sandbox.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The name that it was given.
    pub fn tag(&self) -> Option<&String> {
        self.tag.as_ref()
    }

    /// What it was started with.
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// Whether its streams are a terminal.
    pub fn has_terminal(&self) -> bool {
        self.has_terminal
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.state.lock().ended.is_some()
    }

    pub(super) fn ended_long_ago(&self, limit: Duration) -> bool {
        self.state.lock().ended.as_ref().is_some_and(|(_, ended)| ended.elapsed() > limit)
    }

    pub(super) fn subscribe(process: &Arc<Self>) -> Result<Subscription> {
        let (sender, output) = bounded(QUEUED);
        let wake = Arc::new(event()?);
        let mut state = process.state.lock();
        let number = state.next_subscriber;
        state.next_subscriber += 1;
        if state.ended.is_none() {
            state.subscribers.push(Subscriber { number, output: sender, wake: Arc::clone(&wake) });
        }
        drop(state);
        Ok(Subscription { number, process: Arc::clone(process), output, wake })
    }

    /// Writes to its standard input; waits while it takes nothing, until `closed` is set.
    pub fn write_stdin(&self, data: &[u8], closed: &Arc<Wake>, deadline: Instant) -> Result<()> {
        if self.has_terminal {
            return Err(Error::Terminal("a terminal: send its input as `pty`"));
        }
        if !self.has_stdin.load(Ordering::Relaxed) {
            return Err(Error::NoStdin);
        }
        self.write(data, closed, deadline)
    }

    /// Writes to its terminal.
    pub fn write_terminal(&self, data: &[u8], closed: &Arc<Wake>, deadline: Instant) -> Result<()> {
        self.need_terminal()?;
        self.write(data, closed, deadline)
    }

    fn write(&self, data: &[u8], closed: &Arc<Wake>, deadline: Instant) -> Result<()> {
        let count = if data.is_empty() { 0 } else { self.execution.write_some(data, deadline)? };
        match data.get(count..) {
            None | Some([]) => Ok(()),
            Some(rest) => {
                let waiter = Waiter::new(&*self.execution, Some(Arc::clone(closed)))?;
                Ok(waiter.write(&*self.execution, rest, deadline)?)
            }
        }
    }

    /// Ends its standard input, if that is not ended already.
    pub fn close_stdin(&self) -> Result<()> {
        if self.has_terminal {
            return Err(Error::Terminal("a terminal, whose input cannot be closed"));
        }
        if self.has_stdin.swap(false, Ordering::Relaxed) {
            self.execution.close_stdin()?;
        }
        Ok(())
    }

    /// Resizes its terminal.
    pub fn resize(&self, size: PtySize) -> Result<()> {
        self.need_terminal()?;
        Ok(self.execution.resize(size)?)
    }

    fn need_terminal(&self) -> Result<()> {
        if self.has_terminal { Ok(()) } else { Err(Error::Terminal("no terminal")) }
    }

    /// Sends a signal to it, and not to its descendants; SIGTERM on a terminal to its foreground. Its
    /// streams then end with it, also those that other processes hold.
    pub fn signal(&self, signal: u8) -> Result<()> {
        let deadline = Instant::now() + SIGNAL;
        let own = {
            let mut state = self.state.lock();
            state.is_signalled = true;
            state.own.take()
        };
        if let Some(ending) = own {
            self.end(ending);
            return Ok(());
        }
        if self.has_terminal && signal == SIGKILL {
            // A signal would reach the program in the foreground alone.
            return Ok(self.execution.cancel(deadline)?);
        }
        Ok(self.execution.signal(signal, deadline)?)
    }

    /// Kills it with its descendants.
    pub fn kill(&self, deadline: Instant) {
        if let Err(error) = self.execution.cancel(deadline) {
            log::debug!("cannot kill a process; pid={} error={error}", self.pid);
        }
    }

    /// Hands its output to its subscribers until nothing holds its streams, or until `closing` disconnects.
    pub(super) fn pump(&self, closing: &Receiver<Infallible>) {
        loop {
            match self.execution.next(None) {
                Ok(Event::Output(stream, data)) => {
                    for piece in data.chunks(PIECE) {
                        self.publish(&Output { stream, bytes: piece.into() }, closing);
                    }
                }
                Ok(Event::Ended(exit)) => {
                    let ending = Ending::of(exit.outcome);
                    let mut state = self.state.lock();
                    if state.is_signalled || ending == Ending::TimedOut {
                        drop(state);
                        self.end(ending);
                    } else {
                        state.own = Some(ending);
                    }
                }
                Ok(Event::Exit(exit)) => return self.end(Ending::of(exit.outcome)),
                Err(error) => {
                    log::debug!("a process is lost; pid={} error={error}", self.pid);
                    return self.end(Ending::Lost);
                }
            }
            if matches!(closing.try_recv(), Err(TryRecvError::Disconnected)) {
                return self.end(Ending::Lost);
            }
        }
    }

    /// Waits for room in each subscriber's queue. One that goes makes room.
    fn publish(&self, output: &Output, closing: &Receiver<Infallible>) {
        let subscribers = self.state.lock().subscribers.clone();
        for subscriber in subscribers {
            select! {
                send(subscriber.output, output.clone()) -> _ => subscriber.wake.set(),
                recv(closing) -> _ => return,
            }
        }
    }

    /// Records its end, unless there is one, and tells it to the subscribers.
    fn end(&self, ending: Ending) {
        let mut state = self.state.lock();
        state.own = None;
        let is_first = state.ended.is_none();
        if is_first {
            state.ended = Some((ending.clone(), Instant::now()));
        }
        let subscribers = std::mem::take(&mut state.subscribers);
        drop(state);
        if is_first {
            self.record_end(&ending);
        }
        for Subscriber { output, wake, .. } in subscribers {
            // First: a thread that wakes finds no queue.
            drop(output);
            wake.set();
        }
    }

    fn record_end(&self, ending: &Ending) {
        let level = if *ending == Ending::Exited(0) { Level::Info } else { Level::Warn };
        let (pid, status) = (self.pid.to_string(), ending.status());
        self.log.record_process(level, "process ended", &[("pid", &pid), ("status", &status)]);
    }
}

impl Subscription {
    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Set by what comes after [`Subscription::try_next`] has returned nothing.
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// What came next, if anything did.
    pub fn try_next(&self) -> Option<Next> {
        self.take().or_else(|| {
            self.wake.clear();
            self.take()
        })
    }

    /// Waits for what comes next, until `deadline`. `closed` is set when the sandbox is paused or ended.
    pub fn next(&self, closed: &Wake, deadline: Instant) -> Next {
        self.next_unless(closed, &Cancellation::new(), deadline)
    }

    /// As [`Subscription::next`]; [`Next::Closed`] also once `cancellation` is cancelled.
    pub fn next_unless(
        &self,
        closed: &Wake,
        cancellation: &Cancellation,
        deadline: Instant,
    ) -> Next {
        cancellation.notify(&self.wake);
        loop {
            if closed.is_set() || cancellation.is_cancelled() {
                return Next::Closed;
            }
            if let Some(next) = self.try_next() {
                return next;
            }
            // It may have been cancelled before the event was cleared.
            if cancellation.is_cancelled() {
                return Next::Closed;
            }
            let fds =
                [&*self.wake, closed].map(|wake| PollFd::new(wake.as_fd(), PollFlags::POLLIN));
            if !matches!(poll_until(&mut { fds }, Some(deadline)), Ok(1..)) {
                return Next::TimedOut;
            }
        }
    }

    fn take(&self) -> Option<Next> {
        match self.output.try_recv() {
            Ok(output) => Some(Next::Output(output)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                let ended = self.process.state.lock().ended.clone();
                Some(Next::Ended(ended.map_or(Ending::Lost, |(ending, _)| ending)))
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.process.state.lock();
        state.subscribers.retain(|subscriber| subscriber.number != self.number);
    }
}
