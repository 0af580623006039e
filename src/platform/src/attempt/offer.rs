//! Which job a runner may claim next, and which of its jobs it should end.

use std::time::Duration;

use contract::Offer;

use uuid::Uuid;

use crate::backend::{Backend, Look};
use crate::clock::millis;
use crate::db::{List, Outcome, Row, ToValue, Tx};
use crate::health::{self, AVOIDED, Admission};
use crate::presence::Incarnation;
use crate::{Result, RunId};

/// For how long a lost attempt is listed as cancelled. After that its guest has ended anyway, as its
/// requests are rejected.
pub(crate) const LOST_LISTED: Duration = Duration::from_secs(60 * 60);

/// For how long a job that was offered to one runner is not offered to another.
pub(crate) const RESERVED: Duration = Duration::from_secs(1);

/// After which silence a runner does not get the jobs of its sessions first: two heartbeats are missing.
pub(crate) const SILENT: Duration = Duration::from_secs(25);

/// Which jobs a runner can take.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The runner's group: it takes jobs of this group, and those without one. Without a group it takes any.
    pub group: Option<String>,
    /// The profiles that the runner has room for. A job without a profile fits any.
    pub profiles: Vec<String>,
    /// Jobs that the runner excludes.
    pub excluded: Vec<RunId>,
}

/// The parameters of [`fits`] and [`is_here`].
struct Query {
    profiles: List,
    excluded: List,
    group: Option<String>,
    runner: Uuid,
    affinity: i64,
}

impl Query {
    fn of(wanted: &Wanted, runner: Uuid, affinity: Duration) -> Self {
        Self {
            profiles: List::of(&wanted.profiles),
            excluded: List::of(&wanted.excluded),
            group: wanted.group.clone(),
            runner,
            affinity: millis(affinity),
        }
    }

    /// Whether a job fits that is not free now.
    fn is_any_later(&self, tx: &Tx<'_>) -> Outcome<bool> {
        let query = format!("SELECT 1 FROM jobs WHERE {} LIMIT 1", fits(tx));
        tx.exists(&query, &[&self.profiles, &self.excluded, &self.group])
    }
}

/// The columns of [`offer`].
const OFFER: &str = "run, profile, session, COALESCE(reuse_key, run)";

fn offer(row: &Row<'_>) -> Outcome<Offer> {
    Ok(Offer {
        run_id: row.get(0)?,
        profile: row.get(1)?,
        session: row.get(2)?,
        reuse_key: Some(row.get(3)?),
    })
}

/// The condition that a job waits, has one of the profiles `?1` or none, is not among `?2`, and is of the group
/// `?3` or of none.
fn fits(tx: &Tx<'_>) -> String {
    let (profiles, excluded) = (tx.items("?1"), tx.items("?2"));
    format!(
        "status = 'queued' AND (profile IS NULL OR profile IN ({profiles})) AND run NOT IN ({excluded})
         AND (runner_group IS NULL OR CAST(?3 AS TEXT) IS NULL OR runner_group = ?3)"
    )
}

/// The runner that has the VM of a job's session. One that is silent since `?6`, is full, unhealthy or drained, or takes
/// no jobs does not count.
pub(crate) const HOLDER: &str = "(
    SELECT held_sessions.runner FROM held_sessions JOIN runners ON runners.id = held_sessions.runner
    WHERE held_sessions.session = jobs.session
        AND held_sessions.profile = coalesce(jobs.profile, 'default')
        AND runners.seen > ?6 AND runners.is_open = 1 AND runners.drained = 0 AND runners.strikes = 0
        AND (jobs.runner_group IS NULL OR runners.runner_group IS NULL
            OR runners.runner_group = jobs.runner_group)
    ORDER BY held_sessions.completed DESC, held_sessions.runner LIMIT 1)";

/// The condition that no runner but `?4` has the VM of the job's session. None counts for a job that was queued before
/// `?5`. The clock may have been set back. Nor did the job fail to start at `?4` since `?8`.
fn is_here() -> String {
    format!(
        "(session IS NULL OR created <= ?5 OR created > ?7 OR coalesce({HOLDER}, ?4) = ?4)
         AND NOT EXISTS (SELECT 1 FROM start_failures
             WHERE start_failures.job = jobs.id AND start_failures.runner = ?4 AND failed > ?8)"
    )
}

impl Backend {
    /// The oldest job that fits. Another runner may claim it first.
    pub(crate) fn offer(&self, wanted: &Wanted, runner: Uuid) -> Result<Look<Offer>> {
        let query = Query::of(wanted, runner, self.config.affinity);
        let found = self.db.read("find a job", move |tx| {
            // Whether it is healthy is not asked: there is no other one, as a rule.
            if health::admission(tx, runner)? == Admission::Closed(None) {
                return Ok(Err(false));
            }
            let find = format!(
                "SELECT {OFFER} FROM jobs WHERE {} AND {} ORDER BY id LIMIT 1",
                fits(tx),
                is_here()
            );
            let row: [&dyn ToValue; 8] = [
                &query.profiles,
                &query.excluded,
                &query.group,
                &query.runner,
                &tx.now().saturating_sub(query.affinity),
                &tx.now().saturating_sub(millis(SILENT)),
                &tx.now(),
                &tx.now().saturating_sub(millis(AVOIDED)),
            ];
            match tx.query_opt(&find, &row, offer)? {
                Some(offer) => Ok(Ok(offer)),
                None => Ok(Err(query.is_any_later(tx)?)),
            }
        })?;
        Ok(match found {
            Ok(offer) => Look::Found(offer),
            Err(true) => Look::Again(self.config.affinity),
            Err(false) => Look::Nothing,
        })
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
