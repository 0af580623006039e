//! Whoever waits for a job, through outages of the platform: it is gone while it is started anew, and
//! has what it stored when it is back.
//!
//! Nothing of what is asked for is lost or doubled by that, as whoever asks names the position that he
//! has come to.

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use base::event::Event;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use platform::Client;

use super::{Error, OperatorClient};
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
    pub(super) operator: &'a OperatorClient<'a>,
    pub(super) called_off: &'a Event,
    pub(super) patience: &'a Patience,
}

impl Watch<'_> {
    /// Asks the platform something, again if it is gone meanwhile.
    pub(crate) fn ask<T>(&self, ask: impl FnMut(&Client) -> platform::Result<T>) -> Result<T> {
        self.ask_by(None, ask)
    }

    /// The same, but an error at the deadline, whether or not the platform is there.
    pub(crate) fn ask_by<T>(
        &self,
        deadline: Option<Instant>,
        mut ask: impl FnMut(&Client) -> platform::Result<T>,
    ) -> Result<T> {
        let mut gone = None;
        loop {
            let asked = Instant::now();
            let lost = match lost(self.operator.ask(&mut ask)) {
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
                return Err(Error::Platform(platform::Error::Deadline).into());
            }
            if end <= now {
                return Err(last.into());
            }
            let until = deadline.map_or(end, |deadline| deadline.min(end));
            if self.is_called_off_within(PAUSE.min(until - now))? {
                return Err(Error::Platform(platform::Error::Cut).into());
            }
            match lost(self.operator.ask(Client::runners)) {
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
        if !self.operator.is_quiet {
            // Who does not read it is not waited for.
            output::remark_if_ready(format_args!("runner: {text}"));
        }
    }
}

/// Tells an outage from an answer, good or bad.
fn lost<T>(answer: Result<T>) -> std::result::Result<Result<T>, Error> {
    match answer {
        Err(crate::error::Error::Operator(error)) if error.is_lost() => Err(error),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use platform::{Config, Platform, Submission};

    use super::*;
    use crate::cli::Cli;
    use crate::options::Global;

    const LOST: platform::Error = platform::Error::BadReply { reason: String::new() };

    fn global(state: &std::path::Path) -> Global {
        let state = state.to_str().unwrap();
        Cli::try_parse_from(["runner", "--state-dir", state, "--quiet", "ps"]).unwrap().global
    }

    fn watch<T>(state: &std::path::Path, work: impl FnOnce(&Watch<'_>, &Event) -> T) -> T {
        let (global, called_off) = (global(state), Event::new().unwrap());
        let patience = Patience { reconnect_timeout: Duration::from_secs(3600) };
        let operator = &OperatorClient::of(&global);
        work(&Watch { operator, called_off: &called_off, patience: &patience }, &called_off)
    }

    #[test]
    fn what_was_asked_of_a_platform_that_went_is_asked_of_the_one_that_comes() {
        let state = tempfile::tempdir().unwrap();
        let mut served = None;
        let job = watch(state.path(), |watch, _| {
            watch.ask(|client| {
                if served.is_none() {
                    served = Some(Platform::start(Config::new(state.path())).unwrap());
                    return Err(LOST);
                }
                let prompt = "do it".to_owned();
                let run = client.submit(&Submission { prompt, ..Submission::default() })?.run_id;
                client.cancel(run)?;
                client.wait(run, None)
            })
        });
        assert!(job.unwrap().status.is_final());
    }

    #[test]
    fn a_deadline_is_kept_where_there_is_no_platform() {
        let state = tempfile::tempdir().unwrap();
        let asked = watch(state.path(), |watch, _| {
            watch.ask_by(Some(Instant::now()), |client| client.runners())
        });
        assert!(asked.unwrap_err().chain().contains("not over in time"));
    }

    #[test]
    fn whoever_is_called_off_waits_no_more() {
        let state = tempfile::tempdir().unwrap();
        let asked = watch(state.path(), |watch, called_off| {
            called_off.set();
            watch.ask(|client| client.runners())
        });
        assert!(asked.unwrap_err().chain().contains("was cut"));
    }
}
