//! Completions. The first one decides the outcome; a repeated one gets the same reply.

use base::error::chain;
use contract::Completion;
use rusqlite::{Transaction, params};
use serde::{Deserialize, Serialize};

use super::Caller;
use crate::backend::Backend;
use crate::clock::now_ms;
use crate::db::Outcome;
use crate::job::Status;
use crate::key::Tag;
use crate::{Result, RunId};

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
        let (status, is_first) = self.db.write("complete a job", move |tx| {
            let caller = Caller::authorize(tx, &token, &run)?;
            if completion.error.is_some() && caller.check_masked(is_masked).is_err() {
                completion.error = Some(REDACTED.to_owned());
            }
            if caller.ended.is_none() {
                end(tx, caller, &completion)?;
            }
            let query = "SELECT status FROM jobs WHERE id = ?1";
            let status = tx.prepare_cached(query)?.query_row([caller.job], |row| row.get(0))?;
            Ok((status, caller.ended.is_none()))
        })?;
        if is_first {
            log::info!("job ended; run={run} status={}", Status::name(status));
            self.ended(run);
        }
        let status = if status == Status::Completed { status } else { Status::Failed };
        Ok(Completed { success: true, status })
    }
}

/// A successful run counts as completed even if it was cancelled meanwhile.
fn end(tx: &Transaction<'_>, caller: Caller, completion: &Completion) -> Outcome<()> {
    let now = now_ms();
    let set = "UPDATE jobs SET finished = ?2, exit_code = ?3, error = ?4, last_sequence = ?5,
                   status = CASE WHEN ?3 = 0 THEN 'completed'
                       WHEN cancelled IS NOT NULL AND NOT timed_out THEN 'cancelled'
                       ELSE 'failed' END
               WHERE id = ?1";
    tx.prepare_cached(set)?.execute(params![
        caller.job,
        now,
        completion.exit_code,
        completion.error,
        completion.last_event_sequence.map(|number| i64::try_from(number).unwrap_or(i64::MAX)),
    ])?;
    end_attempt(tx, caller.job, "ended", now)
}

/// Ends the live attempt of a job, and what it had begun.
pub(super) fn end_attempt(tx: &Transaction<'_>, job: i64, state: &str, now: i64) -> Outcome<()> {
    let set = "UPDATE attempts SET state = ?2, ended = ?3 WHERE job = ?1 AND state = 'live'";
    tx.prepare_cached(set)?.execute((job, state, now))?;
    let forget =
        "DELETE FROM uploads WHERE owner GLOB (SELECT run FROM jobs WHERE id = ?1) || '/*'";
    tx.prepare_cached(forget)?.execute([job])?;
    Ok(())
}
