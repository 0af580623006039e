//! Checkpoints: uploads the session's history and the artifacts concurrently, then makes one call that
//! turns them into a checkpoint.
//!
//! A run that succeeds makes a whole checkpoint. A run that fails, or whose whole checkpoint fails,
//! makes a *partial* checkpoint of the parts that could be saved. Platforms may lack the calls for it,
//! so a prepare call asks first: a platform without them receives nothing of a failed run.
//!
//! | thread | does |
//! |---|---|
//! | `checkpoint` | waits for the others, makes the call |
//! | `history` | finds, hashes and uploads the history |
//! | `save-N`, up to 3 | packs, uploads and commits artifacts, one after the other |

mod artifact;
mod history;
mod omission;
mod pack;
mod shape;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use base::error::chain;
use base::thread;
use guest_common::{OperationLog, RunFolder};
use mask::Masker;
use platform_client::{
    HttpClient, PlatformClient, RequestCancellation, RequestLimits, RetryPolicy,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) use self::shape::Shape;

use crate::{Config, Error, Result};

const WHOLE: &str = "/api/webhooks/agent/checkpoints";
const PREPARE_PARTIAL: &str = "/api/webhooks/agent/checkpoints/partial/prepare";
const PARTIAL: &str = "/api/webhooks/agent/checkpoints/partial";
const WARNINGS: &str = "/api/webhooks/agent/warnings";

/// How many artifacts are saved at once.
const SAVE_THREADS: usize = 3;

/// Makes the checkpoint of a run.
pub(crate) struct Checkpoint {
    pub(crate) config: Arc<Config>,
    pub(crate) platform: PlatformClient,
    pub(crate) folder: Arc<RunFolder>,
    pub(crate) operations: Arc<OperationLog>,
    /// The CLI's, with symbolic links resolved.
    pub(crate) working_dir: PathBuf,
    pub(crate) masker: Arc<Masker>,
    /// Cancels all requests and packing.
    pub(crate) stop: RequestCancellation,
}

/// The checkpoint that was made, if any.
#[derive(Debug, Default)]
pub(crate) struct CheckpointResult {
    /// The id of the whole checkpoint.
    pub(crate) whole: Option<String>,
    /// The id of the partial checkpoint.
    pub(crate) partial: Option<String>,
    /// Why a whole checkpoint failed.
    pub(crate) failure: Option<Error>,
    /// Masked warnings about data that was not saved.
    pub(crate) warnings: Vec<String>,
}

/// The parts of a run that were uploaded and committed.
#[derive(Default)]
struct SavedParts {
    session: Option<Session>,
    snapshots: Vec<Snapshot>,
    warnings: Vec<String>,
    /// The first failure.
    failure: Option<Error>,
}

/// A session whose history was uploaded.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    id: String,
    history_hash: String,
}

/// A committed version of an artifact.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Snapshot {
    name: String,
    version: String,
    mount_path: PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CheckpointRequest<'a> {
    run_id: &'a str,
    cli_agent_type: &'a str,
    cli_agent_session_id: &'a str,
    cli_agent_session_history_hash: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    artifact_snapshots: &'a [Snapshot],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PartialCheckpointRequest<'a> {
    run_id: &'a str,
    cli_agent_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a Session>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    artifact_snapshots: &'a [Snapshot],
}

#[derive(Deserialize)]
struct PreparePartialReply {
    accepted: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CheckpointReply {
    checkpoint_id: String,
}

impl Checkpoint {
    /// Makes a whole checkpoint; if that fails, a partial one of the saved parts. `shapes` are those of
    /// the artifacts when the run began. `notes` are added to the warnings.
    pub(crate) fn whole(
        &self,
        session: Option<&str>,
        shapes: &[Shape],
        notes: Vec<String>,
    ) -> CheckpointResult {
        let mut saved = SavedParts::default();
        let made = self.timed("checkpoint_total", || {
            saved = self.save_all(session, shapes)?;
            self.make_whole(&mut saved)
        });
        let made = match made {
            Ok(id) => CheckpointResult { whole: Some(id), ..CheckpointResult::default() },
            Err(error) => {
                let partial =
                    if self.is_partial_accepted() { self.make_partial(&saved) } else { None };
                CheckpointResult { partial, failure: Some(error), ..CheckpointResult::default() }
            }
        };
        self.send_warnings(made, saved, notes)
    }

    /// Makes a partial checkpoint, if the platform accepts one.
    pub(crate) fn partial(
        &self,
        session: Option<&str>,
        shapes: &[Shape],
        notes: Vec<String>,
    ) -> CheckpointResult {
        if !self.is_partial_accepted() {
            return CheckpointResult::default();
        }
        let saved = self.save_all(session, shapes).unwrap_or_else(|error| {
            log::error!("cannot save any part of the run; error={}", chain(&error));
            SavedParts::default()
        });
        let partial = self.make_partial(&saved);
        self.send_warnings(
            CheckpointResult { partial, ..CheckpointResult::default() },
            saved,
            notes,
        )
    }

    fn make_whole(&self, saved: &mut SavedParts) -> Result<String> {
        if let Some(error) = saved.failure.take() {
            return Err(error);
        }
        let session = saved.session.as_ref().ok_or(Error::NoSession)?;
        let request = CheckpointRequest {
            run_id: &self.config.run_id,
            cli_agent_type: self.config.agent.name(),
            cli_agent_session_id: &session.id,
            cli_agent_session_history_hash: &session.history_hash,
            artifact_snapshots: &saved.snapshots,
        };
        self.timed("checkpoint_api_call", || {
            let reply: CheckpointReply = self.post(WHOLE, &request)?;
            Ok(reply.checkpoint_id)
        })
    }

    fn make_partial(&self, saved: &SavedParts) -> Option<String> {
        if saved.session.is_none() && saved.snapshots.is_empty() {
            return None;
        }
        let request = PartialCheckpointRequest {
            run_id: &self.config.run_id,
            cli_agent_type: self.config.agent.name(),
            session: saved.session.as_ref(),
            artifact_snapshots: &saved.snapshots,
        };
        let made = self.timed("partial_checkpoint_api_call", || {
            let reply: CheckpointReply = self.post(PARTIAL, &request)?;
            Ok(reply.checkpoint_id)
        });
        made.inspect_err(|error| {
            log::warn!("cannot make a partial checkpoint; error={}", chain(error));
        })
        .ok()
    }

    /// Asks the platform whether it accepts a partial checkpoint. Most platforms lack the call.
    fn is_partial_accepted(&self) -> bool {
        let request = serde_json::json!({ "runId": self.config.run_id });
        match self.platform.post::<PreparePartialReply>(PREPARE_PARTIAL, &request) {
            Ok(answer) => answer.accepted,
            Err(error) => {
                log::debug!("the platform accepts no partial checkpoint; error={}", chain(&error));
                false
            }
        }
    }

    /// Sends the warnings to the platform. A platform may lack the call; that is no error.
    fn send_warnings(
        &self,
        made: CheckpointResult,
        saved: SavedParts,
        notes: Vec<String>,
    ) -> CheckpointResult {
        let warnings = notes.into_iter().chain(saved.warnings);
        let warnings: Vec<String> =
            warnings.map(|text| self.masker.mask(&text).into_owned()).collect();
        warnings.iter().for_each(|text| log::warn!("{text}"));
        if !warnings.is_empty() {
            let request = serde_json::json!({ "runId": self.config.run_id, "warnings": warnings });
            let sent = self.platform.post::<serde_json::Value>(WARNINGS, &request);
            if let Err(error) = sent {
                log::debug!("the platform accepts no warnings; error={}", chain(&error));
            }
        }
        CheckpointResult { warnings, ..made }
    }

    /// Saves the history and all artifacts concurrently. One that fails does not stop the others.
    fn save_all(&self, session: Option<&str>, shapes: &[Shape]) -> Result<SavedParts> {
        let next = AtomicUsize::new(0);
        let save = || self.save_artifacts(&next, shapes);
        std::thread::scope(|scope| {
            let history = thread::spawn_scoped(scope, "history", || self.save_session(session))
                .map_err(|source| Error::Thread { name: "history", source })?;
            let count = self.config.artifacts.len().min(SAVE_THREADS);
            let start = |number| {
                thread::spawn_scoped(scope, format!("save-{number}"), save)
                    .map_err(|source| Error::Thread { name: "save", source })
            };
            let savers: Vec<_> = (1..=count).map(start).collect();
            let mut saved = SavedParts::default();
            match joined("history", history).and_then(|saved| saved) {
                Ok((session, truncation)) => {
                    saved.session = Some(session);
                    saved.warnings.extend(truncation);
                }
                Err(error) => saved.fail("the session", error),
            }
            let mut artifacts = Vec::new();
            for saver in savers {
                artifacts.extend(joined("save", saver?)?);
            }
            artifacts.sort_by_key(|(index, _)| *index);
            for (index, artifact) in artifacts {
                match artifact {
                    Ok(artifact) => {
                        saved.snapshots.push(artifact.snapshot);
                        saved.warnings.extend(artifact.warnings);
                    }
                    Err(error) => {
                        saved.fail(
                            &format!("artifact {}", self.config.artifacts[index].name),
                            error,
                        );
                    }
                }
            }
            Ok(saved)
        })
    }

    fn save_session(&self, session: Option<&str>) -> Result<(Session, Option<String>)> {
        let session = session.filter(|id| is_file_name(id)).ok_or(Error::NoSession)?;
        let (history_hash, truncation) = history::save(self, session)?;
        Ok((Session { id: session.to_owned(), history_hash }, truncation))
    }

    /// Saves the next artifact, by the shared counter, until none is left.
    fn save_artifacts(
        &self,
        next: &AtomicUsize,
        shapes: &[Shape],
    ) -> Vec<(usize, Result<artifact::SavedArtifact>)> {
        let mut saved = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(artifact) = self.config.artifacts.get(index) else { return saved };
            saved.push((index, artifact::save(self, index, artifact, shapes.get(index))));
        }
    }

    /// Calls the platform. Retries through an outage of up to three minutes.
    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        Ok(self.platform.post_again(&RetryPolicy::through_outage(), path, body)?)
    }

    /// Does `work` and records how long it took.
    fn timed<T>(&self, action: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let result = work();
        let error = result.as_ref().err().map(|error| chain(error));
        self.operations.record(action, began, error.as_deref());
        result
    }

    /// A client for uploads. Each upload sets its own time limit.
    fn uploader(&self) -> HttpClient {
        let silence = std::time::Duration::from_secs(60);
        HttpClient::new(RequestLimits { whole: None, silence, redirects: 0 }, &self.stop)
    }
}

impl SavedParts {
    /// Records that `what` could not be saved.
    fn fail(&mut self, what: &str, error: Error) {
        self.warnings.push(format!("{what} was not saved: {}", chain(&error)));
        self.failure.get_or_insert(error);
    }
}

fn joined<T>(name: &'static str, thread: ScopedJoinHandle<'_, T>) -> Result<T> {
    thread.join().map_err(|_| Error::Panic { name })
}

/// INVARIANT: a session's id is part of paths, so it must not lead out of its folder.
fn is_file_name(id: &str) -> bool {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=128).contains(&id.len()) && id.bytes().all(safe)
}
