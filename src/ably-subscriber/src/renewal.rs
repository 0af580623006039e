//! Renews the token of a connection: when, and how.

use std::sync::Arc;
use std::time::Instant;

use crate::background_task::BackgroundTask;
use crate::backoff::Backoff;
use crate::config::{Config, Timing};
use crate::dial::Dialer;
use crate::error::{ConnectionError, Remedy, chain};
use crate::signal::Signal;
use crate::token::{Token, fetch};

type Fetched = Result<Token, ConnectionError>;

pub(crate) struct Renewal {
    at: Option<Instant>,
    task: Option<BackgroundTask<Fetched>>,
    backoff: Backoff,
}

impl Renewal {
    pub(crate) fn new(timing: &Timing) -> Self {
        let backoff = Backoff::new(timing.first_wait, timing.longest_wait);
        Self { at: None, task: None, backoff }
    }

    /// Schedules the next renewal.
    pub(crate) fn plan(&mut self, at: Option<Instant>) {
        self.at = at;
    }

    /// Starts it when it is due.
    pub(crate) fn tick(&mut self, now: Instant, config: &Arc<Config>, owner: &Arc<Signal>) {
        if self.task.is_some() || self.at.is_none_or(|at| now < at) {
            return;
        }
        self.at = None;
        self.backoff.attempt(now);
        let config = Arc::clone(config);
        match BackgroundTask::start(owner, move |signal| fetch(&Dialer { config, signal })) {
            Ok(task) => self.task = Some(task),
            Err(loss) => self.postpone(&loss, now),
        }
    }

    /// When to [`tick`](Self::tick).
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.at.filter(|_| self.task.is_none())
    }

    /// A fetched token, or a final failure. After another failure the renewal is rescheduled.
    pub(crate) fn result(&mut self, now: Instant) -> Option<Fetched> {
        let fetched = self.finished()?;
        match fetched {
            Ok(token) => {
                self.backoff.succeed();
                self.at = token.renew_at();
                Some(Ok(token))
            }
            Err(loss) if matches!(loss.remedy(), Remedy::Fail(_)) => Some(Err(loss)),
            Err(loss) => {
                self.postpone(&loss, now);
                None
            }
        }
    }

    /// A token that was fetched while there was no connection.
    pub(crate) fn ready(&mut self) -> Option<Token> {
        self.finished()?.ok()
    }

    fn postpone(&mut self, loss: &ConnectionError, now: Instant) {
        log::debug!("cannot renew the token yet; error={}", chain(loss));
        self.at = Some(self.backoff.next(now));
    }

    fn finished(&mut self) -> Option<Fetched> {
        let fetched = self.task.as_ref()?.result()?;
        self.task = None;
        Some(fetched.unwrap_or(Err(ConnectionError::Callback)))
    }
}
