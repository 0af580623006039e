//! What a run leaves: the session's history and the artifacts, all at once, and then one call that
//! makes them a checkpoint.
//!
//! | thread | does |
//! |---|---|
//! | `checkpoint` | waits for the others, makes the call |
//! | `history` | finds, hashes and uploads the history |
//! | `keep-N`, up to 3 | packs, uploads and commits artifacts, one after the other |

mod artifact;
mod content_hash;
mod history;
mod pack;
mod shape;
mod walk;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Builder, ScopedJoinHandle};
use std::time::Instant;

use guest_common::{Client, Limits, OperationLog, Platform, Retry, RunFolder, Stop, chain};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) use self::shape::Shape;

use crate::{Config, Error, Result};

/// How many artifacts are kept at once.
const KEEPERS: usize = 3;

/// A checkpoint to be made.
pub(crate) struct Checkpoint {
    pub(crate) config: Arc<Config>,
    pub(crate) platform: Platform,
    pub(crate) folder: Arc<RunFolder>,
    pub(crate) operations: Arc<OperationLog>,
    /// The CLI's, with its links followed.
    pub(crate) working_dir: PathBuf,
    /// Ends it at once.
    pub(crate) stop: Stop,
}

/// An artifact as the platform is told of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Snapshot {
    name: String,
    version: String,
    mount_path: PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    run_id: &'a str,
    cli_agent_type: &'a str,
    cli_agent_session_id: &'a str,
    cli_agent_session_history_hash: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    artifact_snapshots: Vec<Snapshot>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reply {
    checkpoint_id: String,
}

impl Checkpoint {
    /// Makes it; returns its id. The shapes are those that the artifacts had at the beginning.
    pub(crate) fn make(&self, session: Option<String>, shapes: &[Shape]) -> Result<String> {
        self.timed("checkpoint_total", || {
            let session = session.filter(|id| is_file_name(id)).ok_or(Error::NoSession)?;
            let (hash, artifact_snapshots) = self.keep_all(&session, shapes)?;
            let request = Request {
                run_id: &self.config.run_id,
                cli_agent_type: self.config.agent.name(),
                cli_agent_session_id: &session,
                cli_agent_session_history_hash: &hash,
                artifact_snapshots,
            };
            self.timed("checkpoint_api_call", || {
                let reply: Reply = self.post("/api/webhooks/agent/checkpoints", &request)?;
                Ok(reply.checkpoint_id)
            })
        })
    }

    /// Keeps the history and all artifacts; the first failure counts, all are logged.
    fn keep_all(&self, session: &str, shapes: &[Shape]) -> Result<(String, Vec<Snapshot>)> {
        let next = AtomicUsize::new(0);
        let keep = || self.keep_some(&next, shapes);
        thread::scope(|scope| {
            let start = |name: &'static str| {
                let builder = Builder::new().name(name.into());
                builder.spawn_scoped(scope, keep).map_err(|source| Error::Thread { name, source })
            };
            let history = Builder::new()
                .name("history".into())
                .spawn_scoped(scope, || history::keep(self, session))
                .map_err(|source| Error::Thread { name: "history", source })?;
            let count = self.config.artifacts.len().min(KEEPERS);
            let keepers: Vec<_> =
                ["keep-1", "keep-2", "keep-3"].into_iter().take(count).map(start).collect();
            let hash = joined("history", history).and_then(|kept| kept);
            let mut kept = Vec::new();
            for keeper in keepers {
                kept.extend(joined("keep", keeper?)?);
            }
            kept.sort_by_key(|(index, _)| *index);
            let snapshots: Result<Vec<Snapshot>> = kept.into_iter().map(|(_, kept)| kept).collect();
            Ok((hash?, snapshots?))
        })
    }

    /// Keeps artifacts that nobody else has taken yet, until none is left.
    fn keep_some(&self, next: &AtomicUsize, shapes: &[Shape]) -> Vec<(usize, Result<Snapshot>)> {
        let mut kept = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(artifact) = self.config.artifacts.get(index) else { return kept };
            let snapshot = artifact::keep(self, index, artifact, shapes.get(index));
            if let Err(error) = &snapshot {
                log::error!(
                    "an artifact is not kept; name={} error={}",
                    artifact.name,
                    chain(error)
                );
            }
            kept.push((index, snapshot));
        }
    }

    /// Calls the platform, through any outage that a run outlives.
    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        Ok(self.platform.post_again(&Retry::through_outage(), path, body)?)
    }

    /// Does something, and notes how long it took.
    fn timed<T>(&self, action: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let result = work();
        let error = result.as_ref().err().map(|error| chain(error));
        self.operations.record(action, began, error.as_deref());
        result
    }

    /// A client for uploads: each says for itself how long it may take.
    fn uploader(&self) -> Client {
        let silence = std::time::Duration::from_secs(60);
        Client::new(Limits { whole: None, silence, redirects: 0 }, &self.stop)
    }
}

fn joined<T>(name: &'static str, thread: ScopedJoinHandle<'_, T>) -> Result<T> {
    thread.join().map_err(|_| Error::Panic { name })
}

/// INVARIANT: a session's id is part of paths, so it leads nowhere else.
fn is_file_name(id: &str) -> bool {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=128).contains(&id.len()) && id.bytes().all(safe)
}
