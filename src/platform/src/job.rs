//! Jobs as the operator sees them: submitted, listed, shown, cancelled.

mod show;
mod submission;
mod wait;

use serde::{Deserialize, Serialize};

pub use self::submission::{Submission, Submitted};
use crate::backend::Backend;
use crate::db::{FromValue, Outcome, ToValue, Tx, Value};
use crate::notifier::Topic;
use crate::principal::Principal;
use crate::{Refusal, Result, RunId, secret};

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It waits for a runner.
    Queued,
    /// A runner has it.
    Running,
    /// It ended with exit code 0.
    Completed,
    /// It ended otherwise.
    Failed,
    /// It was cancelled before it ended by itself.
    Cancelled,
}

impl Status {
    /// Whether the state is final.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl FromValue for Status {
    fn from_value(value: Value<'_>) -> Option<Self> {
        let all = [Self::Queued, Self::Running, Self::Completed, Self::Failed, Self::Cancelled];
        let name = String::from_value(value)?;
        all.into_iter().find(|status| status.name() == name)
    }
}

/// A version of a storage at a mount point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// The artifact's name in the job.
    pub name: String,
    /// The storage.
    pub storage_id: String,
    /// Its version.
    pub version_id: String,
    /// The mount point, absolute.
    pub mount_path: String,
}

/// A job.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it; times are milliseconds since 1970")]
pub struct Job {
    pub run_id: RunId,
    pub status: Status,
    /// The number of attempts.
    pub attempt: u32,
    pub agent: String,
    pub profile: Option<String>,
    /// The group whose runners take it; all do, without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The reason for which no connected runner takes the job, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// Truncated in lists.
    pub prompt: String,
    pub created_ms: i64,
    pub started_ms: Option<i64>,
    pub finished_ms: Option<i64>,
    pub cancel_requested: bool,
    /// The name of the token that it was submitted with; `None` for the operator's socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_by: Option<String>,
    /// The name of the token that it was cancelled with, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled_by: Option<String>,
    pub timed_out: bool,
    #[serde(default, deserialize_with = "contract::exit_code::if_any")]
    pub exit_code: Option<u8>,
    pub error: Option<String>,
    pub resumed_checkpoint: Option<String>,
    pub session_id: Option<String>,
    /// The number of events of its latest attempt.
    pub events: u64,
    /// The number of missing events with smaller sequence numbers.
    pub missing_events: u64,
    /// Its latest checkpoint.
    pub checkpoint_id: Option<String>,
    /// Whether that checkpoint is partial.
    #[serde(default)]
    pub checkpoint_partial: bool,
    /// Warnings, for example about parts of an artifact that are not stored; absent in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Backend {
    /// Cancels a job. A queued job ends at once; a running one ends when its runner reports the
    /// end, or after the grace period.
    pub(crate) fn cancel(&self, run: RunId, by: &Principal) -> Result<()> {
        let by = by.name().map(str::to_owned);
        let was_queued = self.db.write("cancel a job", move |tx| {
            let (job, status) = find(tx, &run)?;
            let now = tx.now();
            match status {
                Status::Queued => {
                    let end = "UPDATE jobs SET status = 'cancelled', cancelled = ?2, finished = ?2,
                                   cancelled_by = ?3
                               WHERE id = ?1";
                    tx.execute(end, &[&job, &now, &by])?;
                    secret::forget(tx, job)?;
                }
                Status::Running => {
                    let ask = "UPDATE jobs SET cancelled = ?2, cancelled_by = ?3
                               WHERE id = ?1 AND cancelled IS NULL";
                    tx.execute(ask, &[&job, &now, &by])?;
                }
                _ => return Err(Refusal::Ended.into()),
            }
            Ok(status == Status::Queued)
        })?;
        if was_queued {
            self.ended(run);
        }
        self.notifier.notify(Topic::Work);
        self.notifier.notify(Topic::Deadline);
        Ok(())
    }

    /// Removes the secrets' file of a job whose end is in the database.
    pub(crate) fn ended(&self, run: RunId) {
        if let Err(error) = self.secrets.remove(&run) {
            // The next start removes it.
            log::error!("a job's secrets stay; run={run} error={}", base::error::chain(&error));
        }
        self.notifier.notify(Topic::Job(run));
    }

    /// The jobs that have not ended.
    pub(crate) fn open_runs(&self) -> Result<Vec<RunId>> {
        self.db.read("list open jobs", |tx| {
            let query = "SELECT run FROM jobs WHERE status IN ('queued', 'running')";
            tx.query_all(query, &[], |row| row.get(0))
        })
    }
}

/// A job's row and status.
pub(crate) fn find(tx: &Tx<'_>, run: &RunId) -> Outcome<(i64, Status)> {
    let query = tx.locking("SELECT id, status FROM jobs WHERE run = ?1");
    let found = tx.query_opt(&query, &[run], |row| Ok((row.get(0)?, row.get(1)?)))?;
    found.ok_or_else(|| Refusal::NoJob { run: *run }.into())
}

/// The mounts of a job or of a checkpoint.
pub(crate) fn mounts(tx: &Tx<'_>, query: &str, of: &dyn ToValue) -> Outcome<Vec<Mount>> {
    tx.query_all(query, &[of], |row| {
        Ok(Mount {
            name: row.get(0)?,
            storage_id: row.get(1)?,
            version_id: row.get(2)?,
            mount_path: row.get(3)?,
        })
    })
}

/// The condition of [`mounts`] for a job's row.
pub(crate) const OF_JOB: &str =
    "SELECT name, storage, version, mount_path FROM mounts WHERE job = ?1 ORDER BY name";

/// The condition of [`mounts`] for a checkpoint.
pub(crate) const OF_CHECKPOINT: &str =
    "SELECT name, storage, version, mount_path FROM snapshots WHERE checkpoint = ?1 ORDER BY name";
