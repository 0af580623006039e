//! The hint which runners may have jobs to cancel: of a thousand, most have none, so one query is for all.

use std::time::{Duration, Instant};

use base::error::chain;
use uuid::Uuid;

use super::seat::{Hint, News};
use crate::attempt::LOST_LISTED;
use crate::backend::Backend;
use crate::clock::millis;
use crate::presence::Incarnation;
use crate::{Result, RunId};

/// How long a hint is good without a notification, and when it is renewed.
const GOOD: Duration = Duration::from_secs(6);
const RENEWED: Duration = Duration::from_secs(4);

impl Backend {
    /// As [`Backend::cancelled`], without a query for a runner that has none.
    pub(crate) fn cancelled_of(&self, runner: Uuid) -> Result<Vec<RunId>> {
        let version = self.notifier.work_version();
        let is_none = self.placement.hint.lock().as_ref().is_some_and(|hint| {
            hint.version == version && hint.at.elapsed() < GOOD && !hint.names(runner)
        });
        if is_none {
            return Ok(Vec::new());
        }
        let Incarnation { generation, .. } = self.latest(runner)?;
        self.cancelled(Incarnation { runner, generation })
    }

    /// Renews the hint while runners are there, and tells those that it names. Returns when it is due again.
    pub(super) fn refresh_hint(&self) -> Option<Instant> {
        if !self.placement.is_active() {
            return None;
        }
        let version = self.notifier.work_version();
        let known = self.placement.hint.lock().as_ref().map(|hint| (hint.version, hint.at));
        if let Some((known, at)) = known
            && known == version
            && at.elapsed() < RENEWED
        {
            return Some(at + RENEWED);
        }
        match self.read_hint(version) {
            Ok(hint) => {
                let seats = self.placement.seats();
                let named = seats.iter().filter(|seat| hint.names(seat.ask.runner));
                named.for_each(|seat| seat.tell(News::Cancelled));
                *self.placement.hint.lock() = Some(hint);
            }
            Err(error) => log::debug!("cannot look for cancellations; error={}", chain(&error)),
        }
        Some(Instant::now() + RENEWED)
    }

    fn read_hint(&self, version: u64) -> Result<Hint> {
        let at = Instant::now();
        let named: Vec<Option<Uuid>> = self.db.read("look for cancellations", |tx| {
            let query = "SELECT runner FROM jobs JOIN attempts
                         ON attempts.job = jobs.id AND attempts.attempt = jobs.attempt
                         WHERE status = 'running' AND cancelled IS NOT NULL
                         UNION SELECT runner FROM attempts WHERE state = 'lost' AND ended > ?1";
            let since = tx.now().saturating_sub(millis(LOST_LISTED));
            tx.query_all(query, &[&since], |row| row.get(0))
        })?;
        let is_any = named.iter().any(Option::is_none);
        Ok(Hint { runners: named.into_iter().flatten().collect(), is_any, version, at })
    }
}
