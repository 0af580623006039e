//! A client that repeats requests while the platform restarts.
//!
//! A repeated request loses and duplicates nothing, as it names the position after which to continue.

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use base::event::Event;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use platform::Client;

use super::{Error, OperatorClient};
use crate::error::Result;
use crate::output;

/// The delay between two attempts to connect.
const PAUSE: Duration = Duration::from_secs(1);

/// For how long to reconnect.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Reconnect {
    /// Maximum time to wait for a platform that restarts
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = base::duration::parse)]
    reconnect_timeout: Duration,
}

/// A client that reconnects, until the time-out or a signal.
pub(crate) struct RetryingClient<'a> {
    pub(super) operator: &'a OperatorClient<'a>,
    pub(super) cancelled: &'a Event,
    pub(super) reconnect: &'a Reconnect,
}

impl RetryingClient<'_> {
    /// Sends a request, and repeats it after an outage of the platform.
    pub(crate) fn ask<T>(&self, ask: impl FnMut(&Client) -> platform::Result<T>) -> Result<T> {
        self.ask_by(None, ask)
    }

    /// As [`RetryingClient::ask`], with a deadline.
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
            // A failure soon after another belongs to the same outage.
            let since = gone.filter(|_| now - asked <= PAUSE).unwrap_or(now);
            gone = Some(since);
            self.wait_for_platform(since + self.reconnect.reconnect_timeout, deadline, lost)?;
        }
    }

    /// Waits until the platform answers.
    fn wait_for_platform(
        &self,
        end: Instant,
        deadline: Option<Instant>,
        mut last: Error,
    ) -> Result<()> {
        self.remark("lost the platform: waiting for it to serve again");
        loop {
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Err(Error::Platform(platform::Error::Deadline).into());
            }
            if end <= now {
                return Err(last.into());
            }
            let until = deadline.map_or(end, |deadline| deadline.min(end));
            if self.is_cancelled_within(PAUSE.min(until - now))? {
                return Err(Error::Platform(platform::Error::Cut).into());
            }
            match lost(self.operator.ask(|client| client.jobs(None, 0))) {
                Ok(answer) => {
                    answer?;
                    self.remark("the platform is back");
                    return Ok(());
                }
                Err(lost) => last = lost,
            }
        }
    }

    fn is_cancelled_within(&self, time: Duration) -> Result<bool> {
        let mut fds = [PollFd::new(self.cancelled.as_fd(), PollFlags::POLLIN)];
        // Rounded up, or the rest of a millisecond would be waited for in no time at all.
        let time = u16::try_from(time.as_millis() + 1).unwrap_or(u16::MAX);
        match poll(&mut fds, PollTimeout::from(time)) {
            Ok(count) => Ok(count > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(crate::error::Error::Signals { source: io::Error::from(errno) }),
        }
    }

    fn remark(&self, text: &str) {
        if !self.operator.global.quiet {
            // Who does not read it is not waited for.
            output::remark_if_ready(format_args!("runner: {text}"));
        }
    }
}

/// Separates an outage from an answer or another error.
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
    use crate::operator::PlatformOptions;
    use crate::options::Global;

    const LOST: platform::Error = platform::Error::BadReply { reason: String::new() };

    fn global(state: &std::path::Path) -> Global {
        let state = state.to_str().unwrap();
        Cli::try_parse_from(["runner", "--state-dir", state, "--quiet", "ps"]).unwrap().global
    }

    fn retrying<T>(
        state: &std::path::Path,
        work: impl FnOnce(&RetryingClient<'_>, &Event) -> T,
    ) -> T {
        let (global, cancelled) = (global(state), Event::new().unwrap());
        let reconnect = Reconnect { reconnect_timeout: Duration::from_secs(3600) };
        let operator = &OperatorClient::open(&global, &PlatformOptions::default()).unwrap();
        work(&RetryingClient { operator, cancelled: &cancelled, reconnect: &reconnect }, &cancelled)
    }

    #[test]
    fn a_request_is_repeated_after_the_platform_restarted() {
        let state = tempfile::tempdir().unwrap();
        let mut served = None;
        let job = retrying(state.path(), |retrying, _| {
            retrying.ask(|client| {
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
    fn a_request_without_a_platform_fails_at_its_deadline() {
        let state = tempfile::tempdir().unwrap();
        let asked = retrying(state.path(), |retrying, _| {
            retrying.ask_by(Some(Instant::now()), |client| client.runners())
        });
        assert!(asked.unwrap_err().chain().contains("did not end before the deadline"));
    }

    #[test]
    fn a_cancelled_client_stops_waiting() {
        let state = tempfile::tempdir().unwrap();
        let asked = retrying(state.path(), |retrying, cancelled| {
            cancelled.set();
            retrying.ask(|client| client.runners())
        });
        assert!(asked.unwrap_err().chain().contains("was cancelled"));
    }
}
