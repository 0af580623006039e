//! What a run leaves: the session's history and the artifacts, all at once, and then one call that
//! makes them a checkpoint.
//!
//! A run that succeeds makes a whole one. Any other, and one whose whole one fails, makes a *partial*
//! one of what can be kept, by calls that a platform may refuse: it is asked first, so that a platform
//! without them gets nothing of a run that failed.
//!
//! | thread | does |
//! |---|---|
//! | `checkpoint` | waits for the others, makes the call |
//! | `history` | finds, hashes and uploads the history |
//! | `keep-N`, up to 3 | packs, uploads and commits artifacts, one after the other |

mod artifact;
mod content_hash;
mod gap;
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
use mask::Masker;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) use self::shape::Shape;

use crate::{Config, Error, Result};

const WHOLE: &str = "/api/webhooks/agent/checkpoints";
const PREPARE_PARTIAL: &str = "/api/webhooks/agent/checkpoints/partial/prepare";
const PARTIAL: &str = "/api/webhooks/agent/checkpoints/partial";
const WARNINGS: &str = "/api/webhooks/agent/warnings";

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
    pub(crate) masker: Arc<Masker>,
    /// Ends it at once.
    pub(crate) stop: Stop,
}

/// What became of a checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Made {
    /// The id of the whole one.
    pub(crate) whole: Option<String>,
    /// The id of the partial one.
    pub(crate) partial: Option<String>,
    /// Why there is no whole one, if one was to be made.
    pub(crate) failure: Option<Error>,
    /// What was not kept, masked.
    pub(crate) warnings: Vec<String>,
}

/// What was kept of a run before anything is made of it.
#[derive(Default)]
struct Kept {
    session: Option<Session>,
    snapshots: Vec<Snapshot>,
    warnings: Vec<String>,
    /// The first that failed.
    failure: Option<Error>,
}

/// A session whose history the platform has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    id: String,
    history_hash: String,
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
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    artifact_snapshots: &'a [Snapshot],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PartialRequest<'a> {
    run_id: &'a str,
    cli_agent_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a Session>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    artifact_snapshots: &'a [Snapshot],
}

/// What a platform that takes partial checkpoints answers when it is asked.
#[derive(Deserialize)]
struct Accepted {
    accepted: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reply {
    checkpoint_id: String,
}

impl Checkpoint {
    /// Makes a whole one; if that fails, a partial one of what was kept. The shapes are those that the
    /// artifacts had at the beginning; `notes` are warnings, too.
    pub(crate) fn whole(
        &self,
        session: Option<&str>,
        shapes: &[Shape],
        notes: Vec<String>,
    ) -> Made {
        let mut kept = Kept::default();
        let made = self.timed("checkpoint_total", || {
            kept = self.keep_all(session, shapes)?;
            self.make_whole(&mut kept)
        });
        let made = match made {
            Ok(id) => Made { whole: Some(id), ..Made::default() },
            Err(error) => {
                let partial = if self.is_partial_taken() { self.make_partial(&kept) } else { None };
                Made { partial, failure: Some(error), ..Made::default() }
            }
        };
        self.warned(made, kept, notes)
    }

    /// Makes a partial one, if the platform takes it.
    pub(crate) fn partial(
        &self,
        session: Option<&str>,
        shapes: &[Shape],
        notes: Vec<String>,
    ) -> Made {
        if !self.is_partial_taken() {
            return Made::default();
        }
        let kept = self.keep_all(session, shapes).unwrap_or_else(|error| {
            log::error!("nothing is kept; error={}", chain(&error));
            Kept::default()
        });
        let partial = self.make_partial(&kept);
        self.warned(Made { partial, ..Made::default() }, kept, notes)
    }

    fn make_whole(&self, kept: &mut Kept) -> Result<String> {
        if let Some(error) = kept.failure.take() {
            return Err(error);
        }
        let session = kept.session.as_ref().ok_or(Error::NoSession)?;
        let request = Request {
            run_id: &self.config.run_id,
            cli_agent_type: self.config.agent.name(),
            cli_agent_session_id: &session.id,
            cli_agent_session_history_hash: &session.history_hash,
            artifact_snapshots: &kept.snapshots,
        };
        self.timed("checkpoint_api_call", || {
            let reply: Reply = self.post(WHOLE, &request)?;
            Ok(reply.checkpoint_id)
        })
    }

    fn make_partial(&self, kept: &Kept) -> Option<String> {
        if kept.session.is_none() && kept.snapshots.is_empty() {
            return None;
        }
        let request = PartialRequest {
            run_id: &self.config.run_id,
            cli_agent_type: self.config.agent.name(),
            session: kept.session.as_ref(),
            artifact_snapshots: &kept.snapshots,
        };
        let made = self.timed("partial_checkpoint_api_call", || {
            let reply: Reply = self.post(PARTIAL, &request)?;
            Ok(reply.checkpoint_id)
        });
        made.inspect_err(|error| log::warn!("no partial checkpoint; error={}", chain(error))).ok()
    }

    /// Asks the platform whether it takes a partial one. Most do not know the call.
    fn is_partial_taken(&self) -> bool {
        let request = serde_json::json!({ "runId": self.config.run_id });
        match self.platform.post::<Accepted>(PREPARE_PARTIAL, &request) {
            Ok(answer) => answer.accepted,
            Err(error) => {
                log::debug!("no partial checkpoint is taken; error={}", chain(&error));
                false
            }
        }
    }

    /// Tells the platform what was not kept. One that does not know the call goes without.
    fn warned(&self, made: Made, kept: Kept, notes: Vec<String>) -> Made {
        let warnings = notes.into_iter().chain(kept.warnings);
        let warnings: Vec<String> =
            warnings.map(|text| self.masker.mask(&text).into_owned()).collect();
        warnings.iter().for_each(|text| log::warn!("{text}"));
        if !warnings.is_empty() {
            let request = serde_json::json!({ "runId": self.config.run_id, "warnings": warnings });
            let told = self.platform.post::<serde_json::Value>(WARNINGS, &request);
            if let Err(error) = told {
                log::debug!("no warnings are taken; error={}", chain(&error));
            }
        }
        Made { warnings, ..made }
    }

    /// Keeps the history and all artifacts, each for itself.
    fn keep_all(&self, session: Option<&str>, shapes: &[Shape]) -> Result<Kept> {
        let next = AtomicUsize::new(0);
        let keep = || self.keep_some(&next, shapes);
        thread::scope(|scope| {
            let start = |name: &'static str| {
                let builder = Builder::new().name(name.into());
                builder.spawn_scoped(scope, keep).map_err(|source| Error::Thread { name, source })
            };
            let history = Builder::new()
                .name("history".into())
                .spawn_scoped(scope, || self.keep_session(session))
                .map_err(|source| Error::Thread { name: "history", source })?;
            let count = self.config.artifacts.len().min(KEEPERS);
            let keepers: Vec<_> =
                ["keep-1", "keep-2", "keep-3"].into_iter().take(count).map(start).collect();
            let mut kept = Kept::default();
            match joined("history", history).and_then(|kept| kept) {
                Ok((session, flaw)) => {
                    kept.session = Some(session);
                    kept.warnings.extend(flaw);
                }
                Err(error) => kept.fail("the session", error),
            }
            let mut artifacts = Vec::new();
            for keeper in keepers {
                artifacts.extend(joined("keep", keeper?)?);
            }
            artifacts.sort_by_key(|(index, _)| *index);
            for (index, artifact) in artifacts {
                match artifact {
                    Ok(artifact) => {
                        kept.snapshots.push(artifact.snapshot);
                        kept.warnings.extend(artifact.warnings);
                    }
                    Err(error) => {
                        kept.fail(
                            &format!("artifact {}", self.config.artifacts[index].name),
                            error,
                        );
                    }
                }
            }
            Ok(kept)
        })
    }

    fn keep_session(&self, session: Option<&str>) -> Result<(Session, Option<String>)> {
        let session = session.filter(|id| is_file_name(id)).ok_or(Error::NoSession)?;
        let (history_hash, flaw) = history::keep(self, session)?;
        Ok((Session { id: session.to_owned(), history_hash }, flaw))
    }

    /// Keeps artifacts that nobody else has taken yet, until none is left.
    fn keep_some(
        &self,
        next: &AtomicUsize,
        shapes: &[Shape],
    ) -> Vec<(usize, Result<artifact::Kept>)> {
        let mut kept = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(artifact) = self.config.artifacts.get(index) else { return kept };
            kept.push((index, artifact::keep(self, index, artifact, shapes.get(index))));
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

impl Kept {
    /// Something is not kept at all.
    fn fail(&mut self, what: &str, error: Error) {
        self.warnings.push(format!("{what} is not kept: {}", chain(&error)));
        self.failure.get_or_insert(error);
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
