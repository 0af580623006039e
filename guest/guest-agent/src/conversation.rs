//! The CLI from its start to its end: its prompt in, its events out, its limits kept.
//!
//! The main thread sleeps in one `poll`:
//!
//! | readable or writable | then |
//! |---|---|
//! | the signalfd | end the CLI; the second time at once |
//! | the bell | room in the spool; or the heart stopped: end the CLI |
//! | the pidfd | the CLI has exited: take what is in the pipes, which is all it wrote; the end |
//! | its stdin | more of the prompt |
//! | its stdout, while the sink has room | events |
//! | its stderr | a line for the log |
//! | our stdout, in local mode | more of the events |
//! | – the next limit | SIGTERM, and some time later SIGKILL |
//!
//! The end of the CLI is the end of its process, not of its pipes: what it left may hold them for
//! ever, and is ended next.

use std::fmt;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use mask::{Masker, Stream};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use process::Status;

use crate::bell::Bell;
use crate::child::{Cli, PIPE};
use crate::event::{Event, Verdict};
use crate::limit::{Limits, Overdue, Part, Watch};
use crate::line::{Line, Lines};
use crate::signal::Signals;
use crate::sink::{Sink, stdout};
use crate::{Error, Result};

/// The longest event.
const LONGEST_EVENT: usize = 16 << 20;
/// The longest line of stderr, and how much of its end is kept to say why the CLI failed.
const LONGEST_REMARK: usize = 64 << 10;
const LAST_WORDS: usize = 2048;

/// Why we ended the CLI.
#[derive(Debug)]
pub(crate) enum Cause {
    Signal(i32),
    Overdue(Overdue),
    /// Something that the run cannot do without failed: this is why.
    Failed(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Signal(signal) => write!(f, "signal {signal}"),
            Cause::Overdue(Overdue::Tool(name)) => write!(f, "{name} does not return"),
            Cause::Overdue(Overdue::Farewell) => f.write_str("it is done but does not go"),
            Cause::Failed(text) => f.write_str(text),
        }
    }
}

/// What came of it.
pub(crate) struct Report {
    pub(crate) status: Status,
    /// Why we ended it, if we did.
    pub(crate) cause: Option<Cause>,
    /// When the run was asked to end, or failed.
    pub(crate) asked: Option<Instant>,
    pub(crate) session: Option<String>,
    pub(crate) verdict: Option<Verdict>,
    /// The end of its stderr, masked.
    pub(crate) last_words: String,
    /// What the disk has none left of, if anything.
    pub(crate) shortage: Option<String>,
}

impl Report {
    /// All that it said about how it went.
    pub(crate) fn said(&self) -> String {
        let verdict = self.verdict.as_ref().and_then(|verdict| verdict.text.as_deref());
        format!("{}\n{}", verdict.unwrap_or_default(), self.last_words)
    }
}

/// A conversation that goes on.
pub(crate) struct Conversation<'a> {
    cli: Cli,
    sink: &'a mut Sink,
    masker: &'a Masker,
    limits: Limits,
    watch: Watch,
    lines: Lines,
    remarks: Stream<'a>,
    remark_lines: Lines,
    last_words: String,
    session: Option<String>,
    cause: Option<Cause>,
    kill_at: Option<Instant>,
    asked: Option<Instant>,
    /// Since when nothing is read, as there is no room for it.
    deaf_since: Option<Instant>,
}

impl<'a> Conversation<'a> {
    pub(crate) fn new(cli: Cli, sink: &'a mut Sink, masker: &'a Masker, limits: Limits) -> Self {
        Self {
            cli,
            sink,
            masker,
            limits,
            watch: Watch::new(limits, Instant::now()),
            lines: Lines::new(LONGEST_EVENT),
            remarks: Stream::new(masker),
            remark_lines: Lines::new(LONGEST_REMARK),
            last_words: String::new(),
            session: None,
            cause: None,
            kill_at: None,
            asked: None,
            deaf_since: None,
        }
    }

    /// Lasts until the CLI has ended. `failure` is asked when the bell rings; `begun` is called when
    /// the CLI names its session.
    pub(crate) fn run(
        mut self,
        signals: &Signals,
        bell: &Bell,
        mut failure: impl FnMut() -> Option<Error>,
        mut begun: impl FnMut(),
    ) -> Result<Report> {
        let mut had_session = false;
        loop {
            self.sleep(signals, bell)?;
            bell.hush();
            if let Some(signal) = signals.next(Some(self.cli.process.pid())) {
                self.cancel(signal);
            }
            if let Some(error) = failure().filter(|_| self.cause.is_none()) {
                self.ask(Cause::Failed(guest_common::chain(&error)));
            }
            self.cli.input.write();
            self.print();
            // Before the pipes are read: what comes after this is not the CLI's any more.
            let status = self.cli.status()?;
            self.read_stderr(PIPE)?;
            if self.has_room() || status.is_some() {
                self.read_stdout(PIPE)?;
            }
            if self.session.is_some() && !std::mem::replace(&mut had_session, true) {
                begun();
            }
            if let Some(status) = status {
                return self.finish(status);
            }
            self.keep_limits();
        }
    }

    /// Sleeps until there is something to do.
    fn sleep(&mut self, signals: &Signals, bell: &Bell) -> Result<()> {
        let room = self.has_room();
        let printing = matches!(&*self.sink, Sink::Local(printer) if printer.waiting() > 0);
        let cli = &self.cli;
        let mut fds = vec![
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(bell.as_fd(), PollFlags::POLLIN),
            PollFd::new(cli.process.pidfd(), PollFlags::POLLIN),
        ];
        fds.extend(cli.input.waiting().map(|fd| PollFd::new(fd, PollFlags::POLLOUT)));
        fds.extend(cli.stderr.waiting().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        fds.extend(
            cli.stdout.waiting().filter(|_| room).map(|fd| PollFd::new(fd, PollFlags::POLLIN)),
        );
        fds.extend(printing.then(|| PollFd::new(stdout(), PollFlags::POLLOUT)));
        let limit = self.kill_at.or_else(|| match self.cause {
            None if room => self.watch.next().map(|(at, _)| at),
            _ => None,
        });
        let timeout = limit.map_or(PollTimeout::NONE, process::poll_timeout);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Error::Wait { source: errno.into() }),
        }
    }

    /// Whether there is room for what the CLI says. While there is none it is not listened to, so its
    /// limits stand still: a result that it had in time may wait in the pipe.
    fn has_room(&mut self) -> bool {
        let now = Instant::now();
        let has_room = !self.sink.is_full();
        match (has_room, self.deaf_since) {
            (false, None) => self.deaf_since = Some(now),
            (true, Some(since)) => {
                self.watch.stand_still(now - since);
                self.deaf_since = None;
            }
            _ => {}
        }
        has_room
    }

    fn print(&mut self) {
        if let Sink::Local(printer) = self.sink {
            let mut fds = [PollFd::new(stdout(), PollFlags::POLLOUT)];
            while printer.waiting() > 0 && poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0) {
                printer.print();
            }
        }
    }

    fn read_stdout(&mut self, most: usize) -> Result<()> {
        let mut buffer = vec![0; most];
        let count = self.cli.stdout.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let now = Instant::now();
        self.watch.sign_of_life(now);
        let (masker, sink, watch) = (self.masker, &mut *self.sink, &mut self.watch);
        let session = &mut self.session;
        self.lines.push(&buffer[..count], |line| take(line, masker, sink, watch, session));
        Ok(())
    }

    fn read_stderr(&mut self, most: usize) -> Result<()> {
        let mut buffer = vec![0; most];
        let count = self.cli.stderr.read(&mut buffer)?;
        let mut masked = Vec::new();
        self.remarks.push(&buffer[..count], &mut masked);
        self.remark(&masked);
        Ok(())
    }

    /// Takes what the CLI said on stderr, masked.
    fn remark(&mut self, masked: &[u8]) {
        let last_words = &mut self.last_words;
        let mut take = |line: Line<'_>| {
            let Line::Whole(line) = line else {
                return log::warn!("the agent wrote a line to stderr that is too long");
            };
            if line.trim_ascii().is_empty() {
                return;
            }
            let line = String::from_utf8_lossy(line);
            log::info!("agent: {line}");
            last_words.push_str(&line);
            last_words.push('\n');
            let over = last_words.len().saturating_sub(LAST_WORDS);
            let whole = |at: &usize| last_words.is_char_boundary(*at);
            let start = (over..=last_words.len()).find(whole).unwrap_or(0);
            last_words.drain(..start);
        };
        self.remark_lines.push(masked, &mut take);
    }

    /// Takes what is left in the pipes, which hold all that the CLI wrote and nobody read yet.
    fn finish(mut self, status: Status) -> Result<Report> {
        let mut left = Vec::new();
        self.remarks.finish(&mut left);
        left.push(b'\n');
        self.remark(&left);
        let (masker, sink, watch) = (self.masker, &mut *self.sink, &mut self.watch);
        let session = &mut self.session;
        self.lines.finish(|line| take(line, masker, sink, watch, session));
        Ok(Report {
            status,
            cause: self.cause,
            asked: self.asked,
            session: self.session,
            verdict: self.watch.verdict().cloned(),
            last_words: self.last_words.trim_end().to_owned(),
            shortage: None,
        })
    }

    fn cancel(&mut self, signal: i32) {
        match self.cause {
            Some(Cause::Signal(_)) => self.kill_at = Some(Instant::now()),
            _ => self.ask(Cause::Signal(signal)),
        }
    }

    /// The whole run is to end.
    fn ask(&mut self, cause: Cause) {
        self.asked.get_or_insert_with(Instant::now);
        self.end(cause, self.limits.until(Part::Cli));
    }

    /// Asks the CLI to end, and lets it no more than `grace` for that.
    fn end(&mut self, cause: Cause, grace: Duration) {
        log::warn!("the agent is ended; cause={cause}");
        self.cause = Some(cause);
        self.cli.signal(nix::libc::SIGTERM);
        self.kill_at = Some(Instant::now() + grace);
    }

    fn keep_limits(&mut self) {
        let now = Instant::now();
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.cli.signal(nix::libc::SIGKILL);
        }
        if self.cause.is_none()
            && self.has_room()
            && let Some((at, overdue)) = self.watch.next()
            && at <= now
        {
            self.end(Cause::Overdue(overdue), self.limits.kill);
        }
    }
}

/// Takes a line of the CLI's stdout.
fn take(
    line: Line<'_>,
    masker: &Masker,
    sink: &mut Sink,
    watch: &mut Watch,
    session: &mut Option<String>,
) {
    let Line::Whole(line) = line else { return sink.push_too_long() };
    let Some(event) = Event::read(line, masker) else {
        if !line.trim_ascii().is_empty() {
            log::info!("agent said what is no event: {}", String::from_utf8_lossy(line));
        }
        return;
    };
    watch.note(&event.head, Instant::now());
    if let Some(id) = event.head.session() {
        *session = Some(id.to_owned());
    }
    sink.push(event);
}
