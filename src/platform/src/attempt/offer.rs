//! Which job a runner may claim next, and which of its jobs it should end.

use std::time::Duration;

use contract::Offer;

use crate::backend::Backend;
use crate::clock::millis;
use crate::db::{List, ToValue};
use crate::notifier::Topic;
use crate::presence::Incarnation;
use crate::{Result, RunId};

/// For how long a lost attempt is listed as cancelled. After that its guest has ended anyway, as its
/// requests are rejected.
const LOST_LISTED: Duration = Duration::from_secs(60 * 60);

/// Which jobs a runner can take.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The profiles that the runner has room for. A job without a profile fits any.
    pub profiles: Vec<String>,
    /// Jobs that the runner excludes.
    pub excluded: Vec<RunId>,
}

impl Backend {
    /// The oldest job that fits. Another runner may claim it first.
    pub(crate) fn offer(&self, wanted: &Wanted) -> Result<Option<Offer>> {
        let profiles = List::of(&wanted.profiles);
        let excluded = List::of(&wanted.excluded);
        self.db.read("find a job", move |tx| {
            let query = format!(
                "SELECT run, profile, session, COALESCE(reuse_key, run) FROM jobs
                 WHERE status = 'queued' AND (profile IS NULL OR profile IN ({}))
                     AND run NOT IN ({})
                 ORDER BY id LIMIT 1",
                tx.items("?1"),
                tx.items("?2")
            );
            tx.query_opt(&query, &[&profiles, &excluded], |row| {
                Ok(Offer {
                    run_id: row.get(0)?,
                    profile: row.get(1)?,
                    session: row.get(2)?,
                    reuse_key: Some(row.get(3)?),
                })
            })
        })
    }

    /// As [`Backend::offer`], but waits up to `hold` for a job, or for the cancellation of a job that
    /// `runner` may run. Each cancellation is returned once.
    pub(crate) fn offer_held(
        &self,
        wanted: &Wanted,
        runner: Incarnation,
        hold: Duration,
    ) -> Result<(Option<Offer>, Vec<RunId>)> {
        let known = self.cancelled(runner)?;
        let found = self.held(Topic::Work, hold, || {
            let offer = self.offer(wanted)?;
            let mut cancelled = self.cancelled(runner)?;
            cancelled.retain(|run| !known.contains(run));
            let is_something = offer.is_some() || !cancelled.is_empty();
            Ok(is_something.then_some((offer, cancelled)))
        })?;
        Ok(found.unwrap_or_default())
    }

    /// The jobs that a runner must end if it runs them: those with a requested cancellation, and
    /// those whose attempt was lost lately. Only attempts that this process of the runner claimed
    /// count, and those without a known claimant: a job that it claimed again is not listed.
    pub(crate) fn cancelled(&self, runner: Incarnation) -> Result<Vec<RunId>> {
        self.db.read("list cancelled jobs", move |tx| {
            let query = "SELECT run, jobs.id FROM jobs JOIN attempts
                         ON attempts.job = jobs.id AND attempts.attempt = jobs.attempt
                         WHERE status = 'running' AND cancelled IS NOT NULL
                             AND (runner IS NULL OR runner = ?1)
                         UNION
                         SELECT run, jobs.id FROM attempts AS void JOIN jobs ON jobs.id = job
                         WHERE state = 'lost' AND ended > ?3
                             AND (runner IS NULL OR runner = ?1)
                             AND (?2 = 0 OR generation IN (0, ?2))
                             AND NOT EXISTS (SELECT 1 FROM attempts AS live
                                 WHERE live.job = void.job AND live.state = 'live'
                                     AND (live.runner IS NULL OR live.runner = ?1))
                         ORDER BY 2";
            let since = tx.now().saturating_sub(millis(LOST_LISTED));
            let key: [&dyn ToValue; 3] = [&runner.runner, &runner.generation, &since];
            tx.query_all(query, &key, |row| row.get(0))
        })
    }
}
