//! A running command.
//!
//! ```text
//!   running ──────────▶ ended: process reaped ──▶ done: content of its pipes is sent
//!      └─ killed ─────────┘                          └─ followed ──▶ done: last writer closed
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use process::{Cgroup, Child, Status};
use vsock_proto::{Exit, Outcome, PtySize, Stream, StreamTotal, Timeout};

use crate::input::Input;
use crate::output::{Output, pipe_content};
use crate::{sys, terminal};

#[derive(Debug)]
pub(crate) struct Command {
    child: Child,
    cgroup: Option<Cgroup>,
    pub(crate) input: Input,
    outputs: Outputs,
    started: Instant,
    deadline: Option<Instant>,
    /// The outcome to report after our own kill, in place of its signal.
    killed: Option<Outcome>,
    ended: Option<Ended>,
    descendants: Descendants,
}

/// Output of a command's descendants after the command's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Descendants {
    /// Dropped.
    Ignored,
    /// To be sent when the command has ended.
    ToFollow,
    /// Being sent.
    Followed,
}

/// How a command's process ended.
#[derive(Debug)]
struct Ended {
    outcome: Outcome,
    duration_us: u64,
    oom_kills: u64,
}

#[derive(Debug)]
pub(crate) enum Outputs {
    /// Standard output and standard error.
    Pipes([Output; 2]),
    /// The terminal's output, and our side of the terminal.
    Terminal(Output, Rc<OwnedFd>),
}

impl Command {
    pub(crate) fn new(
        child: Child,
        cgroup: Option<Cgroup>,
        input: Input,
        outputs: Outputs,
    ) -> Self {
        Self {
            child,
            cgroup,
            input,
            outputs,
            started: Instant::now(),
            deadline: None,
            killed: None,
            ended: None,
            descendants: Descendants::Ignored,
        }
    }

    /// Sets whether output of its descendants is sent, too. Ignored with a terminal, which hangs up
    /// when its command ends.
    pub(crate) fn following(mut self, follow: bool) -> Self {
        if follow && matches!(self.outputs, Outputs::Pipes(_)) {
            self.descendants = Descendants::ToFollow;
        }
        self
    }

    /// Records its start and its time-out.
    pub(crate) fn started(mut self, started: Instant, timeout: Option<Timeout>) -> Self {
        self.started = started;
        // A time-out beyond the clock's end never comes.
        self.deadline = timeout.and_then(|timeout| started.checked_add(timeout.duration()));
        self
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// The time-out, unless it has ended or was killed.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let is_over = self.ended.is_some() || self.killed.is_some();
        if is_over { None } else { self.deadline }
    }

    /// Becomes readable when its process ends; `None` afterwards.
    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.ended.is_none().then(|| self.child.pidfd())
    }

    /// Its output streams. A terminal's is standard output.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = (Stream, &Output)> {
        const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];
        STREAMS.into_iter().zip(match &self.outputs {
            Outputs::Pipes(both) => &both[..],
            Outputs::Terminal(one, _) => std::slice::from_ref(one),
        })
    }

    pub(crate) fn output(&mut self, stream: Stream) -> Option<&mut Output> {
        match (&mut self.outputs, stream) {
            (Outputs::Pipes([stdout, _]), Stream::Stdout) => Some(stdout),
            (Outputs::Pipes([_, stderr]), Stream::Stderr) => Some(stderr),
            (Outputs::Terminal(output, _), Stream::Stdout) => Some(output),
            (Outputs::Terminal(..), Stream::Stderr) => None,
        }
    }

    pub(crate) fn resize(&self, size: PtySize) {
        if let Outputs::Terminal(_, master) = &self.outputs
            && let Err(errno) = sys::set_terminal_size(master.as_fd(), size)
        {
            log::debug!("cannot resize a terminal; error={errno}");
        }
    }

    /// Sends a signal to the process group in its terminal's foreground, else to its process.
    pub(crate) fn signal(&self, signal: u8) {
        if self.ended.is_some() {
            return;
        }
        let signal = i32::from(signal);
        if let Outputs::Terminal(_, master) = &self.outputs
            && terminal::signal_foreground(master.as_fd(), signal).is_ok()
        {
            return;
        }
        if let Err(error) = self.child.signal(signal) {
            log::debug!("a signal is lost; error={error}");
        }
    }

    /// Waits for the end of its process; [`Command::reap`] then records it.
    pub(crate) fn wait_until(&self, deadline: Instant) {
        if let Err(error) = self.child.wait_until(deadline) {
            log::debug!("cannot wait for a command; error={error}");
        }
    }

    /// Kills it with all its descendants and reports `outcome`. After its end, kills its descendants
    /// and drops its unread output.
    pub(crate) fn kill(&mut self, outcome: Outcome) {
        if self.ended.is_some() {
            self.give_up();
        } else if self.killed.is_none() {
            self.killed = Some(outcome);
            self.kill_whole();
        }
    }

    fn give_up(&mut self) {
        if let Some(cgroup) = &self.cgroup
            && let Err(error) = cgroup.kill()
        {
            log::warn!("cannot kill what a command left; error={error}");
        }
        match &mut self.outputs {
            Outputs::Pipes(both) => both.iter_mut().for_each(Output::close),
            Outputs::Terminal(output, _) => output.close(),
        }
    }

    fn kill_whole(&self) {
        let whole = match &self.cgroup {
            Some(cgroup) => cgroup.kill().map_err(|error| error.to_string()),
            // It leads a process group. It is not reaped, so the kernel cannot have reused its pid.
            None => i32::try_from(self.child.pid()).map_err(|error| error.to_string()).and_then(
                |group| sys::signal_group(group, libc::SIGKILL).map_err(|errno| errno.to_string()),
            ),
        };
        if let Err(error) = whole {
            log::warn!("cannot kill a command whole; pid={} error={error}", self.pid());
            if let Err(error) = self.child.signal(libc::SIGKILL) {
                log::warn!("cannot kill a command; error={error}");
            }
        }
    }

    /// Reaps its process if it has ended. Further reads are limited to what its pipes hold now.
    pub(crate) fn reap(&mut self) {
        let outcome = match self.child.try_wait() {
            Ok(None) => return,
            Ok(Some(Status::Exited(code))) => Outcome::Exited { code },
            Ok(Some(Status::Signalled { signal, core_dumped })) => {
                Outcome::Signalled { signal, core_dumped }
            }
            Err(error) => {
                log::error!("a command's status is lost; error={error}");
                Outcome::Signalled { signal: 0, core_dumped: false }
            }
        };
        self.ended = Some(Ended {
            outcome: self.killed.take().unwrap_or(outcome),
            duration_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            oom_kills: self.oom_kills(),
        });
        match &mut self.outputs {
            Outputs::Pipes(both) => {
                both.iter_mut().for_each(|output| output.command_ended(pipe_content))
            }
            Outputs::Terminal(output, _) => output.command_ended(|_| terminal::CONTENT),
        }
    }

    /// Processes killed by the OOM killer. The kernel counts before it kills.
    fn oom_kills(&self) -> u64 {
        let events = self.cgroup.as_ref().map(Cgroup::memory_events).transpose();
        match events {
            Ok(events) => events.unwrap_or_default().oom_kills,
            Err(error) => {
                log::debug!("cannot read the number of OOM kills; error={error}");
                0
            }
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Whether its end is reported and output of its descendants is being read.
    pub(crate) fn is_followed(&self) -> bool {
        self.descendants == Descendants::Followed
    }

    /// Starts following its descendants if requested; returns whether it just started.
    pub(crate) fn follow(&mut self) -> bool {
        if self.descendants != Descendants::ToFollow {
            return false;
        }
        self.descendants = Descendants::Followed;
        if let Outputs::Pipes(both) = &mut self.outputs {
            both.iter_mut().for_each(Output::follow);
        }
        true
    }

    /// Its exit, once it has ended and all its output is read.
    pub(crate) fn exit(&self) -> Option<Exit> {
        let ended = self.ended.as_ref()?;
        let mut totals = [StreamTotal::default(); 2];
        for (total, (_, output)) in totals.iter_mut().zip(self.outputs()) {
            if !output.is_done() {
                return None;
            }
            *total = output.total();
        }
        let [stdout, stderr] = totals;
        let Ended { duration_us, oom_kills, .. } = *ended;
        Some(Exit { outcome: ended.outcome.clone(), stdout, stderr, duration_us, oom_kills })
    }

    /// Its process, its cgroup, and its pipes that may still have writers.
    pub(crate) fn into_parts(self) -> (Child, Option<Cgroup>, Vec<OwnedFd>) {
        let open = match self.outputs {
            Outputs::Pipes(both) => both.into_iter().filter_map(Output::into_open).collect(),
            Outputs::Terminal(..) => Vec::new(),
        };
        (self.child, self.cgroup, open)
    }
}
