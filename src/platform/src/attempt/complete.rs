//! Completions. The first one decides the outcome; a repeated one gets the same reply.

use base::error::chain;
use contract::{Completion, RUNNER_DIED};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Caller;
use super::lose::queue_again;
use crate::backend::Backend;
use crate::db::{Outcome, Tx};
use crate::health::{self, Failure};
use crate::job::Status;
use crate::key::Tag;
use crate::notifier::Topic;
use crate::{Result, RunId, secret};

/// The most characters of an error text that are stored.
const LONGEST_ERROR: usize = 16 * 1024;

/// Replaces an error text in which secrets cannot be masked any more.
const REDACTED: &str =
    "it failed; its error is not shown, as its secrets are gone and cannot be masked in it";

/// The reply to a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completed {
    /// Always true.
    pub success: bool,
    /// Completed or failed; which one, the first completion decided.
    pub status: Status,
}

impl Backend {
    /// Ends a run.
    pub(crate) fn complete(
        &self,
        token: &Tag,
        run: RunId,
        mut completion: Completion,
    ) -> Result<Completed> {
        let token = *token;
        // First, as the completion removes the secrets.
        let mask = self.secrets.mask(&run).unwrap_or_else(|error| {
            // The job must end all the same.
            log::error!("cannot mask a job's secrets; run={run} error={}", chain(&error));
            None
        });
        let is_masked = mask.is_some();
        if let Some(error) = completion.error.as_mut() {
            if let Some(mask) = mask {
                mask.text(error);
            }
            *error = error.chars().take(LONGEST_ERROR).collect();
        }
        let most = self.config.attempts;
        let local: Vec<_> = self.presence.local().into_iter().map(|one| one.runner).collect();
        let (status, is_first) = self.db.write("complete a job", move |tx| {
            let caller = Caller::authorize(tx, &token, &run)?;
            if caller.ended.is_none() {
                let is_shown = caller.check_masked(is_masked).is_ok();
                let error = completion.error.as_deref();
                let error = error.map(|text| if is_shown { text } else { REDACTED });
                let start = caller.failed_start(tx, &completion, &local)?;
                let is_again = match start {
                    Some(runner) => retry(tx, caller, runner, (error, caller.attempt < most))?,
                    None => false,
                };
                if !is_again {
                    end(tx, caller, &completion, error)?;
                }
            }
            let query = "SELECT status FROM jobs WHERE id = ?1";
            let status = tx.query_one(query, &[&caller.job], |row| row.get(0))?;
            Ok((status, caller.ended.is_none()))
        })?;
        if status == Status::Queued {
            // Its secrets stay.
            log::info!("job not started, and queued again; run={run}");
            self.notifier.notify(Topic::Work);
            self.notifier.notify(Topic::Job(run));
            return Ok(Completed { success: true, status: Status::Failed });
        }
        if is_first {
            log::info!("job ended; run={run} status={}", Status::name(status));
        }
        if status.is_final() {
            // Also after a repeated completion: the first one may not have come to this.
            self.ended(run);
        }
        let status = if status == Status::Completed { status } else { Status::Failed };
        Ok(Completed { success: true, status })
    }
}

impl Caller {
    /// The runner to blame if a completion says that the attempt ended before its guest began. One in this
    /// process is the only one as a rule, and its operator sees the error. One that was killed says nothing about its VMs.
    fn failed_start(
        &self,
        tx: &Tx<'_>,
        completion: &Completion,
        local: &[Uuid],
    ) -> Outcome<Option<Uuid>> {
        let died = completion.error.as_deref() == Some(RUNNER_DIED);
        if completion.exit_code == 0 || self.begun || died {
            return Ok(None);
        }
        let query = "SELECT 1 FROM jobs WHERE id = ?1 AND cancelled IS NOT NULL";
        let is_cancelled = tx.exists(query, &[&self.job])?;
        Ok(self.runner.filter(|runner| !is_cancelled && !local.contains(runner)))
    }
}

/// Queues a job again that did not start, if another runner may try it.
fn retry(
    tx: &Tx<'_>,
    caller: Caller,
    runner: Uuid,
    (error, may_repeat): (Option<&str>, bool),
) -> Outcome<bool> {
    let error = error.unwrap_or("no reason was given");
    let failure = Failure { job: caller.job, runner, claimed: caller.claimed, error };
    if !health::failed(tx, &failure, may_repeat)? {
        return Ok(false);
    }
    end_attempt(tx, caller.job, "ended")?;
    queue_again(tx, caller.job)?;
    Ok(true)
}

/// A successful run counts as completed even if it was cancelled meanwhile.
fn end(tx: &Tx<'_>, caller: Caller, completion: &Completion, error: Option<&str>) -> Outcome<()> {
    let set = "UPDATE jobs SET finished = ?2, exit_code = ?3, error = ?4, last_sequence = ?5,
                   status = CASE WHEN ?3 = 0 THEN 'completed'
                       WHEN cancelled IS NOT NULL AND timed_out = 0 THEN 'cancelled'
                       ELSE 'failed' END
               WHERE id = ?1";
    let (code, last) = (&completion.exit_code, &completion.last_event_sequence);
    tx.execute(set, &[&caller.job, &tx.now(), code, &error, last])?;
    secret::forget(tx, caller.job)?;
    end_attempt(tx, caller.job, "ended")
}

/// Ends the live attempt of a job, and what it had begun.
pub(super) fn end_attempt(tx: &Tx<'_>, job: i64, state: &str) -> Outcome<()> {
    let set = "UPDATE attempts SET state = ?2, ended = ?3 WHERE job = ?1 AND state = 'live'";
    tx.execute(set, &[&job, &state, &tx.now()])?;
    // Owners are `<run>/<attempt>`, and `0` follows `/`.
    let forget = "DELETE FROM uploads
                  WHERE owner > (SELECT run || '/' FROM jobs WHERE id = ?1)
                      AND owner < (SELECT run || '0' FROM jobs WHERE id = ?1)";
    tx.execute(forget, &[&job]).map(drop)
}
