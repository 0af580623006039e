//! Checkpoints: the session and the artifacts that another job can resume.
//!
//! A job that succeeds makes a complete checkpoint, by the contract's call. A job that fails or is
//! cancelled makes a *partial* one, by an extension of this platform; parts of it, such as the
//! session, may be missing.
//!
//! INVARIANT: a partial checkpoint never replaces the complete one of the same attempt.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::attempt::Caller;
use crate::backend::Backend;
use crate::db::{Outcome, ToValue, Tx};
use crate::job::{Mount, OF_CHECKPOINT, OF_JOB, find, mounts};
use crate::key::Tag;
use crate::{Refusal, Result, RunId};

/// The longest id of a session.
const LONGEST_SESSION: usize = 256;

/// A checkpoint as a guest sends it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CheckpointRequest {
    pub(crate) run_id: RunId,
    cli_agent_type: String,
    cli_agent_session_id: String,
    cli_agent_session_history_hash: String,
    artifact_snapshots: Option<Vec<Snapshot>>,
}

/// A partial checkpoint as a guest sends it. Without a session there is no history.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PartialCheckpointRequest {
    pub(crate) run_id: RunId,
    cli_agent_type: String,
    session: Option<Session>,
    artifact_snapshots: Option<Vec<Snapshot>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Session {
    id: String,
    history_hash: String,
}

/// The part of both requests that is stored.
struct Contents {
    agent: String,
    session: Option<Session>,
    snapshots: Vec<Snapshot>,
    is_partial: bool,
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
    /// Whether the checkpoint is partial, as the job did not succeed.
    #[serde(default)]
    pub partial: bool,
    /// The agent's session. Only a partial checkpoint may have none.
    pub session_id: Option<String>,
    /// SHA-256 of the session's history.
    pub history_hash: Option<String>,
    /// The history's length in bytes.
    pub history_size: Option<u64>,
    /// The artifacts as they were then.
    pub artifacts: Vec<Mount>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: i64,
}

impl Backend {
    /// Stores an attempt's checkpoint, and returns its id. A later one replaces it.
    pub(crate) fn take_checkpoint(
        &self,
        token: &Tag,
        request: CheckpointRequest,
    ) -> Result<String> {
        let session = Session {
            id: request.cli_agent_session_id,
            history_hash: request.cli_agent_session_history_hash,
        };
        let contents = Contents {
            agent: request.cli_agent_type,
            session: Some(session),
            snapshots: request.artifact_snapshots.unwrap_or_default(),
            is_partial: false,
        };
        self.store_checkpoint(token, request.run_id, contents)
    }

    /// Stores a partial checkpoint, unless the attempt has a complete one.
    pub(crate) fn take_partial_checkpoint(
        &self,
        token: &Tag,
        request: PartialCheckpointRequest,
    ) -> Result<String> {
        let contents = Contents {
            agent: request.cli_agent_type,
            session: request.session,
            snapshots: request.artifact_snapshots.unwrap_or_default(),
            is_partial: true,
        };
        self.store_checkpoint(token, request.run_id, contents)
    }

    fn store_checkpoint(&self, token: &Tag, run: RunId, mut contents: Contents) -> Result<String> {
        let token = *token;
        let ids = contents.session.iter().map(|session| session.id.len());
        if ids.into_iter().any(|length| !(1..=LONGEST_SESSION).contains(&length)) {
            return Err(Refusal::bad("a session's id must have 1 to 256 bytes").into());
        }
        if let Some(session) = &contents.session {
            self.adopt_history(&token, run, &session.history_hash)?;
        }
        let mask = self.secrets.mask(&run)?;
        if let (Some(mask), Some(session)) = (&mask, &mut contents.session) {
            mask.text(&mut session.id);
        }
        let is_masked = mask.is_some();
        let id = self.db.write("store a checkpoint", move |tx| {
            let caller = Caller::live(tx, &token, &run)?;
            caller.check_masked(is_masked)?;
            store(tx, caller, &contents)
        })?;
        log::debug!("checkpoint stored; run={run} checkpoint={id}");
        Ok(id)
    }

    /// Whether an attempt may send a partial checkpoint: guests ask before they upload anything.
    pub(crate) fn expect_partial_checkpoint(&self, token: &Tag, run: RunId) -> Result<()> {
        let token = *token;
        self.db.read("check a token", move |tx| Caller::live(tx, &token, &run)).map(drop)
    }

    /// A job's latest checkpoint.
    pub(crate) fn checkpoint(&self, run: RunId) -> Result<Checkpoint> {
        self.db.read("show a checkpoint", move |tx| {
            let (job, _) = find(tx, &run)?;
            let query = "SELECT id, attempt, agent, session, history, raw_size,
                             checkpoints.created, is_partial
                         FROM checkpoints LEFT JOIN histories ON hash = history WHERE job = ?1
                         ORDER BY attempt DESC LIMIT 1";
            let found = tx.query_opt(query, &[&job], |row| {
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
                    partial: row.get(7)?,
                })
            })?;
            let missing = || Refusal::NotFound { what: format!("checkpoint of job {run}") };
            let mut checkpoint = found.ok_or_else(missing)?;
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
            tx.query_one(query, &[&mount.storage_id, &mount.version_id], |row| row.get(0))
        })
    }
}

fn store(tx: &Tx<'_>, caller: Caller, contents: &Contents) -> Outcome<String> {
    let query = "SELECT agent FROM jobs WHERE id = ?1";
    let agent: String = tx.query_one(query, &[&caller.job], |row| row.get(0))?;
    // The agent is absent if it is the default one.
    if !contents.agent.is_empty() && contents.agent != agent {
        return Err(Refusal::bad("`cliAgentType` is not the job's agent").into());
    }
    if contents.is_partial
        && let Some(whole) = whole(tx, caller)?
    {
        return Ok(whole);
    }
    let history = contents.session.as_ref().map(|session| &session.history_hash);
    let query = "SELECT 1 FROM histories WHERE hash = ?1";
    if let Some(history) = history
        && (!is_digest(history) || !tx.exists(query, &[history])?)
    {
        return Err(Refusal::Missing { what: "session history" }.into());
    }
    let add =
        "INSERT INTO checkpoints (id, job, attempt, agent, session, history, created, is_partial)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
               ON CONFLICT (job, attempt) DO UPDATE
               SET session = ?5, history = ?6, is_partial = ?8 RETURNING id";
    let session = contents.session.as_ref().map(|session| &session.id);
    let id = Uuid::new_v4().to_string();
    let partial = contents.is_partial;
    let (job, attempt, now) = (caller.job, caller.attempt, tx.now());
    let row: [&dyn ToValue; 8] = [&id, &job, &attempt, &agent, &session, &history, &now, &partial];
    let id: String = tx.query_one(add, &row, |row| row.get(0))?;
    tx.execute("DELETE FROM snapshots WHERE checkpoint = ?1", &[&id])?;
    for snapshot in &contents.snapshots {
        add_snapshot(tx, caller.job, &id, snapshot)?;
    }
    Ok(id)
}

/// The id of the attempt's complete checkpoint, if any.
fn whole(tx: &Tx<'_>, caller: Caller) -> Outcome<Option<String>> {
    let query = "SELECT id FROM checkpoints WHERE job = ?1 AND attempt = ?2 AND is_partial = 0";
    tx.query_opt(query, &[&caller.job, &caller.attempt], |row| row.get(0))
}

/// Adds an artifact, which must be the job's and have this version.
fn add_snapshot(tx: &Tx<'_>, job: i64, id: &str, snapshot: &Snapshot) -> Outcome<()> {
    let Snapshot { name, version, .. } = snapshot;
    let missing = || Refusal::NotFound { what: format!("such version of artifact `{name}`") };
    let artifacts = mounts(tx, OF_JOB, &job)?;
    let is_there = is_digest(version) && artifacts.iter().any(|mount| mount.name == *name);
    if !is_there {
        return Err(missing().into());
    }
    let add = "INSERT INTO snapshots (checkpoint, name, storage, version, mount_path)
               SELECT ?1, name, mounts.storage, versions.version, mount_path
               FROM mounts JOIN versions ON versions.storage = mounts.storage
               WHERE job = ?2 AND name = ?3 AND versions.version = ?4
               ON CONFLICT DO NOTHING";
    match tx.execute(add, &[&id, &job, name, version])? {
        0 => Err(missing().into()),
        _ => Ok(()),
    }
}

/// Whether a guest's text can be a hash or a version. Another one is no parameter of a query: a database
/// may log those, and it may be a secret.
fn is_digest(text: &str) -> bool {
    base::hex::decode::<32>(text).is_some()
}
