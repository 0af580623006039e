//! Whoever waits for a job, through outages of the platform: it is gone while it is started anew, and
//! has what it stored when it is back.
//!
//! Nothing of what is asked for is lost or doubled by that, as whoever asks names the position that he
//! has come to.

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use control::Client;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use super::{Error, Platform};
use crate::error::Result;
use crate::{output, value};

/// How long to let the platform be before it is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// How patient to be.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Patience {
    /// How long to wait for the platform where it goes away, as it does when it is started anew
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = value::duration)]
    reconnect_timeout: Duration,
}

/// Who waits. A signal ends that.
pub(crate) struct Watch<'a> {
    pub(super) platform: &'a Platform<'a>,
    pub(super) called_off: &'a EventFd,
    pub(super) patience: &'a Patience,
}

impl Watch<'_> {
    /// Asks the platform something, again if it is gone meanwhile.
    pub(crate) fn ask<T>(&self, ask: impl FnMut(&Client) -> control::Result<T>) -> Result<T> {
        self.ask_by(None, ask)
    }

    /// The same, but an error at the deadline, whether or not the platform is there.
    pub(crate) fn ask_by<T>(
        &self,
        deadline: Option<Instant>,
        mut ask: impl FnMut(&Client) -> control::Result<T>,
    ) -> Result<T> {
        let mut gone = None;
        loop {
            let asked = Instant::now();
            let lost = match lost(self.platform.ask(&mut ask)) {
                Ok(answer) => return answer,
                Err(lost) => lost,
            };
            let now = Instant::now();
            // Soon after another it is the same outage.
            let since = gone.filter(|_| now - asked <= PAUSE).unwrap_or(now);
            gone = Some(since);
            self.outlast(since + self.patience.reconnect_timeout, deadline, lost)?;
        }
    }

    /// Waits until the platform is there again.
    fn outlast(&self, end: Instant, deadline: Option<Instant>, mut last: Error) -> Result<()> {
        self.tell("the platform is gone: waiting for it");
        loop {
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Err(Error::Control(control::Error::Deadline).into());
            }
            if end <= now {
                return Err(last.into());
            }
            let until = deadline.map_or(end, |deadline| deadline.min(end));
            if self.is_called_off_within(PAUSE.min(until - now))? {
                return Err(Error::Control(control::Error::Cut).into());
            }
            match lost(self.platform.ask(Client::runners)) {
                Ok(answer) => {
                    answer?;
                    self.tell("the platform is back");
                    return Ok(());
                }
                Err(lost) => last = lost,
            }
        }
    }

    fn is_called_off_within(&self, time: Duration) -> Result<bool> {
        let mut fds = [PollFd::new(self.called_off.as_fd(), PollFlags::POLLIN)];
        // Rounded up, or the rest of a millisecond would be waited for in no time at all.
        let time = u16::try_from(time.as_millis() + 1).unwrap_or(u16::MAX);
        match poll(&mut fds, PollTimeout::from(time)) {
            Ok(count) => Ok(count > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(crate::error::Error::Signals { source: io::Error::from(errno) }),
        }
    }

    fn tell(&self, text: &str) {
        if !self.platform.is_quiet {
            // Who does not read it is not waited for.
            output::last_words(format_args!("runner: {text}"));
        }
    }
}

/// Tells an outage from an answer, good or bad.
fn lost<T>(answer: Result<T>) -> std::result::Result<Result<T>, Error> {
    match answer {
        Err(crate::error::Error::Platform(error)) if error.is_lost() => Err(error),
        other => Ok(other),
    }
}
