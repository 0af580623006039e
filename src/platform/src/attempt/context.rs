//! The execution context of the contract: the reply to a claim.

use contract::{StorageManifest, StorageMount};
use serde_json::{Map, Value, json};

use crate::RunId;
use crate::backend::Backend;
use crate::db::{Outcome, Tx};
use crate::job::{Mount, OF_JOB, mounts};
use crate::secret::Values;

/// The job's row in the database.
pub(super) struct Context {
    run: RunId,
    agent: String,
    profile: Option<String>,
    prompt: String,
    environment: Map<String, Value>,
    more: Map<String, Value>,
    pub(super) timeout_ms: Option<u64>,
    created: i64,
    session: Option<String>,
    checkpoint: Option<String>,
    history: Option<History>,
    artifacts: Vec<(Mount, Archive)>,
    has_secrets: bool,
    reuse_key: String,
}

/// A session's history.
struct History {
    hash: String,
    encoding: String,
    raw_size: u64,
    blob: String,
    encoded_size: u64,
}

/// A version's archive.
struct Archive {
    blob: String,
    size: u64,
}

impl Context {
    pub(super) fn read(tx: &Tx<'_>, job: i64) -> Outcome<Self> {
        let query = "SELECT run, agent, profile, prompt, environment, context, timeout, created,
                         session, resumed, has_secrets, COALESCE(reuse_key, run) FROM jobs WHERE id = ?1";
        let row = tx.query_one(query, &[&job], |row| {
            let context = Self {
                run: row.get(0)?,
                agent: row.get(1)?,
                profile: row.get(2)?,
                prompt: row.get(3)?,
                environment: Map::new(),
                more: Map::new(),
                timeout_ms: row.get(6)?,
                created: row.get(7)?,
                session: row.get(8)?,
                checkpoint: row.get(9)?,
                history: None,
                artifacts: Vec::new(),
                has_secrets: row.get(10)?,
                reuse_key: row.get(11)?,
            };
            Ok((context, row.get::<String>(4)?, row.get::<String>(5)?))
        });
        let (mut context, environment, more) = row?;
        context.environment = serde_json::from_str(&environment)?;
        context.more = serde_json::from_str(&more)?;
        if let Some(checkpoint) = &context.checkpoint {
            context.history = history(tx, checkpoint)?;
        }
        for mount in mounts(tx, OF_JOB, &job)? {
            let archive = archive(tx, &mount)?;
            context.artifacts.push((mount, archive));
        }
        Ok(context)
    }

    /// The reason for which the job cannot run, if any.
    pub(super) fn flaw(&self, has_found_secrets: bool) -> Option<&'static str> {
        if self.has_secrets && !has_found_secrets {
            return Some("its secrets are gone: submit it again");
        }
        let is_forgotten = self.checkpoint.is_some() && self.history.is_none();
        // A job that started without its session would look like a success.
        is_forgotten.then_some("the session that it resumes is gone")
    }

    /// The context as the contract defines it.
    pub(super) fn json(
        mut self,
        backend: &Backend,
        token: &str,
        secrets: Values,
        base: &str,
    ) -> Value {
        let mut context = std::mem::take(&mut self.more);
        let values: Vec<_> = secrets.values().cloned().collect();
        let secrets = secrets.into_iter().map(|(name, value)| (name, Value::from(value)));
        self.environment.extend(secrets);
        let mut put = |name: &str, value: Value| {
            if !value.is_null() {
                context.insert(name.to_owned(), value);
            }
        };
        put("storageManifest", json!(self.manifest(backend, base)));
        put("resumeSession", self.session(backend, base));
        put("objectStoreUrl", backend.store.origin().into());
        put("runId", json!(self.run));
        put("prompt", self.prompt.into());
        put("sandboxToken", token.into());
        put("cliAgentType", self.agent.into());
        put("reuseKey", self.reuse_key.into());
        put("experimentalProfile", self.profile.into());
        put("environment", self.environment.into());
        put("secretValues", values.into());
        put("apiStartTime", self.created.into());
        put("checkpointId", self.checkpoint.into());
        context.into()
    }

    fn manifest(&self, backend: &Backend, base: &str) -> Option<StorageManifest> {
        let mount = |(mount, archive): &(Mount, Archive)| StorageMount {
            name: Some(mount.name.clone()),
            storage_id: Some(mount.storage_id.clone()),
            version_id: Some(mount.version_id.clone()),
            mount_path: mount.mount_path.clone(),
            archive_url: Some(backend.download_url(base, &archive.blob)),
            archive_size: Some(archive.size),
            writeback: Some(true),
            ..StorageMount::default()
        };
        let mounts: Vec<_> = self.artifacts.iter().map(mount).collect();
        let storage_mounts = Some(mounts).filter(|mounts| !mounts.is_empty());
        storage_mounts
            .is_some()
            .then(|| StorageManifest { storage_mounts, ..StorageManifest::default() })
    }

    fn session(&self, backend: &Backend, base: &str) -> Value {
        let Some(history) = &self.history else {
            return Value::Null;
        };
        json!({
            "sessionId": self.session,
            "historyRef": {
                "kind": "blob",
                "hash": history.hash,
                "url": backend.download_url(base, &history.blob),
                "encoding": history.encoding,
                "rawSize": history.raw_size,
                "encodedSize": history.encoded_size,
            },
        })
    }
}

fn history(tx: &Tx<'_>, checkpoint: &str) -> Outcome<Option<History>> {
    let query = "SELECT hash, encoding, raw_size, blob, encoded_size
                 FROM checkpoints JOIN histories ON hash = history WHERE id = ?1";
    tx.query_opt(query, &[&checkpoint], |row| {
        Ok(History {
            hash: row.get(0)?,
            encoding: row.get(1)?,
            raw_size: row.get(2)?,
            blob: row.get(3)?,
            encoded_size: row.get(4)?,
        })
    })
}

fn archive(tx: &Tx<'_>, mount: &Mount) -> Outcome<Archive> {
    let query = "SELECT archive, archive_size FROM versions WHERE storage = ?1 AND version = ?2";
    tx.query_one(query, &[&mount.storage_id, &mount.version_id], |row| {
        Ok(Archive { blob: row.get(0)?, size: row.get(1)? })
    })
}
