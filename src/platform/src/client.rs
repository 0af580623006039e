//! The client of operators and submitters: over the Unix socket of the platform on this host, or over HTTP with a
//! token.
//!
//! INVARIANT: the token is sent to the platform's addresses only, not to a store.

mod address;
mod connection;
mod exchange;
mod follow;
mod remote;
#[cfg(test)]
mod tests;
mod transfer;

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use self::connection::{Calls, Connection};
use self::exchange::{Call, Payload, Reply, exchange};
pub use self::follow::Follow;
use self::remote::Remote;
pub use self::remote::RemotePlatform;
use self::transfer::{Transfers, is_elsewhere};
use crate::api::{Prune, escape};
use crate::clock::{iso8601, now_ms};
use crate::fleet::Order;
use crate::storage::{
    Committed, Manifest, PartUploads, Parts, Prepared, StorageRequest, UploadUrl,
};
use crate::{
    Checkpoint, CreatedToken, Error, Event, Job, Mount, NewToken, Page, Pruned, Result, RunId,
    Runner, Submission, Submitted, Telemetry, Token, folder, pack,
};

/// The maximum duration of one long poll.
const HOLD: Duration = Duration::from_secs(20);

/// A folder for a job.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// Its name. Folders of the same name are versions of one storage.
    pub name: String,
    /// The folder on this host.
    pub folder: PathBuf,
    /// The mount point in the VM, absolute.
    pub mount_path: String,
}

/// A client of a platform.
#[derive(Clone)]
pub struct Client {
    place: Place,
    /// Shared by all clones.
    calls: Arc<Calls>,
    /// The requests to an object store.
    transfers: Transfers,
}

/// Where the platform is.
#[derive(Clone)]
enum Place {
    /// On this host, at this socket.
    Here(PathBuf),
    Elsewhere(Arc<Remote>),
}

/// Prints no token.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// A client of the platform that serves a state folder, now or later.
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self {
            place: Place::Here(folder::socket(state)),
            calls: Arc::default(),
            transfers: Transfers::default(),
        }
    }

    /// A client of a platform elsewhere. It sends nothing yet.
    pub fn remote(platform: RemotePlatform) -> Result<Self> {
        let remote = Arc::new(Remote::new(platform)?);
        let (calls, transfers) = (Arc::default(), Transfers::default());
        Ok(Self { place: Place::Elsewhere(remote), calls, transfers })
    }

    /// Submits a job. From elsewhere it gets an idempotency key if it has none, so that another address of the
    /// platform can be asked when one goes away.
    pub fn submit(&self, submission: &Submission) -> Result<Submitted> {
        match &self.place {
            Place::Here(_) => self.post("/v1/jobs", submission),
            Place::Elsewhere(_) => {
                let mut keyed = submission.clone();
                keyed.key.get_or_insert_with(|| Uuid::new_v4().to_string());
                self.post_repeatable("/v1/jobs", &keyed)
            }
        }
    }

    /// Packs a folder, and uploads it unless the platform has the same content. The mount is for
    /// [`Submission::artifacts`].
    pub fn upload(&self, artifact: &Artifact) -> Result<Mount> {
        let packed = pack::pack(&artifact.folder)?;
        let mut request = StorageRequest {
            storage_name: Some(artifact.name.clone()),
            archive_hash: Some(packed.hash),
            archive_size: Some(packed.size),
            files: packed.files,
            ..StorageRequest::default()
        };
        let prepared: Prepared = self.post_repeatable("/v1/storages/prepare", &request)?;
        if let Some(uploads) = prepared.uploads {
            request.parts = self.send_archive(&packed.archive, packed.size, uploads.archive)?;
            let created_at = iso8601(now_ms());
            let manifest = Manifest { version: 1, files: request.files, created_at };
            let url = &uploads.manifest.presigned_url;
            if is_elsewhere(url) {
                self.transfers.put_bytes(url, &Payload::to_json(&manifest)?)?;
            } else {
                self.ask("PUT", url, Payload::json(&manifest)?)?.finish()?;
            }
            request.files = manifest.files;
            request.version_id = Some(prepared.version_id.clone());
            let _: Committed = self.post_repeatable("/v1/storages/commit", &request)?;
        }
        Ok(Mount {
            name: artifact.name.clone(),
            storage_id: prepared.storage_id,
            version_id: prepared.version_id,
            mount_path: artifact.mount_path.clone(),
        })
    }

    /// The latest jobs, newest first; with `before`, those older than that job.
    pub fn jobs(&self, before: Option<RunId>, limit: u32) -> Result<Vec<Job>> {
        let before = before.map_or(String::new(), |run| format!("&before={run}"));
        self.get(&format!("/v1/jobs?limit={limit}{before}"))
    }

    /// A job by its id or a unique prefix of it, of at least four digits.
    pub fn job(&self, id: &str) -> Result<Job> {
        if !is_plain(id) {
            return Err(crate::Refusal::NoSuchPrefix { prefix: id.to_owned() }.into());
        }
        self.get(&format!("/v1/jobs/{id}"))
    }

    /// Waits until a job has ended, or fails at the deadline.
    pub fn wait(&self, run: RunId, deadline: Option<Instant>) -> Result<Job> {
        loop {
            let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
            let hold = left.map_or(HOLD, |left| left.min(HOLD)).as_millis();
            let job: Job = self.get(&format!("/v1/jobs/{run}/end?hold={hold}"))?;
            if job.status.is_final() {
                return Ok(job);
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Err(Error::Deadline);
            }
        }
    }

    /// The events after a position (from 0). Waits up to `hold` if there are none.
    pub fn events(&self, run: RunId, after: i64, hold: Duration) -> Result<Page<Event>> {
        self.page("events", run, after, hold)
    }

    /// All events after a position, including future ones, until the job has ended.
    #[must_use]
    pub fn follow(&self, run: RunId, after: i64) -> Follow<Event> {
        let client = self.clone();
        Follow::new(after, Box::new(move |after| client.events(run, after, HOLD)))
    }

    /// Logs, metrics and operations after a position (from 0). Waits up to `hold` if there are
    /// none.
    pub fn telemetry(&self, run: RunId, after: i64, hold: Duration) -> Result<Page<Telemetry>> {
        self.page("telemetry", run, after, hold)
    }

    /// All telemetry after a position, including future entries, until the job has ended.
    #[must_use]
    pub fn follow_telemetry(&self, run: RunId, after: i64) -> Follow<Telemetry> {
        let client = self.clone();
        Follow::new(after, Box::new(move |after| client.telemetry(run, after, HOLD)))
    }

    /// Requests the cancellation of a job.
    pub fn cancel(&self, run: RunId) -> Result<()> {
        self.ask("POST", &format!("/v1/jobs/{run}/cancel"), Payload::Empty)?.finish()
    }

    /// A job's latest checkpoint.
    pub fn checkpoint(&self, run: RunId) -> Result<Checkpoint> {
        self.get(&format!("/v1/jobs/{run}/checkpoint"))
    }

    /// Copies the archive of an artifact (tar, gzip or zstd) as the job's checkpoint has it.
    pub fn artifact(&self, run: RunId, name: &str, to: &mut dyn Write) -> Result<u64> {
        let path = format!("/v1/jobs/{run}/artifacts/{}", escape(name));
        let reply = self.ask("GET", &path, Payload::Empty)?;
        match reply.location() {
            Some(url) => self.transfers.get(url, to),
            None => reply.copy(to),
        }
    }

    /// The runners that sent a heartbeat in the last hour, and the drained ones.
    pub fn runners(&self) -> Result<Vec<Runner>> {
        self.get("/v1/runners")
    }

    /// Makes a token. Its secret is in the reply only.
    pub fn create_token(&self, new: &NewToken) -> Result<CreatedToken> {
        self.post("/v1/tokens", new)
    }

    /// All tokens, by name.
    pub fn tokens(&self) -> Result<Vec<Token>> {
        self.get("/v1/tokens")
    }

    /// Revokes a token, for all platforms that share the database.
    pub fn revoke_token(&self, name: &str) -> Result<()> {
        if !is_plain(name) {
            return Err(crate::Refusal::NoToken { name: name.to_owned() }.into());
        }
        self.ask("POST", &format!("/v1/tokens/{name}/revoke"), Payload::Empty)?.finish()
    }

    /// A runner, by its name, its id or a prefix of that, gets no more jobs. What runs there ends there.
    pub fn drain(&self, runner: &str) -> Result<Runner> {
        self.rule(runner, Order::Drain)
    }

    /// A drained runner gets jobs again.
    pub fn undrain(&self, runner: &str) -> Result<Runner> {
        self.rule(runner, Order::Undrain)
    }

    /// An unhealthy runner gets jobs again at once.
    pub fn clear(&self, runner: &str) -> Result<Runner> {
        self.rule(runner, Order::Clear)
    }

    fn rule(&self, runner: &str, order: Order) -> Result<Runner> {
        let path = format!("/v1/runners/{}/{}", escape(runner), order.name());
        self.ask("POST", &path, Payload::Empty)?.json()
    }

    /// Removes jobs that ended longer than `keep` ago, and unreferenced content. Unreferenced
    /// uploads of the last day stay, unless `keep` is shorter than that.
    pub fn prune(&self, keep: Duration) -> Result<Pruned> {
        let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        self.post("/v1/prune", &Prune { keep_ms })
    }

    /// Cancels the requests of this client and its clones, from any thread: those under way and
    /// later ones fail with [`Error::Cut`].
    pub fn cut(&self) {
        self.calls.cut();
        self.transfers.cancel();
    }

    /// Uploads an archive to the platform, or to its object store: in parts if it is large.
    fn send_archive(&self, archive: &File, size: u64, to: UploadUrl) -> Result<Option<Parts>> {
        if let Some(PartUploads { parts, part_size, urls }) = to.parts {
            let mut offset = 0;
            for url in &urls {
                let length = part_size.min(size.saturating_sub(offset));
                self.transfers.put(url, (archive, offset), length)?;
                offset += length;
            }
            return Ok(Some(parts));
        }
        let url = &to.presigned_url;
        if is_elsewhere(url) {
            self.transfers.put(url, (archive, 0), size)?;
        } else {
            self.ask("PUT", url, Payload::File(archive, size))?.finish()?;
        }
        Ok(None)
    }

    fn page<T: DeserializeOwned>(
        &self,
        what: &str,
        run: RunId,
        after: i64,
        hold: Duration,
    ) -> Result<Page<T>> {
        let hold = hold.as_millis();
        self.get(&format!("/v1/jobs/{run}/{what}?after={after}&hold={hold}"))
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.ask("GET", path, Payload::Empty)?.json()
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.ask("POST", path, Payload::json(body)?)?.json()
    }

    fn post_repeatable<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.ask("POST", path, Payload::repeatable(body)?)?.json()
    }

    fn ask(&self, method: &str, path: &str, payload: Payload<'_>) -> Result<Reply> {
        match &self.place {
            Place::Here(socket) => {
                let connection = Connection::to_socket(socket, &self.calls)?;
                let call = Call { method, host: "platform", path, headers: "" };
                exchange(connection, &self.calls, &call, &payload)
            }
            Place::Elsewhere(remote) => self.ask_remote(remote, method, path, &payload),
        }
    }

    /// Asks the first address that answers. If it goes away meanwhile, the next one is asked, unless the request
    /// may have had its effect.
    fn ask_remote(
        &self,
        remote: &Remote,
        method: &str,
        path: &str,
        payload: &Payload<'_>,
    ) -> Result<Reply> {
        // What is presigned needs no token.
        let authorization = path.starts_with("/v1/").then(|| remote.authorization());
        let headers = authorization.as_deref().unwrap_or_default();
        let mut left = remote.count();
        loop {
            let (address, connection) = remote.connect(&self.calls)?;
            let call = Call { method, host: &address.authority, path, headers };
            let error = match exchange(connection, &self.calls, &call, payload) {
                Err(error) if error.is_of_the_connection() => error,
                other => return other,
            };
            remote.pass_over(address);
            left -= 1;
            let is_repeatable = method == "GET" || matches!(payload, Payload::Repeatable(_));
            if left == 0 || !is_repeatable {
                return Err(error);
            }
        }
    }
}

/// Whether a name is a segment of a path, and selects no other one.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name != "." && name != ".." && name.chars().all(plain)
}
