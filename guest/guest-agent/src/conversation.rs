//! The conversation with the CLI: writes its prompt, reads its events, enforces its time limits.
//!
//! The main thread sleeps in one `poll`:
//!
//! | readable or writable | then |
//! |---|---|
//! | the signalfd | terminate the CLI; the second time, kill it |
//! | the waker | read on if the spool has room; terminate the CLI if the heartbeat failed |
//! | the pidfd | the CLI has exited: read the rest of its pipes and return |
//! | its stdin | write more of the prompt |
//! | its stdout, while the sink has room | read events |
//! | its stderr | log its lines |
//! | our stdout, in local mode | print more events |
//! | – a time limit passes | SIGTERM, later SIGKILL |
//!
//! The conversation ends when the CLI's process exits, not at the end of its pipes: processes that it
//! left may hold the pipes open. They are killed next.

use std::fmt;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use mask::{Masker, Stream};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use process::Status;

use crate::child::{Cli, PIPE_CAPACITY};
use crate::event::{CliResult, Event};
use crate::limit::{LimitTracker, Limits, Overdue, Phase};
use crate::line::{Line, Lines};
use crate::signal::Signals;
use crate::sink::{Sink, stdout};
use crate::waker::Waker;
use crate::{Error, Result};

const MAX_EVENT_LENGTH: usize = 16 << 20;
const MAX_STDERR_LINE: usize = 64 << 10;
/// How much of the end of stderr goes into the error of a failed run.
const STDERR_TAIL: usize = 2048;

/// Why this process terminated the CLI.
#[derive(Debug)]
pub(crate) enum Cause {
    Signal(i32),
    Overdue(Overdue),
    /// A service failed that the run needs, with this error.
    Failed(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Signal(signal) => write!(f, "signal {signal}"),
            Cause::Overdue(Overdue::Tool(name)) => write!(f, "{name} did not return in time"),
            Cause::Overdue(Overdue::Exit) => f.write_str("it did not exit after its result"),
            Cause::Failed(text) => f.write_str(text),
        }
    }
}

/// How the CLI ended.
pub(crate) struct CliReport {
    pub(crate) status: Status,
    /// Why this process terminated it; `None` if it exited by itself.
    pub(crate) cause: Option<Cause>,
    /// When a signal or a failure asked the run to end.
    pub(crate) end_requested: Option<Instant>,
    pub(crate) session: Option<String>,
    pub(crate) result: Option<CliResult>,
    /// The end of its stderr, masked.
    pub(crate) stderr_tail: String,
    /// That the disk is full, if it is.
    pub(crate) shortage: Option<String>,
}

impl CliReport {
    /// The CLI's result text and the end of its stderr.
    pub(crate) fn messages(&self) -> String {
        let result = self.result.as_ref().and_then(|result| result.text.as_deref());
        format!("{}\n{}", result.unwrap_or_default(), self.stderr_tail)
    }
}

/// A conversation with a running CLI.
pub(crate) struct Conversation<'a> {
    cli: Cli,
    sink: &'a mut Sink,
    masker: &'a Masker,
    limits: Limits,
    tracker: LimitTracker,
    lines: Lines,
    stderr: Stream<'a>,
    stderr_lines: Lines,
    stderr_tail: String,
    session: Option<String>,
    cause: Option<Cause>,
    kill_at: Option<Instant>,
    end_requested: Option<Instant>,
    /// When reading paused because the sink was full.
    paused_since: Option<Instant>,
}

impl<'a> Conversation<'a> {
    pub(crate) fn new(cli: Cli, sink: &'a mut Sink, masker: &'a Masker, limits: Limits) -> Self {
        Self {
            cli,
            sink,
            masker,
            limits,
            tracker: LimitTracker::new(limits, Instant::now()),
            lines: Lines::new(MAX_EVENT_LENGTH),
            stderr: Stream::new(masker),
            stderr_lines: Lines::new(MAX_STDERR_LINE),
            stderr_tail: String::new(),
            session: None,
            cause: None,
            kill_at: None,
            end_requested: None,
            paused_since: None,
        }
    }

    /// Runs until the CLI exits. Polls `failure` after each wake-up. Calls `begun` once, when the CLI
    /// announces its session.
    pub(crate) fn run(
        mut self,
        signals: &Signals,
        waker: &Waker,
        mut failure: impl FnMut() -> Option<Error>,
        mut begun: impl FnMut(),
    ) -> Result<CliReport> {
        let mut had_session = false;
        loop {
            self.sleep(signals, waker)?;
            waker.drain();
            if let Some(signal) = signals.next(Some(self.cli.process.pid())) {
                self.cancel(signal);
            }
            if let Some(error) = failure().filter(|_| self.cause.is_none()) {
                self.request_end(Cause::Failed(base::error::chain(&error)));
            }
            self.cli.input.write();
            self.print();
            // Read the status before the pipes: output that comes after the exit is not the CLI's.
            let status = self.cli.status()?;
            self.read_stderr(PIPE_CAPACITY)?;
            if self.has_room() || status.is_some() {
                self.read_stdout(PIPE_CAPACITY)?;
            }
            if self.session.is_some() && !std::mem::replace(&mut had_session, true) {
                begun();
            }
            if let Some(status) = status {
                return self.finish(status);
            }
            self.enforce_limits();
        }
    }

    /// Sleeps until a descriptor is ready or the next time limit passes.
    fn sleep(&mut self, signals: &Signals, waker: &Waker) -> Result<()> {
        let room = self.has_room();
        let printing = matches!(&*self.sink, Sink::Local(printer) if printer.pending() > 0);
        let cli = &self.cli;
        let mut fds = vec![
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(waker.as_fd(), PollFlags::POLLIN),
            PollFd::new(cli.process.pidfd(), PollFlags::POLLIN),
        ];
        fds.extend(cli.input.fd().map(|fd| PollFd::new(fd, PollFlags::POLLOUT)));
        fds.extend(cli.stderr.fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        fds.extend(cli.stdout.fd().filter(|_| room).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        fds.extend(printing.then(|| PollFd::new(stdout(), PollFlags::POLLOUT)));
        let limit = self.kill_at.or_else(|| match self.cause {
            None if room => self.tracker.next().map(|(at, _)| at),
            _ => None,
        });
        let timeout = limit.map_or(PollTimeout::NONE, base::deadline::poll_timeout);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Error::Wait { source: errno.into() }),
        }
    }

    /// Whether the sink has room. While it has none, reading pauses and the time limits are extended: a
    /// result that came in time may be waiting in the pipe.
    fn has_room(&mut self) -> bool {
        let now = Instant::now();
        let has_room = !self.sink.is_full();
        match (has_room, self.paused_since) {
            (false, None) => self.paused_since = Some(now),
            (true, Some(since)) => {
                self.tracker.extend(now - since);
                self.paused_since = None;
            }
            _ => {}
        }
        has_room
    }

    fn print(&mut self) {
        if let Sink::Local(printer) = self.sink {
            let mut fds = [PollFd::new(stdout(), PollFlags::POLLOUT)];
            while printer.pending() > 0 && poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0) {
                printer.print();
            }
        }
    }

    fn read_stdout(&mut self, max: usize) -> Result<()> {
        let mut buffer = vec![0; max];
        let count = self.cli.stdout.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let now = Instant::now();
        self.tracker.output_seen(now);
        let (masker, sink, tracker) = (self.masker, &mut *self.sink, &mut self.tracker);
        let session = &mut self.session;
        self.lines.push(&buffer[..count], |line| handle_line(line, masker, sink, tracker, session));
        Ok(())
    }

    fn read_stderr(&mut self, max: usize) -> Result<()> {
        let mut buffer = vec![0; max];
        let count = self.cli.stderr.read(&mut buffer)?;
        let mut masked = Vec::new();
        self.stderr.push(&buffer[..count], &mut masked);
        self.log_stderr(&masked);
        Ok(())
    }

    /// Logs lines of the CLI's stderr, which are masked already, and keeps the last of them.
    fn log_stderr(&mut self, masked: &[u8]) {
        let tail = &mut self.stderr_tail;
        let mut take = |line: Line<'_>| {
            let Line::Whole(line) = line else {
                return log::warn!("a line of the agent's stderr is too long to be logged");
            };
            if line.trim_ascii().is_empty() {
                return;
            }
            let line = String::from_utf8_lossy(line);
            log::info!("agent: {line}");
            tail.push_str(&line);
            tail.push('\n');
            let excess = tail.len().saturating_sub(STDERR_TAIL);
            let is_boundary = |at: &usize| tail.is_char_boundary(*at);
            let start = (excess..=tail.len()).find(is_boundary).unwrap_or(0);
            tail.drain(..start);
        };
        self.stderr_lines.push(masked, &mut take);
    }

    /// Ends the last lines of stdout and stderr, and reports how the CLI ended.
    fn finish(mut self, status: Status) -> Result<CliReport> {
        let mut rest = Vec::new();
        self.stderr.finish(&mut rest);
        rest.push(b'\n');
        self.log_stderr(&rest);
        let (masker, sink, tracker) = (self.masker, &mut *self.sink, &mut self.tracker);
        let session = &mut self.session;
        self.lines.finish(|line| handle_line(line, masker, sink, tracker, session));
        Ok(CliReport {
            status,
            cause: self.cause,
            end_requested: self.end_requested,
            session: self.session,
            result: self.tracker.result().cloned(),
            stderr_tail: self.stderr_tail.trim_end().to_owned(),
            shortage: None,
        })
    }

    fn cancel(&mut self, signal: i32) {
        match self.cause {
            Some(Cause::Signal(_)) => self.kill_at = Some(Instant::now()),
            _ => self.request_end(Cause::Signal(signal)),
        }
    }

    /// Ends the whole run.
    fn request_end(&mut self, cause: Cause) {
        self.end_requested.get_or_insert_with(Instant::now);
        self.terminate(cause, self.limits.phase_end(Phase::Cli));
    }

    /// Sends the CLI SIGTERM, and SIGKILL if it has not exited after `grace`.
    fn terminate(&mut self, cause: Cause, grace: Duration) {
        log::warn!("terminating the agent; cause={cause}");
        self.cause = Some(cause);
        self.cli.signal(nix::libc::SIGTERM);
        self.kill_at = Some(Instant::now() + grace);
    }

    fn enforce_limits(&mut self) {
        let now = Instant::now();
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.cli.signal(nix::libc::SIGKILL);
        }
        if self.cause.is_none()
            && self.has_room()
            && let Some((at, overdue)) = self.tracker.next()
            && at <= now
        {
            self.terminate(Cause::Overdue(overdue), self.limits.kill);
        }
    }
}

/// Handles a line of the CLI's stdout.
fn handle_line(
    line: Line<'_>,
    masker: &Masker,
    sink: &mut Sink,
    tracker: &mut LimitTracker,
    session: &mut Option<String>,
) {
    let Line::Whole(line) = line else { return sink.push_too_long() };
    let Some(event) = Event::read(line, masker) else {
        if !line.trim_ascii().is_empty() {
            log::info!("a line of the agent is no event: {}", String::from_utf8_lossy(line));
        }
        return;
    };
    tracker.observe(&event.head, Instant::now());
    if let Some(id) = event.head.session() {
        *session = Some(id.to_owned());
    }
    sink.push(event);
}
