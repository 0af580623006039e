//! Checkpoints: the session and the artifacts that another job can go on from.

use rusqlite::{OptionalExtension, Transaction};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::attempt::Caller;
use crate::clock::now_ms;
use crate::db::Outcome;
use crate::job::{Mount, OF_CHECKPOINT, find, mounts};
use crate::key::Tag;
use crate::platform::Platform;
use crate::{Refusal, Result, RunId};

/// The longest id of a session.
const LONGEST_SESSION: usize = 256;

/// A checkpoint as a guest sends it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Request {
    pub(crate) run_id: RunId,
    cli_agent_type: String,
    cli_agent_session_id: String,
    cli_agent_session_history_hash: String,
    artifact_snapshots: Option<Vec<Snapshot>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Snapshot {
    name: String,
    version: String,
    #[expect(dead_code, reason = "it is mounted where the job had it, whatever the guest says")]
    mount_path: String,
}

/// A job's checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// Its id.
    pub checkpoint_id: String,
    /// The job.
    pub run_id: RunId,
    /// The attempt that made it.
    pub attempt: u32,
    /// The agent.
    pub agent: String,
    /// The agent's session.
    pub session_id: String,
    /// SHA-256 of the session's history.
    pub history_hash: String,
    /// The history's length in bytes.
    pub history_size: u64,
    /// The artifacts as they were then.
    pub artifacts: Vec<Mount>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: i64,
}

impl Platform {
    /// Stores an attempt's checkpoint, and returns its id. A later one takes its place.
    pub(crate) fn take_checkpoint(&self, token: &Tag, mut request: Request) -> Result<String> {
        let (token, run) = (*token, request.run_id);
        let session = &mut request.cli_agent_session_id;
        if session.is_empty() || session.len() > LONGEST_SESSION {
            return Err(Refusal::bad("`cliAgentSessionId` has 1 to 256 bytes").into());
        }
        let mask = self.secrets.mask(&run)?;
        if let Some(mask) = &mask {
            mask.text(session);
        }
        let is_masked = mask.is_some();
        let id = self.db.write("store a checkpoint", move |tx| {
            let caller = Caller::live(tx, &token, &run)?;
            caller.check_masked(is_masked)?;
            store(tx, caller, &request)
        })?;
        log::debug!("checkpoint stored; run={run} checkpoint={id}");
        Ok(id)
    }

    /// A job's latest checkpoint.
    pub(crate) fn checkpoint(&self, run: RunId) -> Result<Checkpoint> {
        self.db.read("show a checkpoint", move |tx| {
            let (job, _) = find(tx, &run)?;
            let query = "SELECT id, attempt, agent, session, history, raw_size, checkpoints.created
                         FROM checkpoints JOIN histories ON hash = history WHERE job = ?1
                         ORDER BY attempt DESC LIMIT 1";
            let found = tx.prepare_cached(query)?.query_row([job], |row| {
                Ok(Checkpoint {
                    checkpoint_id: row.get(0)?,
                    run_id: run,
                    attempt: row.get(1)?,
                    agent: row.get(2)?,
                    session_id: row.get(3)?,
                    history_hash: row.get(4)?,
                    history_size: row.get(5)?,
                    artifacts: Vec::new(),
                    created_ms: row.get(6)?,
                })
            });
            let missing = || Refusal::NotFound { what: format!("checkpoint of job {run}") };
            let mut checkpoint = found.optional()?.ok_or_else(missing)?;
            checkpoint.artifacts = mounts(tx, OF_CHECKPOINT, &checkpoint.checkpoint_id)?;
            Ok(checkpoint)
        })
    }

    /// The digest of the archive of one of a checkpoint's artifacts.
    pub(crate) fn artifact(&self, run: RunId, name: &str) -> Result<String> {
        let name = name.to_owned();
        let checkpoint = self.checkpoint(run)?;
        let artifact = checkpoint.artifacts.into_iter().find(|artifact| artifact.name == name);
        let missing = || Refusal::NotFound { what: format!("artifact `{name}` of job {run}") };
        let mount = artifact.ok_or_else(missing)?;
        self.db.read("find an archive", move |tx| {
            let query = "SELECT archive FROM versions WHERE storage = ?1 AND version = ?2";
            let key = (mount.storage_id, mount.version_id);
            Ok(tx.prepare_cached(query)?.query_row(key, |row| row.get(0))?)
        })
    }
}

fn store(tx: &Transaction<'_>, caller: Caller, request: &Request) -> Outcome<String> {
    let agent: String =
        tx.query_row("SELECT agent FROM jobs WHERE id = ?1", [caller.job], |row| row.get(0))?;
    // The agent says nothing where it is the usual one.
    if !request.cli_agent_type.is_empty() && request.cli_agent_type != agent {
        return Err(Refusal::bad("`cliAgentType` is not the job's").into());
    }
    let history = &request.cli_agent_session_history_hash;
    let query = "SELECT 1 FROM histories WHERE hash = ?1";
    if !tx.prepare_cached(query)?.exists([history])? {
        return Err(Refusal::Missing { what: "session history" }.into());
    }
    let add = "INSERT INTO checkpoints (id, job, attempt, agent, session, history, created)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
               ON CONFLICT (job, attempt) DO UPDATE SET session = ?5, history = ?6 RETURNING id";
    let session = &request.cli_agent_session_id;
    let id = Uuid::new_v4().to_string();
    let row = (id, caller.job, caller.attempt, agent, session, history, now_ms());
    let id: String = tx.prepare_cached(add)?.query_row(row, |row| row.get(0))?;
    tx.execute("DELETE FROM snapshots WHERE checkpoint = ?1", [&id])?;
    for snapshot in request.artifact_snapshots.iter().flatten() {
        add_snapshot(tx, caller.job, &id, snapshot)?;
    }
    Ok(id)
}

/// The artifact must be the job's, and the version must be there.
fn add_snapshot(tx: &Transaction<'_>, job: i64, id: &str, snapshot: &Snapshot) -> Outcome<()> {
    let Snapshot { name, version, .. } = snapshot;
    let add = "INSERT OR IGNORE INTO snapshots (checkpoint, name, storage, version, mount_path)
               SELECT ?1, name, mounts.storage, versions.version, mount_path
               FROM mounts JOIN versions ON versions.storage = mounts.storage
               WHERE job = ?2 AND name = ?3 AND versions.version = ?4";
    match tx.prepare_cached(add)?.execute((id, job, name, version))? {
        0 => Err(Refusal::NotFound { what: format!("such version of artifact `{name}`") }.into()),
        _ => Ok(()),
    }
}
