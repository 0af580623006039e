//! Jobs shown and listed.

use super::{Backend, Job};
use crate::db::{Outcome, Row, Tx};
use crate::notifier::Topic;
use crate::principal::Principal;
use crate::{Refusal, Result, RunId, warning};
use std::time::Duration;

/// The most jobs in one list.
const MOST: u32 = 1000;

/// The minimum length of a prefix.
const SHORTEST: usize = 4;

const COLUMNS: &str = "run, status, jobs.attempt, jobs.agent, profile, jobs.created, started,
    finished, cancelled IS NOT NULL, timed_out, exit_code, error, resumed,
    coalesce(checkpoints.session, jobs.session), coalesce(events, 0),
    coalesce(last_event + 1 - events, 0), checkpoints.id, coalesce(is_partial, 0), jobs.runner_group,
    submitted_by, cancelled_by";

const TABLES: &str = "jobs
    LEFT JOIN attempts ON attempts.job = jobs.id AND attempts.attempt = jobs.attempt
    LEFT JOIN checkpoints ON checkpoints.job = jobs.id AND checkpoints.attempt = (
        SELECT max(attempt) FROM checkpoints AS latest WHERE latest.job = jobs.id)";

impl Backend {
    /// A job.
    pub(crate) fn job(&self, run: RunId) -> Result<Job> {
        let job = self.db.read("show a job", move |tx| {
            let query = format!("SELECT {COLUMNS}, prompt FROM {TABLES} WHERE run = ?1");
            let found = tx.query_opt(&query, &[&run], job)?;
            let mut job = found.ok_or(Refusal::NoJob { run })?;
            job.warnings = warning::of_run(tx, &run)?;
            Ok(job)
        })?;
        let explained = self.explained(vec![job])?.pop();
        explained.ok_or_else(|| Refusal::NoJob { run }.into())
    }

    /// A job when it has ended, or its state after `hold`.
    pub(crate) fn ended_job(&self, run: RunId, hold: Duration) -> Result<Job> {
        let ended = self.held(Topic::Job(run), hold, || {
            Ok(Some(self.job(run)?).filter(|job| job.status.is_final()).into())
        })?;
        ended.map_or_else(|| self.job(run), Ok)
    }

    /// The latest jobs that `by` may see, newest first; with `before`, those older than that job.
    pub(crate) fn jobs(
        &self,
        before: Option<RunId>,
        limit: u32,
        by: &Principal,
    ) -> Result<Vec<Job>> {
        let submitter = by.submitter().map(str::to_owned);
        let jobs: Vec<Job> = self.db.read("list jobs", move |tx| {
            let query = |visible| {
                format!(
                    "SELECT {COLUMNS}, substr(prompt, 1, 200) FROM {TABLES}
                     WHERE (CAST(?1 AS TEXT) IS NULL
                         OR jobs.id < (SELECT id FROM jobs WHERE run = ?1)) {visible}
                     ORDER BY jobs.id DESC LIMIT ?2"
                )
            };
            let limit = limit.min(MOST);
            match &submitter {
                Some(name) => {
                    let query = query("AND submitted_by = ?3");
                    tx.query_all(&query, &[&before, &limit, name], job)
                }
                None => tx.query_all(&query(""), &[&before, &limit], job),
            }
        })?;
        self.explained(jobs)
    }

    /// The job with this id or prefix of it. A job that `by` may not see is not found.
    pub(crate) fn resolve(&self, prefix: &str, by: &Principal) -> Result<RunId> {
        let submitter = by.submitter().map(str::to_owned);
        if let Ok(run) = prefix.parse() {
            if let Some(submitter) = submitter {
                self.db.read("find a job", move |tx| check_submitter(tx, &run, &submitter))?;
            }
            return Ok(run);
        }
        let prefix = prefix.to_ascii_lowercase();
        let is_id = prefix.bytes().all(|c| c.is_ascii_hexdigit() || c == b'-');
        if prefix.len() < SHORTEST || !is_id {
            return Err(Refusal::NoSuchPrefix { prefix }.into());
        }
        self.db.read("find a job", move |tx| {
            let query = "SELECT run FROM jobs WHERE run >= ?1 AND run < ?1 || 'g'
                             AND (CAST(?2 AS TEXT) IS NULL OR submitted_by = ?2) LIMIT 2";
            let runs: Vec<RunId> = tx.query_all(query, &[&prefix, &submitter], |row| row.get(0))?;
            let prefix = || prefix.clone();
            match runs[..] {
                [] => Err(Refusal::NoSuchPrefix { prefix: prefix() }.into()),
                [run] => Ok(run),
                _ => Err(Refusal::Ambiguous { prefix: prefix() }.into()),
            }
        })
    }
}

/// Checks that a job is the submitter's.
pub(super) fn check_submitter(tx: &Tx<'_>, run: &RunId, submitter: &str) -> Outcome<()> {
    let query = "SELECT 1 FROM jobs WHERE run = ?1 AND submitted_by = ?2";
    if tx.exists(query, &[run, &submitter])? {
        return Ok(());
    }
    Err(Refusal::NoJob { run: *run }.into())
}

fn job(row: &Row<'_>) -> Outcome<Job> {
    Ok(Job {
        run_id: row.get(0)?,
        status: row.get(1)?,
        attempt: row.get(2)?,
        agent: row.get(3)?,
        profile: row.get(4)?,
        waits: None,
        created_ms: row.get(5)?,
        started_ms: row.get(6)?,
        finished_ms: row.get(7)?,
        cancel_requested: row.get(8)?,
        timed_out: row.get(9)?,
        exit_code: row.get::<Option<i64>>(10)?.and_then(|code| u8::try_from(code).ok()),
        error: row.get(11)?,
        resumed_checkpoint: row.get(12)?,
        session_id: row.get(13)?,
        events: row.get(14)?,
        missing_events: row.get(15)?,
        checkpoint_id: row.get(16)?,
        checkpoint_partial: row.get(17)?,
        warnings: Vec::new(),
        group: row.get(18)?,
        submitted_by: row.get(19)?,
        cancelled_by: row.get(20)?,
        prompt: row.get(21)?,
    })
}
