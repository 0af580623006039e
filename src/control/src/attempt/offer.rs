//! Which job a runner may claim next, and which of its jobs it should end.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::bell::Topic;
use crate::platform::Platform;
use crate::{Result, RunId};

/// What a runner can take.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The profiles that it has room for; a job without a profile fits any.
    pub profiles: Vec<String>,
    /// Jobs that it does not want now.
    pub excluded: Vec<RunId>,
}

/// A job that may be claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// The job.
    pub run_id: RunId,
    /// The profile that it wants.
    #[serde(rename = "experimentalProfile", skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The session that it goes on with.
    #[serde(rename = "cliAgentSessionId", skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

impl Platform {
    /// The oldest job that fits; its claim may still come too late.
    pub(crate) fn offer(&self, wanted: &Wanted) -> Result<Option<Offer>> {
        let wanted = wanted.clone();
        self.db.read("find a job", move |tx| {
            let query =
                "SELECT run, profile, session FROM jobs WHERE status = 'queued' ORDER BY id";
            let mut statement = tx.prepare_cached(query)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let offer =
                    Offer { run_id: row.get(0)?, profile: row.get(1)?, session: row.get(2)? };
                let fits = |profile| wanted.profiles.contains(profile);
                if offer.profile.as_ref().is_none_or(fits)
                    && !wanted.excluded.contains(&offer.run_id)
                {
                    return Ok(Some(offer));
                }
            }
            Ok(None)
        })
    }

    /// As [`Platform::offer`], but waits for a job for so long; and for the wish to cancel one that
    /// `runner` has or may have, of which each is told once.
    pub(crate) fn offer_held(
        &self,
        wanted: &Wanted,
        runner: Uuid,
        hold: Duration,
    ) -> Result<(Option<Offer>, Vec<RunId>)> {
        let known = self.cancelled(Some(runner))?;
        let found = self.held(Topic::Work, hold, || {
            let offer = self.offer(wanted)?;
            let mut cancelled = self.cancelled(Some(runner))?;
            cancelled.retain(|run| !known.contains(run));
            let is_something = offer.is_some() || !cancelled.is_empty();
            Ok(is_something.then_some((offer, cancelled)))
        })?;
        Ok(found.unwrap_or_default())
    }

    /// The running jobs that are to be cancelled: of a runner, and of those whom nobody knows; or
    /// all of them.
    pub(crate) fn cancelled(&self, runner: Option<Uuid>) -> Result<Vec<RunId>> {
        let runner = runner.map(|runner| runner.to_string());
        self.db.read("list cancelled jobs", move |tx| {
            let query = "SELECT run FROM jobs JOIN attempts
                         ON attempts.job = jobs.id AND attempts.attempt = jobs.attempt
                         WHERE status = 'running' AND cancelled IS NOT NULL
                         AND (?1 IS NULL OR runner IS NULL OR runner = ?1) ORDER BY jobs.id";
            let mut statement = tx.prepare_cached(query)?;
            let runs = statement.query_map([runner], |row| row.get(0))?;
            Ok(runs.collect::<Result<_, _>>()?)
        })
    }
}
