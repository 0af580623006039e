//! Another token for a connection that stays: when to get it, and getting it.

use std::sync::Arc;
use std::time::Instant;

use crate::backoff::Backoff;
use crate::config::{Config, Timing};
use crate::dial::Dialer;
use crate::errand::Errand;
use crate::error::{Loss, Remedy, chain};
use crate::signal::Signal;
use crate::token::{Token, fetch};

type Fetched = Result<Token, Loss>;

pub(crate) struct Renewal {
    at: Option<Instant>,
    errand: Option<Errand<Fetched>>,
    backoff: Backoff,
}

impl Renewal {
    pub(crate) fn new(timing: &Timing) -> Self {
        let backoff = Backoff::new(timing.first_wait, timing.longest_wait);
        Self { at: None, errand: None, backoff }
    }

    /// When it is due.
    pub(crate) fn plan(&mut self, at: Option<Instant>) {
        self.at = at;
    }

    /// Starts it when it is due.
    pub(crate) fn tick(&mut self, now: Instant, config: &Arc<Config>, owner: &Arc<Signal>) {
        if self.errand.is_some() || self.at.is_none_or(|at| now < at) {
            return;
        }
        self.at = None;
        self.backoff.attempt(now);
        let config = Arc::clone(config);
        match Errand::start(owner, move |signal| fetch(&Dialer { config, signal })) {
            Ok(errand) => self.errand = Some(errand),
            Err(loss) => self.postpone(&loss, now),
        }
    }

    /// When to [`tick`](Self::tick).
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.at.filter(|_| self.errand.is_none())
    }

    /// A token that has come, or why there will be none. After any other failure it is due again later.
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

    /// A token that came while there was no connection to use it on.
    pub(crate) fn ready(&mut self) -> Option<Token> {
        self.finished()?.ok()
    }

    fn postpone(&mut self, loss: &Loss, now: Instant) {
        log::debug!("cannot renew the token yet; error={}", chain(loss));
        self.at = Some(self.backoff.next(now));
    }

    fn finished(&mut self) -> Option<Fetched> {
        let fetched = self.errand.as_ref()?.result()?;
        self.errand = None;
        Some(fetched.unwrap_or(Err(Loss::Callback)))
    }
}
